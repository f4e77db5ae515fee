import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from wszoo.detection.inputs import DENSE_DEVICES, ROI_DEVICES, InputCheck

CHECK = InputCheck(detector="mask_rcnn", num_classes=3, in_chans=3, devices=("cpu",))
WITH_MASKS = InputCheck(
    detector="mask_rcnn", num_classes=3, in_chans=3, devices=("cpu",), has_masks=True
)
NET = nn.Linear(1, 1)


def target(**changes: Any) -> dict[str, Any]:
    """Two boxes in an image of 100 x 80, with ``changes``."""
    return {
        "boxes": torch.tensor([[0.0, 0.0, 100.0, 80.0], [10.0, 20.0, 30.0, 40.0]]),
        "labels": torch.tensor([1, 2]),
        "masks": torch.ones(2, 80, 100, dtype=torch.uint8),
    } | changes


def image() -> Tensor:
    return torch.rand(3, 80, 100)


def boxes(*second: float) -> dict[str, Tensor]:
    return {"boxes": torch.tensor([[0.0, 0.0, 100.0, 80.0], second])}


def test_good_input_passes() -> None:
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    no_masks = {**nothing, "masks": torch.zeros(0, 80, 100)}
    is_red = torch.zeros(2, 80, 100, dtype=torch.bool)

    CHECK(NET, ([image(), image()], [target(), nothing]), {})
    CHECK(NET, (), {"images": [image()], "targets": [target()]})
    CHECK(NET.eval(), ([image()],), {})
    WITH_MASKS(NET, ([image(), image()], [target(masks=is_red), no_masks]), {})


def test_rounding_and_sharpening_are_no_faults() -> None:
    sharp = torch.linspace(-0.1, 1.1, 3 * 80 * 100).reshape(3, 80, 100)

    CHECK(NET, ([sharp], [target(**boxes(-0.05, 0, 100.05, 80.05))]), {})
    CHECK(NET, ([image().half()], [target(boxes=target()["boxes"].double())]), {})


BAD_TARGETS: dict[str, tuple[dict[str, Any], str]] = {
    "background": (
        {"labels": torch.tensor([1, 0])},
        "box 1 of image 1 of the batch has label 0, the background's; num_classes=3 counts the "
        "background, so labels are 1..2: number objects from 1 and add 1 to num_classes",
    ),
    "negative": (
        {"labels": torch.tensor([-1, 1])},
        "box 0 of image 1 of the batch has label -1; num_classes=3 counts the background, "
        "so labels are 1..2: remap it",
    ),
    "too large": (
        {"labels": torch.tensor([1, 7])},
        "label 7; num_classes=3 counts the background, so labels are 1..2: "
        "remap it, or pass num_classes=8 or more",
    ),
    "NaN": (boxes(1, float("nan"), 3, 4), "box 1 of image 1 of the batch, (1, nan, 3, 4), has"),
    "infinite": (boxes(1, 2, float("inf"), 4), "coordinates that are not finite; drop it"),
    "swapped": (boxes(30, 20, 10, 40), "(30, 20, 10, 40), needs x1 < x2 and y1 < y2; drop it, or"),
    "empty": (boxes(10, 20, 10, 40), "needs x1 < x2"),
    "flat": (boxes(10, 20, 30, 20), "box_convert(boxes, 'xywh', 'xyxy')"),
    "right of it": (boxes(10, 20, 101, 40), "reaches beyond the 100 x 80 image; clip it with"),
    "below it": (boxes(10, 20, 30, 81), "reaches beyond the 100 x 80 image"),
    "left of it": (boxes(-1, 20, 30, 40), "(-1, 20, 30, 40), reaches beyond"),
    "xywh": (
        {"boxes": tv_tensors.BoundingBoxes(torch.ones(2, 4), format="XYWH", canvas_size=(80, 100))},
        "the boxes of image 1 of the batch are XYWH; convert them to XYXY",
    ),
    "no boxes": ({"boxes": torch.zeros(0)}, "of shape (0,); floats of shape (N, 4) are needed"),
    "integers": ({"boxes": torch.ones(2, 4, dtype=torch.int64)}, "are torch.int64 of shape (2, 4)"),
    "label type": ({"labels": torch.ones(2)}, "labels of image 1 of the batch are torch.float32"),
    "label count": ({"labels": torch.tensor([1])}, "torch.int64 of shape (2,) is needed, one per"),
    "list": ({"labels": [1, 2]}, "the target of image 1 of the batch lacks the tensor labels"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_a_bad_target_is_refused_with_the_image_the_value_and_the_way_out(name: str) -> None:
    changes, message = BAD_TARGETS[name]

    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        CHECK(NET, ([image(), image()], [target(), target(**changes)]), {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("masks", "message"), [
    (torch.ones(2, 100, 80), "have shape (2, 100, 80); (2, 80, 100) is needed, one per box"),
    (torch.ones(1, 80, 100), "have shape (1, 80, 100); (2, 80, 100)"),
    (torch.full((2, 80, 100), 255), "hold values from 255 to 255; 0 and 1 are needed"),
    (None, "the target of image 0 of the batch lacks the tensor masks"),
])  # fmt: skip
def test_bad_masks_are_refused(masks: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        WITH_MASKS(NET, ([image()], [target(masks=masks)]), {})


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda x: x * 200 + 50, "so divide photos of 0..255 by 255"),
    (lambda x: (x - 0.5) / 0.2, "as if normalised already; pass it in 0..1"),
    (lambda x: x * float("nan"), "pixels must be finite"),
    (lambda x: x / 0, "pixels must be finite"),
    (lambda x: (x * 255).to(torch.uint8), "image 1 of the batch is torch.uint8; make it float"),
    (lambda x: x[:1], "has shape (1, 80, 100); this detector takes (3, height, width)"),
    (lambda x: x[None], "has shape (1, 3, 80, 100)"),
])  # fmt: skip
def test_a_bad_image_is_refused_in_training_and_in_evaluation(
    spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    images = [image(), spoil(image())]

    with pytest.raises(ValueError, match=r"image 1 of the batch") as caught:
        CHECK(nn.Linear(1, 1).eval(), (images,), {})
    assert message in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(message)):
        CHECK(nn.Linear(1, 1), (images, [target(), target()]), {})


def test_images_and_targets_must_come_in_equal_numbers() -> None:
    with pytest.raises(ValueError, match="no images; give a list of at least one"):
        CHECK(NET, ([], []), {})
    with pytest.raises(ValueError, match="2 images, but 1 targets; give one each"):
        CHECK(NET, ([image(), image()], [target()]), {})
    with pytest.raises(ValueError, match=r"mask_rcnn in training mode needs targets; call \.eval"):
        CHECK(nn.Linear(1, 1).train(), ([image()],), {})
    with pytest.raises(ValueError, match="is a list, not a dict of boxes, labels"):
        CHECK(NET, ([image()], [[]]), {})


def test_a_device_that_is_not_known_to_work_is_refused() -> None:
    check = InputCheck(detector="mask_rcnn", num_classes=3, in_chans=3, devices=("cuda", "xpu"))

    with pytest.raises(ValueError, match="mask_rcnn is on 'cpu'.* move it to one of: cuda, xpu"):
        check(NET, ([image()], [target()]), {})


def test_detectors_with_region_pooling_are_not_allowed_on_apple_gpus() -> None:
    assert "mps" not in ROI_DEVICES
    assert "mps" in DENSE_DEVICES
