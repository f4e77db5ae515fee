"""The nets as lists of layers, held against those that timm and this zoo build."""

import pytest
import timm
import torch

import wszoo  # noqa: F401 - registers the variants
from wszoo.convert.architecture import BIT_NETS, RESNETS, Net
from wszoo.convert.layouts import Entry, bcn_layout, timm_layout


def shapes_of(name: str, num_classes: int) -> list[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=num_classes)
    return [(key, tuple(tensor.shape)) for key, tensor in net.state_dict().items()]


def entries_of(net: Net, num_classes: int) -> list[Entry]:
    return [entry for layer in net.layers(num_classes) for entry in timm_layout(layer)]


@pytest.mark.parametrize("name", RESNETS)
def test_every_resnet_has_the_tensors_of_its_variant_in_order(name: str) -> None:
    expected = shapes_of(f"{name}_gn_ws", 7)
    assert [(entry.ours, entry.shape) for entry in entries_of(RESNETS[name], 7)] == expected


@pytest.mark.parametrize("name", BIT_NETS)
def test_every_bit_has_the_tensors_of_timms_in_order(name: str) -> None:
    expected = shapes_of(name, 7)
    assert [(entry.ours, entry.shape) for entry in entries_of(BIT_NETS[name], 7)] == expected


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnext50_32x4d"])
def test_every_bcn_net_has_the_tensors_of_its_variant_in_order(name: str) -> None:
    entries = [entry for layer in RESNETS[name].layers(7) for entry in bcn_layout(layer)]
    assert [(entry.ours, entry.shape) for entry in entries] == shapes_of(f"{name}_bcn_ws", 7)
