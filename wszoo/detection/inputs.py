"""Refusing images and targets that torchvision's detectors would train on silently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# RoIAlign hangs or fails on Apple's GPUs: pytorch/vision#6986, pytorch/vision#9345.
ROI_DEVICES = ("cpu", "cuda")
DENSE_DEVICES = ("cpu", "cuda", "mps")

_OVERSHOOT = 0.25  # beyond 0..1: what sharpening interpolation adds, far below a normalised image
_BOX_SLACK = 0.1  # px beyond the image: rounding in annotations and in resizing


@dataclass(frozen=True, kw_only=True)
class InputCheck:
    """A forward pre-hook for torchvision's detectors: bad input raises before any loss.

    Images are checked on every call, targets whenever there are some.

    Attributes:
        detector: Its name, for messages.
        num_classes: The background counted, so labels are 1 to ``num_classes - 1``.
        in_chans: Channels of the images.
        devices: Types of device that the detector is known to run on.
        has_masks: Whether targets need masks.
    """

    detector: str
    num_classes: int
    in_chans: int
    devices: tuple[str, ...]
    has_masks: bool = False

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check the arguments of ``module.forward(images, targets)``.

        Raises:
            ValueError: Something is wrong with one of them; the message says which image.
        """
        self._check_device(module)
        given = dict(zip(("images", "targets"), args, strict=False)) | kwargs
        images, targets = given["images"], given.get("targets")
        check_images(images, in_chans=self.in_chans)
        if targets is None:
            if module.training:
                raise ValueError(
                    f"{self.detector} in training mode needs targets; "
                    f"call .eval() on it for predictions"
                )
            return
        if len(targets) != len(images):
            raise ValueError(f"{len(images)} images, but {len(targets)} targets; give one each")
        for index, (image, target) in enumerate(zip(images, targets, strict=True)):
            where = f"image {index} of the batch"
            height, width = image.shape[-2:]
            _check_layout(where, target, num_masks_of=(height, width) if self.has_masks else None)
            _check_boxes(where, target["boxes"].detach().cpu(), height, width)
            _check_labels(where, target["labels"].cpu(), self.num_classes)

    def _check_device(self, module: nn.Module) -> None:
        device = next(module.parameters()).device.type
        if device not in self.devices:
            raise ValueError(
                f"{self.detector} is on {device!r}, where its operators are not known to work; "
                f"move it to one of: {', '.join(self.devices)}"
            )


def check_images(images: Sequence[Tensor], *, in_chans: int) -> None:
    """Make sure that images are floats in 0..1 of the right number of channels.

    Raises:
        ValueError: One is of another shape or type, holds NaN, is in 0..255, or was normalised.
    """
    if len(images) == 0:
        raise ValueError("no images; give a list of at least one")
    for index, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != in_chans:
            raise ValueError(
                f"image {index} of the batch has shape {tuple(image.shape)}; "
                f"this detector takes ({in_chans}, height, width)"
            )
        if not image.is_floating_point():
            raise ValueError(
                f"image {index} of the batch is {image.dtype}; make it float and divide by the "
                f"largest value, as torchvision.transforms.v2.ToDtype(torch.float32, scale=True)"
            )
    # One transfer for all, since each would wait for the GPU.
    ranges = torch.stack([torch.stack(torch.aminmax(image.detach())) for image in images])
    for index, (low, high) in enumerate(ranges.tolist()):
        _check_range(f"image {index} of the batch", low, high)


def _check_range(where: str, low: float, high: float) -> None:
    values = f"{where} ranges from {low:.4g} to {high:.4g}"
    if not -float("inf") < low <= high < float("inf"):
        raise ValueError(f"{values}: pixels must be finite; look for a division by zero")
    if low < -_OVERSHOOT:
        raise ValueError(
            f"{values}, as if normalised already; pass it in 0..1, "
            f"the detector subtracts the mean and divides by the std itself"
        )
    if high > 1 + _OVERSHOOT:
        raise ValueError(f"{values}; pass it in 0..1, so divide photos of 0..255 by 255")


def _check_layout(where: str, target: Any, num_masks_of: tuple[int, int] | None) -> None:
    """Names, types and shapes; ``num_masks_of`` is the height and width that masks must have."""
    wanted = ("boxes", "labels") if num_masks_of is None else ("boxes", "labels", "masks")
    if not isinstance(target, Mapping):
        raise ValueError(
            f"the target of {where} is a {type(target).__name__}, not a dict of {', '.join(wanted)}"
        )
    missing = [key for key in wanted if not isinstance(target.get(key), Tensor)]
    if missing:
        raise ValueError(f"the target of {where} lacks the tensor {', '.join(missing)}")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(
            f"the boxes of {where} are {boxes.dtype} of shape {tuple(boxes.shape)}; floats of "
            f"shape (N, 4) are needed, torch.zeros(0, 4) where there are no objects"
        )
    layout = getattr(boxes, "format", None)  # of torchvision's tv_tensors.BoundingBoxes
    if layout is not None and layout.name != "XYXY":
        raise ValueError(f"the boxes of {where} are {layout.name}; convert them to XYXY")
    if labels.shape != (len(boxes),) or labels.dtype != torch.int64:
        raise ValueError(
            f"the labels of {where} are {labels.dtype} of shape {tuple(labels.shape)}; "
            f"torch.int64 of shape ({len(boxes)},) is needed, one per box"
        )
    if num_masks_of is not None:
        _check_masks(where, target["masks"], (len(boxes), *num_masks_of))


def _check_masks(where: str, masks: Tensor, shape: tuple[int, int, int]) -> None:
    if masks.shape != shape:
        raise ValueError(
            f"the masks of {where} have shape {tuple(masks.shape)}; {shape} is needed, "
            f"one per box and as large as the image"
        )
    if masks.dtype != torch.bool and masks.numel():
        low, high = torch.stack(torch.aminmax(masks)).tolist()
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"the masks of {where} hold values from {low:g} to {high:g}; 0 and 1 are needed, "
                f"so compare them (masks > 0), or split a map of instances into one mask each"
            )


def _check_boxes(where: str, boxes: Tensor, height: int, width: int) -> None:
    limit = torch.tensor([width, height, width, height]) + _BOX_SLACK
    faults = {
        "has coordinates that are not finite; drop it or repair the annotation": (
            ~boxes.isfinite().all(dim=1)
        ),
        "needs x1 < x2 and y1 < y2; drop it, or convert boxes in x, y, width, height order with "
        "torchvision.ops.box_convert(boxes, 'xywh', 'xyxy')": (
            (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
        ),
        f"reaches beyond the {width} x {height} image; clip it with "
        f"torchvision.ops.clip_boxes_to_image, or convert it where it is in x, y, width, height": (
            ((boxes < -_BOX_SLACK) | (boxes > limit)).any(dim=1)
        ),
    }
    for fault, is_wrong in faults.items():
        if is_wrong.any():
            index = int(is_wrong.nonzero()[0])
            numbers = ", ".join(f"{number:.4g}" for number in boxes[index].tolist())
            raise ValueError(f"box {index} of {where}, ({numbers}), {fault}")


def _check_labels(where: str, labels: Tensor, num_classes: int) -> None:
    is_wrong = (labels < 1) | (labels >= num_classes)
    if not is_wrong.any():
        return
    index = int(is_wrong.nonzero()[0])
    label = int(labels[index])
    allowed = f"num_classes={num_classes} counts the background, so labels are 1..{num_classes - 1}"
    if label == 0:
        raise ValueError(
            f"box {index} of {where} has label 0, the background's; {allowed}: "
            f"number objects from 1 and add 1 to num_classes"
        )
    way_out = "remap it" if label < 0 else f"remap it, or pass num_classes={label + 1} or more"
    raise ValueError(f"box {index} of {where} has label {label}; {allowed}: {way_out}")
