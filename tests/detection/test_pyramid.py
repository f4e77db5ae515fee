import pytest
import torch
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from wszoo.backbone import load_backbone
from wszoo.detection import PyramidBackbone, faster_rcnn, fcos, retinanet
from wszoo.detection.pyramid import as_backbone


def pyramid(**kwargs: object) -> PyramidBackbone:
    backbone = load_backbone("test_resnet_gn_ws", **kwargs)  # type: ignore[arg-type]
    strides = (4, 8, 16, 32)
    extra = LastLevelMaxPool()
    return PyramidBackbone(backbone, strides=strides, out_channels=64, extra_blocks=extra)


def test_levels_have_one_width_and_the_strides_asked_for() -> None:
    levels = pyramid()(torch.randn(2, 3, 128, 96))

    shapes = {name: tuple(level.shape) for name, level in levels.items()}
    assert shapes == {
        "0": (2, 64, 32, 24),
        "1": (2, 64, 16, 12),
        "2": (2, 64, 8, 6),
        "3": (2, 64, 4, 3),
        "pool": (2, 64, 2, 2),
    }


def test_maps_of_other_strides_are_left_out() -> None:
    all_maps = pyramid(out_indices=(0, 1, 2, 3, 4))

    assert [block[0].in_channels for block in all_maps.fpn.inner_blocks] == [16, 32, 64, 128]
    assert list(all_maps(torch.randn(1, 3, 64, 64))) == ["0", "1", "2", "3", "pool"]


@pytest.mark.parametrize("kwargs", [{"output_stride": 16}, {"out_indices": (2, 3, 4)}])
def test_strides_that_do_not_fit_are_refused(kwargs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"one feature map of each of the strides \(4, 8, 16, 32"):
        pyramid(**kwargs)
    backbone = load_backbone("test_resnet_gn_ws", output_stride=16)
    with pytest.raises(ValueError, match=r"strides \(8, 16, 32\), but those of test_resnet_gn_ws"):
        retinanet(backbone, num_classes=2)


@pytest.mark.parametrize("constructor", [faster_rcnn, retinanet, fcos])
def test_a_loaded_backbone_gives_the_same_detector_as_its_name(constructor: object) -> None:
    assert callable(constructor)
    torch.manual_seed(0)
    one = constructor("test_resnet_gn_ws", num_classes=2, pyramid_channels=32)
    torch.manual_seed(0)
    other = constructor(load_backbone("test_resnet_gn_ws"), num_classes=2, pyramid_channels=32)

    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    body = [key for key in ours if key.startswith("backbone.body.")]
    assert body and all(torch.equal(ours[key], theirs[key]) for key in body)


def test_a_loaded_backbone_cannot_be_told_how_to_be_loaded() -> None:
    backbone = load_backbone("test_resnet_gn_ws")

    with pytest.raises(ValueError, match=r"trainable_stages=2 comes too late .* load_backbone"):
        faster_rcnn(backbone, num_classes=2, trainable_stages=2)
    with pytest.raises(ValueError, match=r"in_chans=1 comes too late for a Backbone of 3 channels"):
        faster_rcnn(backbone, num_classes=2, in_chans=1)
    grey = load_backbone("test_resnet_gn_ws", in_chans=1)
    loading = {"out_indices": (1, 2, 3, 4), "pretrained": True, "trainable_stages": None}
    assert as_backbone(grey, in_chans=1, **loading) is grey  # type: ignore[arg-type]


def test_modes_reach_the_backbone_behind_the_body() -> None:
    module = pyramid()

    assert not module.eval().source.training and not module.body.training
    assert module.train().source.training and module.body.training


def test_checkpointing_changes_no_gradient() -> None:
    module = pyramid(trainable_stages=5)
    x = torch.randn(1, 3, 64, 64)

    def gradient() -> torch.Tensor:
        module.zero_grad()
        torch.stack([level.square().mean() for level in module(x).values()]).sum().backward()
        result = module.get_parameter("body.conv1.weight").grad
        assert result is not None and result.any()
        return result.clone()

    plain = gradient()
    module.set_grad_checkpointing()
    torch.testing.assert_close(gradient(), plain)


def test_each_key_comes_once() -> None:
    keys = list(pyramid().state_dict())

    assert "body.conv1.weight" in keys and "fpn.inner_blocks.0.0.weight" in keys
    assert {key.split(".")[0] for key in keys} == {"body", "fpn"}
