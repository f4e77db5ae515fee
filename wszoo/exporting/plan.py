"""What an exported file is to be, settled before anything is loaded or computed."""

from dataclasses import dataclass
from pathlib import Path

from wszoo.finetune.settings import TaskName

FORMATS = (".onnx", ".pt2")
LEAST_OPSET = 18  # that torch's exporters write GroupNorm and resizing with
DETECTOR_OPSETS = (18, 20)  # of torch's exporter by tracing
_LEAST_SIDE = 64  # pixels; two by two at stride 32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to export; ``make_plan`` makes it.

    Attributes:
        path: File to write; its suffix is the format.
        size: Height and width of images in pixels, the only ones where the file is not dynamic;
            None takes those that the weights were measured at.
        dynamic: Whether batch, height and width are free in the file.
        preprocessing: Whether mean and deviation are in the file, so that it takes 0..1.
        opset: Of ONNX; None takes the exporter's own.
    """

    path: Path
    size: tuple[int, int] | None
    dynamic: bool
    preprocessing: bool = True
    opset: int | None = None

    @property
    def is_onnx(self) -> bool:
        """Whether it is ONNX, or else a program of torch."""
        return self.path.suffix == ".onnx"


def make_plan(
    path: Path,
    task: TaskName,
    *,
    size: tuple[int, int] | None = None,
    dynamic: bool | None = None,
    preprocessing: bool = True,
    opset: int | None = None,
) -> Plan:
    """Settle what a file is to be.

    Args:
        path: File to write, ``.onnx`` or ``.pt2``.
        task: Of the net.
        size: Height and width in pixels; None takes those of the weights.
        dynamic: None makes it as free as the task allows.
        preprocessing: Only classifiers can be left without.
        opset: Of ONNX.

    Raises:
        ValueError: There is no such file, and why.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} must end in {' or '.join(FORMATS)}")
    if size is not None and min(size) < _LEAST_SIDE:
        raise ValueError(
            f"images of {size[0]} x {size[1]} pixels are too small; {_LEAST_SIDE} a side are needed"
        )
    if task != "classify" and not preprocessing:
        raise ValueError(f"a net to {task} normalises images itself; leave the preprocessing in")
    if opset is not None and path.suffix != ".onnx":
        raise ValueError(f"{path} has no opset; that is ONNX's")
    if opset is not None and opset < LEAST_OPSET:
        raise ValueError(f"opset {opset} is too old; {LEAST_OPSET} is the first that will do")
    if task == "detect":
        _require_tracing(path, dynamic, opset)
    is_dynamic = task != "detect" if dynamic is None else dynamic
    return Plan(path=path, size=size, dynamic=is_dynamic, preprocessing=preprocessing, opset=opset)


def _require_tracing(path: Path, dynamic: bool | None, opset: int | None) -> None:
    """Detectors are traced by TorchScript: torch.export cannot follow torchvision's code."""
    if path.suffix != ".onnx":
        raise ValueError(
            "torch.export cannot follow torchvision's detectors, whose code asks how many boxes "
            "there are; write ONNX, a file that ends in .onnx"
        )
    if dynamic:
        raise ValueError(
            "a detector is exported for one image of one size, as torchvision resizes it by "
            "numbers that become constants; leave --dynamic out, and choose --image-size"
        )
    if opset is not None and opset > DETECTOR_OPSETS[1]:
        raise ValueError(
            f"opset {opset} is too new for detectors; "
            f"{DETECTOR_OPSETS[0]} to {DETECTOR_OPSETS[1]} will do"
        )
