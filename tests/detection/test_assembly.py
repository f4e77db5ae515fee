import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import MultiScaleRoIAlign

from wszoo import to_group_norm
from wszoo.backbone import load_backbone
from wszoo.detection import mask_rcnn
from wszoo.lint import lint

Build = Callable[..., Any]


def test_unknown_arguments_are_refused(build: Build) -> None:
    with pytest.raises(TypeError, match="takes no argument 'colour', torchvision neither; see "):
        build(colour="red")
    with pytest.raises(TypeError, match="did you mean image_mean"):
        build(image_means=[0.5, 0.5, 0.5])


def test_arguments_of_torchvisions_class_and_its_transform_get_there(build: Build) -> None:
    model = build(size_divisible=64, max_size=200, min_size=(96, 128))

    assert model.transform.size_divisible == 64
    assert (model.transform.min_size, model.transform.max_size) == ((96, 128), 200)
    few = build(**{"box_detections_per_img" if _is_rcnn(model) else "detections_per_img": 7})
    assert (few.roi_heads if _is_rcnn(few) else few).detections_per_img == 7


def _is_rcnn(model: nn.Module) -> bool:
    return hasattr(model, "roi_heads")


@pytest.mark.parametrize("num_classes", [1, 0, -2])
def test_a_count_without_room_for_the_background_is_explained(
    build: Build, num_classes: int
) -> None:
    with pytest.raises(ValueError, match=f"num_classes={num_classes} leaves no class beside"):
        build(num_classes=num_classes)


@pytest.mark.parametrize("channels", [0, 16, 48])
def test_a_width_that_groups_do_not_divide_is_refused(build: Build, channels: int) -> None:
    with pytest.raises(ValueError, match=f"must be a multiple of 32, .* got {channels}"):
        build(pyramid_channels=channels)


def test_another_mean_than_that_of_the_weights_is_taken_with_a_warning(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        model = build(image_mean=(0.5, 0.5, 0.5), image_std=[0.229, 0.224, 0.225])

    assert model.transform.image_mean == [0.5, 0.5, 0.5]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("image_mean=[0.5, 0.5, 0.5] is not that of the weights of")


def test_a_mean_of_other_channels_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match="image_mean has 3 values for 1 channels; give one each"):
        build(in_chans=1, image_mean=[0.5, 0.5, 0.5])


def test_none_stands_for_our_default_not_for_torchvisions(build: Build) -> None:
    parts = ["box_head"] if _is_rcnn(build()) else ["head", "anchor_generator"]

    ours = build(**dict.fromkeys([*parts, "image_mean"]))

    assert list(ours.state_dict()) == list(build().state_dict())
    assert lint(ours).norms == lint(build()).norms


def test_a_part_with_batch_norm_is_refused_until_it_is_cleaned() -> None:
    head = MaskRCNNHeads(32, [32] * 4, 1, norm_layer=nn.BatchNorm2d)
    sizes: dict[str, Any] = {"num_classes": 2, "pyramid_channels": 32, "mask_head": head}

    with pytest.raises(ValueError, match=r"4 BatchNorm in mask_rcnn, first roi_heads\.mask_head"):
        mask_rcnn("test_resnet_gn_ws", **sizes)
    to_group_norm(head)
    assert mask_rcnn("test_resnet_gn_ws", **sizes).roi_heads.mask_head is head


def test_batch_norm_in_the_backbone_stays_where_it_was_allowed(build: Build) -> None:
    backbone = load_backbone("test_resnet", pretrained=False, allow_batch_norm=True)

    model = build(backbone)

    paths = [path for path, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert paths and all(path.startswith("backbone.body.") for path in paths)


def test_a_box_head_fits_the_bins_of_the_pooling_that_is_passed() -> None:
    names = ["0", "1", "2", "3"]
    pool = MultiScaleRoIAlign(featmap_names=names, output_size=5, sampling_ratio=2)

    model = mask_rcnn(
        "test_resnet_gn_ws", num_classes=2, pyramid_channels=32, min_size=64, box_roi_pool=pool
    )

    assert model.roi_heads.box_head[5].in_features == 32 * 5 * 5
    assert model.eval()([torch.rand(3, 64, 64)])
