"""From a net to a file that has been held against it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wszoo.exporting.checking import Check, check, check_batches
from wszoo.exporting.formats import run_onnx, run_program, to_onnx, to_onnx_by_tracing, to_program
from wszoo.exporting.graphs import graph_of, output_names
from wszoo.exporting.latency import Latency, time_all
from wszoo.exporting.plan import Plan
from wszoo.exporting.subject import Subject
from wszoo.layers import is_folded
from wszoo.weights_file import write_whole


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written.

    Attributes:
        path: Where.
        bytes: How large.
        dynamic: Whether batch, height and width are free.
        metadata: What the file says of itself.
        check: How far it is from torch; None where it was not checked.
        latency: Before and after; None where it was not asked for.
    """

    path: Path
    bytes: int
    dynamic: bool
    metadata: dict[str, str]
    check: Check | None = None
    latency: Latency | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        _, channels, height, width = json.loads(self.metadata["input"])
        shape = f"(N, {channels}, H, W)" if self.dynamic else f"(1, {channels}, {height}, {width})"
        kind = {"0..1": "in 0..1", "normalised": "normalised"}[self.metadata["values"]]
        lines = [
            f"{self.path}: {self.bytes} bytes; images {shape} {kind} to {self.metadata['outputs']}",
            "not checked" if self.check is None else str(self.check),
        ]
        return "\n".join([*lines, *([] if self.latency is None else [str(self.latency)])])


def export(
    subject: Subject,
    plan: Plan,
    *,
    is_checked: bool = True,
    rounds: int = 0,
    photos: Sequence[Tensor] = (),
) -> Exported:
    """Write a folded net as a file, after it was run beside the net itself.

    The file is there whole or not at all: what fails the check is not written, and an earlier file
    stays.

    Args:
        subject: Left as it is.
        plan: What to write.
        is_checked: Run the file, and refuse to write one that differs.
        rounds: Of timing; 0 times nothing.
        photos: ``(C, H, W)`` in 0..1, for the check beside noise.

    Raises:
        CheckFailed: The file differs from torch.
        OSError: It cannot be written.
        ValueError: torch cannot export such a net.
    """
    size = plan.size or subject.size
    batches = check_batches(subject, plan, size, photos)
    # A batch of one would be taken for a constant, and sides that are alike or even for a rule.
    height, width = size
    many = (2, len(subject.mean), height + 33, width + 6)
    example = torch.zeros(many) if plan.dynamic else batches[0]
    graph = graph_of(subject, plan).requires_grad_(False)
    shape = (1, len(subject.mean), *size)
    outputs = output_names(subject)
    facts = _metadata(subject, plan, shape, outputs, folded=is_folded(graph))
    if not plan.is_onnx:
        content = to_program(graph, example, plan, facts)
    elif subject.task == "detect":
        content = to_onnx_by_tracing(graph, example, plan, outputs, facts)
    else:
        content = to_onnx(graph, example, plan, outputs, facts)
    checked = latency = None
    if is_checked or rounds:
        run = run_onnx(content) if plan.is_onnx else run_program(content)
        reference = graph_of(subject, plan, folded=False)
        if is_checked:
            checked = check(reference, run, subject, batches)
        if rounds:
            latency = time_all(reference, graph, run, batches[0], rounds=rounds)
    write_whole(plan.path, content)
    return Exported(
        path=plan.path,
        bytes=len(content),
        dynamic=plan.dynamic,
        metadata=facts,
        check=checked,
        latency=latency,
    )


def _metadata(
    subject: Subject,
    plan: Plan,
    shape: tuple[int, ...],
    outputs: tuple[str, ...],
    *,
    folded: bool,
) -> dict[str, str]:
    from wszoo import __version__

    return subject.metadata() | {
        "input": json.dumps(shape),
        "values": "0..1" if plan.preprocessing else "normalised",
        "outputs": ", ".join(outputs),
        "folded": json.dumps(folded),
        "wszoo": __version__,
    }
