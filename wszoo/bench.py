"""How fast the zoo is beside a peer, as ratios from one interleaved run on the CPU.

A time in milliseconds says as much about the machine and its other work as about the code, and two
times taken minutes apart cannot be compared. So both sides run in turn (A B, B A, A B, ...), each
round gives one ratio of neighbours, and the median over rounds is what counts; load that comes and
goes hits both sides of a pair alike. The milliseconds are there for scale.
"""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.norm import GroupNorm
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn

from wszoo.layers import WSConv2d, fold, groups_for, standardize_weight
from wszoo.ws_resnet import WSResNet

Work = Callable[[], object]
Operator = Callable[[Tensor], Tensor]

PEERS = ("timm", "bn")
IMAGE_SIZE = 224  # pixels
_WS_GOAL = 0.75
_INFERENCE_GOAL = 0.75
_IMPORT_GOAL = 1.05
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement of ours beside theirs.

    Attributes:
        name: What was timed.
        ours_ms: Median milliseconds of ours.
        theirs_ms: Median milliseconds of the peer.
        ratio: Median over rounds of ours divided by theirs.
        goal: What the ratio should not exceed; None where the row only informs.
    """

    name: str
    ours_ms: float
    theirs_ms: float
    ratio: float
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio is within the goal; None where there is no goal."""
        return None if self.goal is None else self.ratio <= self.goal


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows of one run.

    Attributes:
        model: The variant.
        peer: What it was compared with.
        rounds: How often both sides ran, except for imports.
        threads: Threads torch ran on.
        rows: What was measured.
    """

    model: str
    peer: str
    rounds: int
    threads: int
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields, and for each row whether its goal is met, as JSON takes them."""
        rows = [{**asdict(row), "met": row.met} for row in self.rows]
        return {**asdict(self), "rows": rows}

    def __str__(self) -> str:
        verdicts = {None: "-", True: "met", False: "missed"}
        cells = [("", "ours_ms", "theirs_ms", "ratio", "goal", "")]
        for row in self.rows:
            goal = "-" if row.goal is None else f"{row.goal:.2f}"
            times = (f"{row.ours_ms:.1f}", f"{row.theirs_ms:.1f}", f"{row.ratio:.2f}")
            cells.append((row.name, *times, goal, verdicts[row.met]))
        width = max(len(line[0]) for line in cells)
        lines = [f"{self.model} against {self.peer}, {self.rounds} rounds, {self.threads} threads"]
        for name, *values in cells:
            line = name.ljust(width) + "".join(f"{value:>11}" for value in values)
            lines.append(line.rstrip())
        return "\n".join(lines)


def compare(
    model: str,
    *,
    against: str = "timm",
    rounds: int = 9,
    threads: int | None = None,
    import_pairs: int = 5,
) -> Comparison:
    """Time a variant beside a peer of the same architecture, with random weights.

    ``"timm"``: the WS operator forward and backward over all kernels, and inference, beside
    timm's ``StdConv2d`` with GroupNorm; and ``import wszoo`` beside ``import timm``.
    ``"bn"``: inference beside timm's BatchNorm net.

    Args:
        model: A variant of this zoo; a tag is ignored.
        against: ``"timm"`` or ``"bn"``.
        rounds: How often both sides run, after one round of warming up.
        threads: Threads of torch while it lasts; as they are where None.
        import_pairs: How many pairs of interpreters are started to time the imports (seconds
            each); 0 leaves that row out.

    Raises:
        ValueError: There is no such peer, ``model`` is not of this zoo, or a count is too small.
    """
    if against not in PEERS:
        raise ValueError(f"no peer {against!r} to compare with; the peers: {', '.join(PEERS)}")
    for name, count, least in (("rounds", rounds, 1), ("import_pairs", import_pairs, 0)):
        if count < least:
            raise ValueError(f"{name} must be at least {least}, got {count}")
    variant = model.split(".")[0]
    if variant not in timm.list_models(module="ws_resnet"):
        raise ValueError(f"{model!r} is no variant of this zoo; `wszoo list` shows them")
    ours = timm.create_model(variant).eval()
    assert isinstance(ours, WSResNet)
    _keep_pages()
    with _threads(threads):
        if against == "bn":
            twin = timm_twin(ours, variant, norm_layer=nn.BatchNorm2d, conv=nn.Conv2d)
            rows = _inference(ours, twin, rounds, goal=None)
            peer = f"timm {timm.__version__} with BatchNorm"
        else:
            twin = timm_twin(ours, variant)
            rows = [*_operator(ours, rounds), *_inference(ours, twin, rounds, _INFERENCE_GOAL)]
            if import_pairs:
                rows.append(_imports(import_pairs))
            peer = f"timm {timm.__version__} with StdConv2d and GroupNorm"
        used = torch.get_num_threads()
    return Comparison(model=variant, peer=peer, rounds=rounds, threads=used, rows=tuple(rows))


def interleave(contenders: Sequence[Work], rounds: int) -> list[list[float]]:
    """Seconds that each contender took in each round, the order reversed every other round.

    All run once beforehand, untimed.
    """
    for work in contenders:
        work()
    seconds: list[list[float]] = [[] for _ in contenders]
    turns = list(zip(contenders, seconds, strict=True))
    for index in range(rounds):
        for work, taken in turns if index % 2 == 0 else reversed(turns):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return seconds


def to_row(
    name: str, ours: Sequence[float], theirs: Sequence[float], goal: float | None = None
) -> Row:
    """Sum up the seconds of paired rounds."""
    return Row(
        name=name,
        ours_ms=1e3 * median(ours),
        theirs_ms=1e3 * median(theirs),
        ratio=median(a / b for a, b in zip(ours, theirs, strict=True)),
        goal=goal,
    )


def timm_standardize(weight: Tensor) -> Tensor:
    """What ``timm.layers.StdConv2d.forward`` does to its kernel, with its default eps."""
    rows = weight.reshape(1, weight.shape[0], -1)
    return F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(weight)


def _group_norm(num_channels: int, **kwargs: Any) -> GroupNorm:
    """The norm of timm, with as many groups as ours where 32 do not divide the channels."""
    return GroupNorm(num_channels, groups_for(num_channels), **kwargs)


def timm_twin(
    model: WSResNet,
    variant: str,
    *,
    norm_layer: Callable[..., nn.Module] = _group_norm,
    conv: type[nn.Conv2d] = StdConv2d,
) -> nn.Module:
    """The same architecture from timm's layers, sharing kernels and classifier with ``model``.

    Args:
        model: The net that shares its weights.
        variant: What ``model`` was created as.
        norm_layer: Makes the norm for a number of channels.
        conv: The class that stands for ``WSConv2d``.
    """
    twin: nn.Module = timm.create_model(variant, norm_layer=norm_layer)
    for path, layer in model.named_modules():
        if isinstance(layer, WSConv2d):
            twin.set_submodule(path, _like(layer, conv))
    twin.set_submodule("fc", model.get_submodule("fc"))
    return twin.eval()


def _like(layer: WSConv2d, kind: type[nn.Conv2d]) -> nn.Conv2d:
    twin = kind(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        groups=layer.groups,
        bias=layer.bias is not None,
    )
    twin.weight, twin.bias = layer.weight, layer.bias
    return twin


def _operator(model: WSResNet, rounds: int) -> list[Row]:
    raw = [m.weight.detach() for m in model.modules() if isinstance(m, WSConv2d)]
    rows = []
    for layout, format in (
        ("contiguous", torch.contiguous_format),
        ("channels_last", torch.channels_last),
    ):
        weights = [w.clone(memory_format=format).requires_grad_() for w in raw]
        grads = [torch.randn_like(w) for w in weights]
        sides = (standardize_weight, timm_standardize)
        works = [partial(_forward_backward, side, weights, grads) for side in sides]
        ours, theirs = interleave(works, rounds)
        name = f"WS forward+backward over all conv weights, {layout}"
        rows.append(to_row(name, ours, theirs, _WS_GOAL))
    return rows


def _forward_backward(operator: Operator, weights: list[Tensor], grads: list[Tensor]) -> None:
    """All kernels live until the backward pass, as in a training step."""
    torch.autograd.grad([operator(weight) for weight in weights], weights, grads)


def _keep_pages() -> None:
    """Have the C library keep freed memory, as it does by itself in a long-lived process.

    Otherwise whichever side allocates right after a large block was given back waits for the
    kernel to clear fresh pages: in a young process that is up to half of what is timed. Both sides
    run under the same setting; it lasts as long as the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # glibc's; others decide for themselves
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(parameter, 1 << 30)


def _inference(ours: WSResNet, twin: nn.Module, rounds: int, goal: float | None) -> list[Row]:
    folded = fold(deepcopy(ours))
    image = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.inference_mode():
        works = [partial(net, image) for net in (folded, ours, twin)]
        of_folded, of_ours, of_twin = interleave(works, rounds)
    what = f"inference, batch 1, {IMAGE_SIZE} px"
    return [
        to_row(f"folded {what}", of_folded, of_twin, goal),
        to_row(f"unfolded {what}", of_ours, of_twin),
    ]


def _imports(pairs: int) -> Row:
    both, alone = interleave([_interpreter("timm, wszoo"), _interpreter("timm")], pairs)
    return to_row("import wszoo", both, alone, _IMPORT_GOAL)


def _interpreter(modules: str) -> Work:
    """A fresh interpreter that imports ``modules``, this very package among them."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))

    def work() -> object:
        command = [sys.executable, "-c", f"import {modules}"]
        return subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})

    return work


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
