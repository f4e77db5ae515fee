"""Small detectors of every kind, and scenes of coloured boxes for them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from wszoo.detection import faster_rcnn, fcos, mask_rcnn, retinanet

Scene = tuple[Tensor, dict[str, Tensor]]
Build = Callable[..., Any]

_FEW_BOXES = {
    "box_batch_size_per_image": 32,
    "rpn_post_nms_top_n_train": 100,
    "rpn_post_nms_top_n_test": 20,
}
CONSTRUCTORS: dict[str, tuple[Build, dict[str, Any]]] = {
    "faster_rcnn": (faster_rcnn, _FEW_BOXES),
    "mask_rcnn": (mask_rcnn, _FEW_BOXES),
    "retinanet": (retinanet, {}),
    "fcos": (fcos, {}),
}


@pytest.fixture(params=CONSTRUCTORS)
def build(request: pytest.FixtureRequest) -> Build:
    """Each constructor in turn, set to three classes and to sizes that a test can afford."""
    constructor, few = CONSTRUCTORS[request.param]

    def small(backbone: Any = "test_resnet_gn_ws", **kwargs: Any) -> Any:
        torch.manual_seed(0)
        sizes = {"num_classes": 3, "min_size": 128, "pyramid_channels": 32}
        return constructor(backbone, **(sizes | few | kwargs))

    return small


@pytest.fixture
def scene() -> Callable[[int], Scene]:
    """Draws image ``i``, 128 x 128: two boxes, red for class 1 and blue for 2, on dark noise."""

    def draw(seed: int) -> Scene:
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(3, 128, 128, generator=generator) * 0.3
        boxes, labels = [], [1 + seed % 2, 2 - seed % 2]
        masks = torch.zeros(2, 128, 128, dtype=torch.uint8)
        for mask, label in zip(masks, labels, strict=True):
            width, height = torch.randint(24, 56, (2,), generator=generator).tolist()
            x = int(torch.randint(0, 128 - width, (1,), generator=generator))
            y = int(torch.randint(0, 128 - height, (1,), generator=generator))
            colour = torch.tensor([0.9, 0.2, 0.1] if label == 1 else [0.1, 0.4, 0.9])
            image[:, y : y + height, x : x + width] = colour[:, None, None]
            mask[y : y + height, x : x + width] = 1
            boxes.append([x, y, x + width, y + height])
        target = {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}
        return image, {**target, "masks": masks}

    return draw


@pytest.fixture
def nothing() -> dict[str, Tensor]:
    """The target of a 128 x 128 image without objects."""
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 128, 128, dtype=torch.uint8),
    }
