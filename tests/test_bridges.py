"""Our backbones in other people's models, as the README shows them."""

from collections import OrderedDict
from typing import Any

import pytest
import segmentation_models_pytorch as smp  # type: ignore[import-untyped]
import timm
import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.segmentation import DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

import wszoo
from wszoo.lint import lint

NAME = "test_resnet_gn_ws"


def clean(model: nn.Module) -> None:
    """What the README says to do with a foreign decoder or head."""
    wszoo.to_group_norm(model)
    wszoo.standardize_convs(model)


def assert_trains_at_batch_size_one(model: nn.Module, size: int) -> None:
    """One step of segmentation, after which every parameter has its gradient."""
    output: Any = model.train()(torch.randn(1, 3, size, size))
    logits = output if isinstance(output, Tensor) else output["out"]
    labels = torch.randint(logits.shape[1], (1, *logits.shape[2:]))
    loss = nn.functional.cross_entropy(logits, labels)
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def assert_standardized(model: nn.Module) -> None:
    """No BatchNorm, and WS before every GroupNorm."""
    census = lint(model)
    assert census.ok, census
    assert not [kind for kind in census.norms if "BatchNorm" in kind]


class Features(nn.Module):
    """A ``features_only`` net under torchvision's pyramid."""

    def __init__(self) -> None:
        super().__init__()
        options: dict[str, Any] = {"features_only": True, "out_indices": (1, 2, 3, 4)}
        self.body = timm.create_model(NAME, pretrained=True, **options)
        maps: Any = self.body.feature_info
        self.fpn = FeaturePyramidNetwork(maps.channels(), 32, LastLevelMaxPool(), wszoo.GroupNorm)
        self.out_channels = 32

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.fpn(OrderedDict(zip("0123", self.body(images))))  # noqa: B905
        return levels


def with_torchvisions_getter() -> nn.Module:
    net: Any = timm.create_model(NAME, pretrained=True)
    layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
    channels = [info["num_chs"] for info in net.feature_info[1:]]
    return BackboneWithFPN(net, layers, channels, 32, norm_layer=wszoo.GroupNorm)


@pytest.mark.parametrize("features", [Features, with_torchvisions_getter])
def test_torchvisions_faster_rcnn_trains_over_our_net(features: Any) -> None:
    backbone = features()
    wszoo.standardize_convs(backbone.fpn)
    model = FasterRCNN(backbone, num_classes=2, min_size=64, box_batch_size_per_image=16)
    target = {"boxes": torch.tensor([[8.0, 8.0, 48.0, 40.0]]), "labels": torch.tensor([1])}

    losses = model([torch.rand(3, 64, 64)], [target])
    torch.stack(list(losses.values())).sum().backward()

    assert all(loss.isfinite() for loss in losses.values())
    assert_standardized(model)
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone.body.fc."):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_torchvisions_deeplab_head_is_cleaned_and_trains_at_batch_size_one() -> None:
    net = timm.create_model(NAME, pretrained=True, num_classes=0, output_stride=8)
    model = DeepLabV3(IntermediateLayerGetter(net, {"layer4": "out"}), DeepLabHead(128, 3))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model.train()(torch.randn(1, 3, 64, 64))

    clean(model.classifier)

    assert_trains_at_batch_size_one(model, 64)
    assert_standardized(model)


ARCHITECTURES = (
    "Unet",
    "UnetPlusPlus",
    "FPN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
    "PSPNet",
    "Linknet",
    "MAnet",
    "Segformer",
)


def assert_is_cleaned(architecture: str, encoder: str) -> None:
    model = getattr(smp, architecture)(encoder, encoder_weights=None, classes=3)

    clean(model)

    assert_trains_at_batch_size_one(model, 64)
    assert_standardized(model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoders_of_segmentation_models_are_cleaned_and_train_at_batch_size_one(
    architecture: str,
) -> None:
    assert_is_cleaned(architecture, f"tu-{NAME}")


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["tu-resnet18_gn_ws", "tu-resnet50_gn_ws"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_they_are_over_larger_encoders_too(architecture: str, encoder: str) -> None:
    assert_is_cleaned(architecture, encoder)


def test_pan_trains_at_batch_size_one_but_its_decoder_stays_plain() -> None:
    model = smp.PAN(f"tu-{NAME}", encoder_weights=None, classes=3)

    clean(model)

    # Norms of one channel see one value at the bottom of its pyramid where images are smaller.
    assert_trains_at_batch_size_one(model, 256)
    assert "BatchNorm2d" not in lint(model).norms
    # Its blocks register the activation before the norm, so no norm seems to follow.
    assert lint(model.decoder).standardized == {}


@pytest.mark.parametrize("architecture", ["DeepLabV3", "DeepLabV3Plus", "UPerNet", "PAN"])
def test_without_cleaning_they_fail_at_batch_size_one(architecture: str) -> None:
    model = getattr(smp, architecture)(f"tu-{NAME}", encoder_weights=None, classes=3)

    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model.train()(torch.randn(1, 3, 64, 64))


def test_segmentation_models_loads_our_weights_by_their_tag() -> None:
    model = smp.FPN(f"tu-{NAME}.e3_tin200", encoder_weights=True)
    ours = timm.create_model(NAME, pretrained=True)

    kernel = model.encoder.model.layer4[0].conv2.weight
    assert torch.equal(kernel, ours.get_parameter("layer4.0.conv2.weight"))


@pytest.mark.transformers
def test_transformers_takes_our_nets_as_backbones() -> None:
    transformers: Any = pytest.importorskip("transformers")
    theirs = transformers.TimmBackbone.from_pretrained(NAME, out_indices=(1, 2, 3, 4)).eval()
    ours = timm.create_model(
        NAME, pretrained=True, features_only=True, out_indices=(1, 2, 3, 4)
    ).eval()
    images = torch.randn(1, 3, 64, 64)

    found = theirs(images).feature_maps

    assert all(torch.equal(a, b) for a, b in zip(found, ours(images), strict=True))
    assert theirs.channels == [16, 32, 64, 128]


@pytest.mark.transformers
def test_a_transformers_segmenter_is_cleaned_and_trains_at_batch_size_one() -> None:
    transformers: Any = pytest.importorskip("transformers")
    backbone = transformers.TimmBackboneConfig(backbone=NAME, out_indices=[1, 2, 3, 4])
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "auxiliary_in_channels": 64,
        "auxiliary_channels": 32,
    }
    config = transformers.UperNetConfig(backbone_config=backbone, num_labels=3, **sizes)
    model = transformers.UperNetForSemanticSegmentation(config).train()
    images, labels = torch.randn(1, 3, 64, 64), torch.randint(3, (1, 64, 64))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(pixel_values=images, labels=labels)

    clean(model)
    trained = transformers.TimmBackbone.from_pretrained(NAME, out_indices=(1, 2, 3, 4))
    model.backbone.load_state_dict(trained.state_dict())
    loss = model(pixel_values=images, labels=labels).loss
    loss.backward()

    assert loss.isfinite()
    assert_standardized(model)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
