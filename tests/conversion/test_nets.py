"""Nets in timm's registry for converted weights."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor

from wszoo.conversion.nets import RESNET_TAPS, target_for
from wszoo.conversion.proof import prove
from wszoo.conversion.reference import reference_net
from wszoo.convert import SOURCES, Converted

RandomWeights = Callable[..., dict[str, Tensor]]


def converted(architecture: str, weights: dict[str, Tensor], source: str = "jhu") -> Converted:
    return Converted(
        source=SOURCES[source],
        license=SOURCES[source].license,
        notes=(),
        architecture=architecture,
        state_dict=weights,
        mapped={key: key for key in weights},
        kept=tuple(weights),
        changed={},
    )


@pytest.mark.parametrize("depth", [50, 101])
def test_every_key_of_timms_net_gets_the_tensor_of_its_place(depth: int) -> None:
    with torch.device("meta"):
        net = timm.create_model(f"resnet{depth}_gn_ws", num_classes=7)
        theirs = timm.create_model(f"resnetv2_{depth}x1_bit", preact=False, num_classes=7)
    # One element tells the place; kernels, which are rescaled, tell theirs by their shape.
    raw = {
        key: torch.full(value.shape, float(i))
        for i, (key, value) in enumerate(net.state_dict().items())
    }

    target = target_for(converted(f"resnet{depth}_gn_ws", raw), "timm")

    wanted = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in target.state_dict.items()} == wanted
    places = {
        "stem.norm.bias": "bn1.bias",
        "stages.0.blocks.0.downsample.norm.weight": "layer1.0.downsample.1.weight",
        "stages.2.blocks.5.norm2.bias": "layer3.5.bn2.bias",
        "stages.3.blocks.2.norm3.weight": "layer4.2.bn3.weight",
        "head.fc.bias": "fc.bias",
    }
    for here, there in places.items():
        assert torch.equal(target.state_dict[here], raw[there])
    assert torch.equal(target.state_dict["head.fc.weight"][:, :, 0, 0], raw["fc.weight"])


@pytest.mark.parametrize(
    "architecture", ["resnext50_32x4d_gn_ws", "resnet50_bcn_ws", "resnet50_gn"]
)
def test_timm_alone_has_no_net_for_others(architecture: str) -> None:
    source = {"ws": "jhu", "gn": "timm"}[architecture.rpartition("_")[2]]

    with pytest.raises(ValueError, match=f"timm alone has no net for a '{architecture}'; --to tim"):
        target_for(converted(architecture, {}, source), "timm")


def test_weights_of_another_shape_are_refused_in_one_line() -> None:
    target = target_for(converted("resnet10_gn_ws", {"fc.bias": torch.zeros(3)}))

    with pytest.raises(ValueError, match="weights do not fit resnet10_gn_ws: .*Missing") as caught:
        target.build()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["1", "0.05", "log-normal", "1e-3"])
def test_plain_timm_gives_the_same_logits_at_every_scale(
    scale: str, random_weights: RandomWeights
) -> None:
    raw = random_weights("resnet50_gn_ws", scale, num_classes=1000)
    target = target_for(converted("resnet50_gn_ws", raw), "timm")

    proof = prove(
        target,
        reference_net("resnet50_gn_ws", raw, "jhu"),
        RESNET_TAPS,
        stored={key: value.float() for key, value in target.state_dict.items()},
        dtype="fp32",
    )

    assert max(stages["logits"] for stages in proof.float64.values()) <= 1e-12
    assert max(stages["logits"] for stages in proof.stored.values()) <= 1e-5
    assert proof.passed


@pytest.mark.slow
def test_the_deeper_net_gives_the_same_logits_in_plain_timm(random_weights: RandomWeights) -> None:
    raw = random_weights("resnet101_gn_ws", "log-normal", num_classes=1000)
    target = target_for(converted("resnet101_gn_ws", raw), "timm")
    exact = {key: value.double() for key, value in target.state_dict.items()}

    proof = prove(
        target,
        reference_net("resnet101_gn_ws", raw, "jhu"),
        RESNET_TAPS,
        stored=exact,
        dtype="fp64",
    )

    assert max(stages["logits"] for stages in proof.stored.values()) <= 1e-12
    assert proof.passed
