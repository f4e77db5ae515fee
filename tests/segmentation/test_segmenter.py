"""What holds for every segmenter, whatever its decoder."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wszoo.backbone import load_backbone
from wszoo.segmentation import Segmenter, describe_segmenter, segmentation_loss, semantic_fpn

NET = "test_resnet_gn_ws"


def small(**kwargs: Any) -> Segmenter:
    settings: dict[str, Any] = dict(num_classes=3, pretrained=False, fpn_channels=16, channels=16)
    return semantic_fpn(NET, **(settings | kwargs))


class Seen(nn.Module):
    """Stands for a body, and keeps what reaches it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.images: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        self.images.append(x)
        return self.body(x)


def test_the_backbone_sees_photos_normalised_by_its_own_mean_and_deviation() -> None:
    backbone = load_backbone(NET, pretrained=False)
    model = semantic_fpn(backbone, num_classes=3)
    backbone.body = seen = Seen(backbone.body)
    images = torch.rand(1, 3, 64, 64)

    model(images)

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.mean, backbone.std))
    torch.testing.assert_close(seen.images[0], (images - mean) / std)


def test_mean_and_deviation_follow_the_model_but_are_not_stored() -> None:
    model = small().double()

    assert {model.mean.dtype, model.std.dtype} == {torch.float64}
    assert not {"mean", "std"} & model.state_dict().keys()


def test_photos_of_one_or_five_channels_work() -> None:
    for in_chans in (1, 5):
        model = small(in_chans=in_chans)

        assert model.mean.shape == (in_chans, 1, 1)
        assert model(torch.rand(1, in_chans, 64, 64)).shape == (1, 3, 64, 64)


def test_all_classes_are_alike_at_the_start() -> None:
    model = small(num_classes=7)

    loss = segmentation_loss(model(torch.rand(2, 3, 64, 64)), torch.randint(0, 7, (2, 64, 64)))

    assert loss.item() == pytest.approx(math.log(7), rel=0.1)


def test_frozen_stages_take_no_gradient_and_all_else_does() -> None:
    model = small(pretrained=True, trainable_stages=2)

    model(torch.rand(1, 3, 64, 64)).square().mean().backward()

    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    frozen = {name for name, _ in model.named_parameters()} - trained
    assert {name.split(".")[2] for name in frozen} == {"conv1", "bn1", "layer1", "layer2"}
    assert {name.split(".")[2] for name in trained if "body" in name} == {"layer3", "layer4"}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (255 * torch.rand(1, 3, 64, 64), "must lie in 0..1: divide by 255"),
        (4 * torch.rand(1, 3, 64, 64) - 2, "must lie in 0..1: leave Normalize out"),
        (3 * torch.rand(1, 3, 64, 64), "must lie in 0..1: leave Normalize out"),
        (torch.full((1, 3, 64, 64), math.nan), "images hold NaN"),
    ],
    ids=["bytes", "normalised", "normalised and bright", "NaN"],
)
def test_photos_of_another_range_are_refused_at_the_first_step(
    images: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small()(images)


def test_the_range_is_looked_at_once_and_in_training_only() -> None:
    bright = 3 * torch.rand(1, 3, 64, 64)
    model = small()

    model.eval()(bright)
    model.train()(torch.rand(1, 3, 64, 64) * 1.05 - 0.02)
    model(bright)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 64, 64), r"shape \(3, 64, 64\), the backbone takes \(N, 3, H, W\)"),
        (torch.rand(1, 1, 64, 64), r"shape \(1, 1, 64, 64\), the backbone takes \(N, 3, H, W\)"),
        (torch.rand(1, 3, 64, 63), "images of 64 x 63 pixels are too small: 64 a side"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "images are torch.uint8; give floats"),
    ],
    ids=["no batch", "channels", "size", "dtype"],
)
def test_photos_of_another_shape_or_type_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().eval()(images)


@pytest.mark.parametrize("num_classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused_with_the_reason(num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2, got {num_classes}: every label counts"):
        small(num_classes=num_classes)


def test_dropout_must_leave_something() -> None:
    with pytest.raises(ValueError, match="dropout must be within 0..1, without 1, got 1.0"):
        small(dropout=1.0)


def test_dropout_acts_in_training_only() -> None:
    model = small(dropout=0.5)
    images = torch.rand(1, 3, 64, 64)

    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_settings_for_a_backbone_that_is_made_already_are_refused() -> None:
    backbone = load_backbone(NET, pretrained=False)

    with pytest.raises(ValueError, match="give pretrained=False, in_chans=1 to load_backbone"):
        semantic_fpn(backbone, num_classes=3, pretrained=False, in_chans=1)
    with pytest.raises(ValueError, match="give trainable_stages=3 to load_backbone"):
        semantic_fpn(backbone, num_classes=3, trainable_stages=3)


def test_batch_norm_in_a_decoder_is_refused() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(128)

    backbone = load_backbone(NET, pretrained=False)

    with pytest.raises(ValueError, match=r"1 BatchNorm layers \(norm, …\)"):
        Segmenter(backbone, Decoder(), channels=128, num_classes=2)


def test_a_state_dict_brings_equal_logits_to_a_fresh_model() -> None:
    model, fresh = small().eval(), small().eval()
    images = torch.rand(1, 3, 65, 70)
    assert not torch.equal(model(images), fresh(images))

    fresh.load_state_dict(model.state_dict())

    assert torch.equal(model(images), fresh(images))
    assert torch.equal(model(images), copy.deepcopy(model)(images))


def macs_by_hand(model: Segmenter, size: int) -> int:
    """Output pixels times kernel, over all convolutions."""
    counts: list[int] = []

    def count(conv: nn.Module, _inputs: Any, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        counts.append(output.numel() * conv.weight[0].numel())

    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [conv.register_forward_hook(count) for conv in convs]
    with torch.no_grad():
        model.eval()(torch.rand(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def test_the_description_counts_what_is_there() -> None:
    model = small(pretrained=True, trainable_stages=3)
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]

    assert describe_segmenter(model, size=192) == {
        "backbone": NET,
        "decoder": "SemanticFPNDecoder",
        "classes": 3,
        "params": f"{sum(count for count, _ in counts) / 1e6:.2f} M",
        "trainable": f"{sum(count for count, trained in counts if trained) / 1e6:.2f} M",
        "MACs": f"{macs_by_hand(model, 192) / 1e9:.2f} G at 192 x 192",
        "norms": {"GroupNorm": len(norms)},
    }
    assert next(model.parameters()).device.type == "cpu", "the model itself stays as it is"
