from collections.abc import Callable
from typing import Any

import pytest
import torch
from torchvision.models import detection

from wszoo.detection import describe_detector, mask_rcnn, retinanet

Build = Callable[..., Any]


@pytest.mark.parametrize(("name", "weights"), [
    ("fasterrcnn_resnet50_fpn", detection.FasterRCNN_ResNet50_FPN_Weights),
    ("maskrcnn_resnet50_fpn_v2", detection.MaskRCNN_ResNet50_FPN_V2_Weights),
    ("retinanet_resnet50_fpn_v2", detection.RetinaNet_ResNet50_FPN_V2_Weights),
    ("fcos_resnet50_fpn", detection.FCOS_ResNet50_FPN_Weights),
])  # fmt: skip
def test_multiply_accumulates_of_torchvisions_detectors_are_the_published_ones(
    name: str, weights: Any
) -> None:
    with torch.device("meta"):
        model = getattr(detection, name)(weights=None, weights_backbone=None)

    text = describe_detector(model)["MACs"]

    assert text.startswith(f"{weights.DEFAULT.meta['_ops']:.2f} G at 800 x 800")


def test_a_detector_is_described_without_being_changed() -> None:
    model = mask_rcnn("test_resnet_gn_ws", num_classes=2, pyramid_channels=32, min_size=100)

    facts = describe_detector(model)

    values = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert facts["model"] == "MaskRCNN"
    assert facts["params"] == f"{values / 1e6:.2f} M"
    assert facts["trainable"] == f"{trainable / 1e6:.2f} M"
    assert facts["MACs"].endswith("G at 128 x 128, 1000 proposals, 100 detections")
    assert facts["norms"] == {"GroupNorm": 13 + 8 + 4 + 4}
    assert model.training and {p.device.type for p in model.parameters()} == {"cpu"}


def test_the_size_can_be_chosen() -> None:
    model = retinanet("test_resnet_gn_ws", num_classes=2, pyramid_channels=32)

    small, large = (describe_detector(model, size=side)["MACs"] for side in (320, 640))

    assert small.endswith(" at 320 x 320") and large.endswith(" at 640 x 640")
    ratio = float(large.split()[0]) / float(small.split()[0])
    assert abs(ratio - 4) < 0.1
