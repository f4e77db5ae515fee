"""A module as the bytes of a file, and the bytes as something to call."""

import io
import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from wszoo.exporting.graphs import INPUT
from wszoo.exporting.plan import DETECTOR_OPSETS, Plan

Runner = Callable[[Tensor], tuple[Tensor, ...]]

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
METADATA_FILE = "wszoo.json"  # in a program
_AXES = {0: "batch", 2: "height", 3: "width"}
# What the exporter by tracing says of itself, and of branches in torchvision's code that depend on
# the size of the image: the size is fixed, and the check runs the file.
_NOISE = (
    ("You are using the legacy TorchScript-based ONNX export", DeprecationWarning),
    ("The feature will be removed", DeprecationWarning),
    ("`torch.jit.script` is deprecated", FutureWarning),
    ("`torch.jit.script` is deprecated", DeprecationWarning),
    ("To copy construct from a tensor", UserWarning),
    ("Constant folding - Only steps=1", UserWarning),  # left as it is, which is right
    # Wrong for negative indices; those of torchvision's detectors count from the front.
    ("Exporting aten::index operator of advanced indexing", UserWarning),
    ("", torch.jit.TracerWarning),  # type: ignore[attr-defined]
)


def missing_packages() -> list[str]:
    """Those that ONNX needs and that are not installed."""
    return [package for package in PACKAGES if find_spec(package) is None]


def to_onnx(
    graph: nn.Module, example: Tensor, plan: Plan, outputs: tuple[str, ...], facts: dict[str, str]
) -> bytes:
    """``graph`` as ONNX, by torch's exporter of programs.

    Raises:
        ValueError: torch cannot, or not in that opset; the message says why.
    """
    names: dict[str, Any] = dict(input_names=[INPUT], output_names=list(outputs), verbose=False)
    with _told_in_one_line(plan):
        program = _program(graph, example, plan)
        written = torch.onnx.export(program, (example,), opset_version=plan.opset, **names)
    assert written is not None
    model = written.model_proto
    _name_axes(model)
    return _finished(model, plan, facts)


def to_onnx_by_tracing(
    graph: nn.Module, example: Tensor, plan: Plan, outputs: tuple[str, ...], facts: dict[str, str]
) -> bytes:
    """``graph`` as ONNX, by TorchScript, for which torchvision's detectors were written.

    Raises:
        ValueError: As for ``to_onnx``.
    """
    import onnx

    opset = plan.opset or DETECTOR_OPSETS[0]
    names: dict[str, Any] = dict(input_names=[INPUT], output_names=list(outputs))
    file = io.BytesIO()
    with _told_in_one_line(plan), warnings.catch_warnings():
        for message, category in _NOISE:
            warnings.filterwarnings("ignore", message, category)
        options = names | {"f": file, "opset_version": opset, "dynamo": False}
        torch.onnx.export(graph, (example,), **options)
    return _finished(onnx.load_from_string(file.getvalue()), plan, facts)


def to_program(graph: nn.Module, example: Tensor, plan: Plan, facts: dict[str, str]) -> bytes:
    """``graph`` as ``torch.export.save`` writes it; ``facts`` are the extra file ``wszoo.json``.

    Raises:
        ValueError: torch cannot; the message says why.
    """
    file = io.BytesIO()
    with _told_in_one_line(plan):
        program = _program(graph, example, plan)
        torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(facts)})
    return file.getvalue()


def run_onnx(content: bytes) -> Runner:
    """A file of ONNX to call, in onnxruntime on the CPU with as many threads as torch has."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; warnings tell of constants that were folded
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, options, providers=providers)
    return lambda images: tuple(
        torch.from_numpy(array) for array in session.run(None, {INPUT: images.numpy()})
    )


def run_program(content: bytes) -> Runner:
    """A program to call."""
    call = torch.export.load(io.BytesIO(content)).module()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        answer = call(images)
        return answer if isinstance(answer, tuple) else (answer,)

    return run


def _program(graph: nn.Module, example: Tensor, plan: Plan) -> torch.export.ExportedProgram:
    free = dict.fromkeys(_AXES, torch.export.Dim.DYNAMIC) if plan.dynamic else {}
    return torch.export.export(graph, (example,), dynamic_shapes=(free,))


@contextmanager
def _told_in_one_line(plan: Plan) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # exporters wrap what they stumbled over
            cause = cause.__cause__
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        way_out = "; --static may do" if plan.dynamic else ""
        message = f"torch cannot export this net to {plan.path.name}: {reason}{way_out}"
        raise ValueError(message) from error


def _finished(model: Any, plan: Plan, facts: dict[str, str]) -> bytes:
    """The bytes, with ``facts``, and without the traces of where torch was run."""
    import onnx

    (opset,) = (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if plan.opset not in (None, opset):
        raise ValueError(
            f"torch wrote opset {opset} where {plan.opset} was asked for; name {opset}"
        )
    _strip(model.graph)
    for function in model.functions:
        _strip(function)
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _strip(graph: Any) -> None:
    del graph.metadata_props[:]
    graph.doc_string = ""
    values = [getattr(graph, kind, ()) for kind in ("input", "output", "value_info", "initializer")]
    for item in (
        *graph.node,
        *(item for kind in values for item in kind if not isinstance(item, str)),
    ):
        del item.metadata_props[:]
        item.doc_string = ""
        for attribute in getattr(item, "attribute", ()):
            if attribute.HasField("g"):
                _strip(attribute.g)


def _name_axes(model: Any) -> None:
    """Call free axes by what they are instead of ``s34``."""
    (images,) = model.graph.input
    dims = images.type.tensor_type.shape.dim
    names = {dims[axis].dim_param: name for axis, name in _AXES.items() if dims[axis].dim_param}
    if not names:
        return
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda found: names[found[0]], dim.dim_param)
