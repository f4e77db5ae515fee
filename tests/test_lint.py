import json
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.ops import FrozenBatchNorm2d

import wszoo
from wszoo.layers import BatchChannelNorm, GroupNorm, WSConv2d
from wszoo.lint import Lint, lint
from wszoo.weights import record_of


def remarks(result: Lint, level: str) -> dict[str, str]:
    return {f.path: f.text for f in result.findings if f.level == level}


@pytest.mark.parametrize("variant", timm.list_models(module="ws_resnet"))
def test_no_variant_has_an_error(variant: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(variant)

    result = lint(model)

    assert result.ok, str(result)
    convs = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    record = record_of(variant)  # untrained nets take the formula of their default weights
    assert result.standardized == {record.formula if record else "jhu": convs}
    assert (result.plain, result.other) == (0, {})


def test_the_census_counts_every_norm_once() -> None:
    with torch.device("meta"):
        group, batch_channel = (timm.create_model(f"resnet50_{norm}_ws") for norm in ("gn", "bcn"))

    assert lint(group).norms == {"GroupNorm": 53}
    assert lint(batch_channel).norms == {"BatchChannelNorm": 53}


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "vgg11_bn"])
def test_any_model_of_timm_can_be_looked_at(name: str) -> None:
    with torch.device("meta"):
        result = lint(timm.create_model(name))

    assert result.norms
    assert result.plain > 0
    assert result.ok == ("BatchNorm" not in str(result.norms))


def test_torchvisions_net_is_told_that_batch_norm_is_left() -> None:
    result = lint(resnet18())

    errors = remarks(result, "error")
    assert len(errors) == result.norms["BatchNorm2d"] == 20
    assert errors["layer1.0.bn1"] == "BatchNorm left, which depends on the batch"
    assert "error  bn1, layer1.0.bn1, layer1.0.bn2 and 17 more: BatchNorm left" in str(result)
    assert str(result).endswith("not ok")


def test_frozen_batch_norm_is_a_note() -> None:
    result = lint(nn.Sequential(nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8)))

    assert result.ok
    assert remarks(result, "note")["1"].startswith("frozen BatchNorm")


def test_batch_norm_of_a_foreign_kind_is_found() -> None:
    sync = lint(nn.Sequential(nn.SyncBatchNorm(8), nn.BatchNorm1d(8)))

    assert set(remarks(sync, "error")) == {"0", "1"}


def test_standardized_with_no_norm_behind_it_is_an_error() -> None:
    net = nn.Sequential(WSConv2d(3, 64, 3), nn.ReLU(), WSConv2d(64, 64, 3), GroupNorm(64))

    result = lint(net)

    assert list(remarks(result, "error")) == ["0"]
    assert "no norm behind it" in remarks(result, "error")["0"]


def test_plain_with_a_norm_behind_it_is_an_error_only_where_the_net_has_ws() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3), GroupNorm(64), nn.Conv2d(64, 64, 3), GroupNorm(64))

    without = lint(net)
    net[0] = WSConv2d.from_conv(net[0])  # type: ignore[arg-type]
    with_ws = lint(net)

    assert without.ok
    assert list(remarks(with_ws, "error")) == ["2"]
    assert "WS elsewhere" in remarks(with_ws, "error")["2"]


def test_a_plain_convolution_without_a_norm_is_fine() -> None:
    net = nn.Sequential(WSConv2d(3, 64, 3), GroupNorm(64), nn.Conv2d(64, 2, 1))

    result = lint(net)

    assert result.ok
    assert (result.standardized, result.plain) == ({"jhu": 1}, 1)


@pytest.mark.parametrize(
    ("variant", "stem"), [("resnet18_gn_ws", "conv1"), ("resnet18d_gn_ws", "conv1.0")]
)
def test_the_plain_stem_over_other_channels_is_stated_as_intended(variant: str, stem: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(variant, in_chans=5)

    result = lint(model)

    assert result.ok
    assert "plain stem over 5 channels: intended" in remarks(result, "note")[stem]


def test_a_plain_stem_over_three_channels_is_an_error() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3), GroupNorm(64), WSConv2d(64, 64, 3), GroupNorm(64))

    assert list(remarks(lint(net), "error")) == ["0"]


def test_what_cannot_be_standardized_is_a_note() -> None:
    depthwise = nn.Conv2d(64, 64, 1, groups=64)
    net = nn.Sequential(WSConv2d(3, 64, 3), GroupNorm(64), depthwise, GroupNorm(64))

    result = lint(net)

    assert result.ok
    assert "one element per filter" in remarks(result, "note")["2"]


def test_attention_is_left_plain_without_a_remark() -> None:
    with torch.device("meta"):
        block_args = {"attn_layer": "se"}
        model = timm.create_model("resnet18_gn_ws", block_args=block_args)

    result = lint(model)

    assert result.plain == 16
    assert not result.findings


def test_one_channel_per_group_is_an_error_and_other_groups_are_a_note() -> None:
    net = nn.Sequential(nn.GroupNorm(32, 32), nn.GroupNorm(16, 32), nn.GroupNorm(32, 64))

    result = lint(net)

    assert list(remarks(result, "error")) == ["0"]
    assert remarks(result, "note") == {"1": "16 groups of 32 channels, not 32"}


def test_the_groups_of_batch_channel_norm_are_looked_at() -> None:
    result = lint(nn.Sequential(BatchChannelNorm(48), BatchChannelNorm(64)))

    assert result.ok
    assert remarks(result, "note") == {"0": "24 groups of 48 channels, not 32"}


def test_mixed_formulas_are_an_error() -> None:
    net = nn.Sequential(
        WSConv2d(3, 64, 3), GroupNorm(64), WSConv2d(64, 64, 3, formula="bit"), GroupNorm(64)
    )

    result = lint(net)

    assert result.standardized == {"jhu": 1, "bit": 1}
    assert remarks(result, "error") == {"": "mixed WS formulas: 1 jhu, 1 bit"}
    assert "error  the net: mixed" in str(result)


def test_a_folded_net_says_so_and_is_fine() -> None:
    model = wszoo.fold(timm.create_model("resnet10_gn_ws"))

    result = lint(model)

    assert result.ok
    assert (result.standardized, result.plain) == ({}, 12)
    assert remarks(result, "note")[""].startswith("folded")


def test_convolutions_of_other_classes_are_counted_by_class() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnetv2_50x1_bit", pretrained=False)
        plus = nn.Sequential(model, nn.Conv3d(1, 1, 1))

    result = lint(plus)

    assert set(result.other) == {"StdConv2d", "Conv3d"}
    assert result.plain == 1


def test_norms_that_torch_does_not_know_are_counted_and_blocks_are_not() -> None:
    class FilterNorm(nn.Module):
        pass

    class ConvNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 1), FilterNorm()

    assert lint(ConvNorm()).norms == {"FilterNorm": 1}


def test_a_lone_layer_is_a_net_too() -> None:
    assert "error  the net: standardized" in str(lint(WSConv2d(3, 8, 3)))
    assert str(lint(nn.ReLU())) == "norms  none\nconvs  none\nok"


def test_the_result_survives_json_with_errors_first() -> None:
    norm_layer = partial(nn.GroupNorm, 16)
    net = nn.Sequential(norm_layer(32), nn.Conv2d(32, 8, 1), nn.BatchNorm2d(8))

    data = json.loads(json.dumps(lint(net).to_json()))

    assert data["ok"] is False
    assert [finding["level"] for finding in data["findings"]] == ["error", "note"]
    assert data["norms"] == {"GroupNorm": 1, "BatchNorm2d": 1}
