"""Weights that are not what they are taken for, each refused with the reason."""

import pytest
import torch
from torch import nn

from tests.convert.published import in_openmmlab_names, of_torchvision, with_prefix
from wszoo.convert import SOURCES, convert_state, recognise, restore_state


def test_batch_norm_weights_are_refused() -> None:
    for prefix in ("", "module."):
        state = with_prefix(of_torchvision("resnet50", nn.BatchNorm2d), prefix)
        for source in (None, "jhu", "timm", "bcn"):
            with pytest.raises(ValueError, match=r"with BatchNorm \(\S*bn1\.running_mean, 106 su"):
                convert_state(state, source)


def test_detectrons_batch_norm_nets_with_stride_in_the_1x1_are_refused() -> None:
    state = {"conv1_w": torch.ones(64, 3, 7, 7), "res_conv1_bn_s": torch.ones(64)}
    for source in (None, "detectron"):
        with pytest.raises(ValueError, match=r"with BatchNorm \(res_conv1_bn_s, 1 such tensors\)"):
            convert_state(state, source)


def test_another_depth_than_asked_is_refused() -> None:
    state = with_prefix(of_torchvision("resnet101"))
    assert convert_state(state, architecture="resnet101_gn_ws").architecture == "resnet101_gn_ws"
    found = r"it holds a 'resnet101_gn_ws' \(taken for 'jhu'\), not a "
    with pytest.raises(ValueError, match=rf"{found}'resnet50_gn_ws'; name .*--from \(timm\)"):
        convert_state(state, architecture="resnet50_gn_ws")
    with pytest.raises(ValueError, match=f"{found}'resnext101_32x4d_gn_ws'"):
        convert_state(state, architecture="resnext101_32x4d_gn_ws")


def test_plain_weights_asked_for_as_standardized_ones_are_refused_where_the_source_says_so() -> (
    None
):
    state = with_prefix(in_openmmlab_names(of_torchvision("resnet50")))
    with pytest.raises(ValueError, match=r"'groupnorm_reproduce'\), not a 'resnet50_gn_ws'"):
        convert_state(state, "groupnorm_reproduce", architecture="resnet50_gn_ws")
    with pytest.raises(ValueError, match=r"'openmmlab'\), not a 'resnet50_gn'"):
        convert_state(state, "openmmlab", architecture="resnet50_gn")


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda s: s.pop("module.layer3.2.conv2.weight"), r"layer3\.2\.conv2\.weight is missing"),
        (lambda s: s.update({"module.extra": s["module.fc.bias"]}), r"resnet50: extra is unknown"),
        (
            lambda s: s.update({"module.layer4.2.bn3.bias": torch.ones(2047)}),
            r"layer4\.2\.bn3\.bias has shape \(2047,\), not \(2048,\)",
        ),
        (
            lambda s: s.update({"module.conv1.weight": torch.ones(64, 4, 7, 7)}),
            r"conv1\.weight has shape \(64, 4, 7, 7\), not \(64, 3, 7, 7\)",
        ),
        (
            lambda s: s.update({"module.fc.weight": torch.ones(1000, 2048, 1, 1)}),
            r"fc\.weight has shape \(1000, 2048, 1, 1\), not \(1000, 2048\)",
        ),
        (
            lambda s: s.update({"module.conv1.weight": torch.ones(64, 3, 7, 7, dtype=torch.int8)}),
            r"conv1\.weight holds torch\.int8, where weights are floating point",
        ),
    ],
)
def test_a_tensor_too_few_too_many_or_of_another_shape_is_named(
    break_it: object, reason: str
) -> None:
    state = with_prefix(of_torchvision("resnet50"))
    assert callable(break_it)
    break_it(state)
    with pytest.raises(ValueError, match=reason) as refusal:
        convert_state(state)
    assert "\n" not in str(refusal.value)


def test_a_net_of_unknown_depth_is_refused_with_the_closest() -> None:
    state = with_prefix(of_torchvision("resnet50"))
    block = "module.layer1.2."
    deeper = {
        key.replace(block, "module.layer1.3."): tensor
        for key, tensor in state.items()
        if key.startswith(block)
    }
    with pytest.raises(ValueError, match=r"fit no known net; the closest is resnet50: layer1\.3\."):
        convert_state(state | deeper)


def test_a_counter_is_dropped_with_the_reason() -> None:
    state = with_prefix(of_torchvision("resnet50"))
    converted = convert_state(state | {"module.step": torch.tensor(450450)})
    assert converted.dropped == {"module.step": "a counter, no weight"}


def test_the_wrong_source_is_refused_with_its_name() -> None:
    state = with_prefix(of_torchvision("resnet50"))
    for source in SOURCES.keys() - {"jhu", "timm"}:
        with pytest.raises(ValueError, match=rf"not weights of '{source}' \(.*\): "):
            convert_state(state, source)


def test_an_unknown_source_and_unknown_tensors_are_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"no source 'jh'; the sources: jhu, openmmlab,"):
        convert_state({}, "jh")
    with pytest.raises(ValueError, match=r"no source 'jh'; the sources: jhu, openmmlab,"):
        restore_state({}, "jh")
    with pytest.raises(ValueError, match=r"these tensors \(patch_embed\.w, …\) are of no known so"):
        recognise({"patch_embed.w": torch.ones(1)})
    with pytest.raises(ValueError, match=r"these tensors \(none, …\)"):
        recognise({})


def test_what_is_not_ours_cannot_be_restored() -> None:
    state = of_torchvision("resnet50")
    state.pop("bn1.bias")
    with pytest.raises(ValueError, match=r"closest is resnet50: bn1\.bias is missing"):
        restore_state(state, "jhu")
