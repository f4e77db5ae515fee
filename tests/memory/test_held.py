"""What a pass holds is measured without the memory for it, and is as little as was promised."""

from collections.abc import Iterator
from functools import cache

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from wszoo import load_backbone
from wszoo.memory import MEMORY, Memory, held_bytes, save_memory

MIB, GIB = 2**20, 2**30


@pytest.fixture
def fake() -> Iterator[None]:
    """Nothing is computed, only shapes."""
    with FakeTensorMode():
        yield


def scores(net: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        out = net(x)
        return torch.stack([each.sum() for each in out]).sum()


def per_image(net: nn.Module, height: int, width: int, dtype: torch.dtype | None = None) -> int:
    """Bytes of one image more: standardized kernels, which are there once, do not count."""
    one, two = (torch.empty(batch, 3, height, width) for batch in (1, 2))
    return held_bytes(lambda: scores(net, two, dtype)) - held_bytes(lambda: scores(net, one, dtype))


def saved_bytes(net: nn.Module, x: Tensor) -> int:
    """By hooks on saved tensors, which know no checkpoints: storages but parameters and input."""
    known = {p.untyped_storage()._cdata for p in net.parameters()} | {x.untyped_storage()._cdata}
    found: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            found[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = scores(net, x)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in found.values())


def test_what_is_freed_and_what_is_seen_twice_does_not_count() -> None:
    weight = torch.ones(1000, requires_grad=True)

    def forward() -> Tensor:
        doubled = weight * 2  # saved by none
        kept = doubled.exp().view(10, 100)  # saved once, seen by three
        return kept.t().relu().sum() + kept.detach().sum()

    assert held_bytes(forward) == 2 * 4000 + 4
    with torch.no_grad():
        assert held_bytes(forward) == 4


def test_it_agrees_with_hooks_on_saved_tensors(fake: None) -> None:
    net = timm.create_model("test_resnet_gn_ws", features_only=True).train()
    x = torch.empty(2, 3, 64, 64)

    held, saved = held_bytes(lambda: scores(net, x)), saved_bytes(net, x)

    assert saved <= held <= 1.02 * saved, "the mean and so on beside"


@pytest.mark.slow
def test_a_resnet_50_holds_what_was_measured_before(fake: None) -> None:
    net = timm.create_model("resnet50_gn_ws", features_only=True).train()

    assert per_image(net, 224, 224) / MIB == pytest.approx(81.4, abs=1)
    assert per_image(net, 224, 224, torch.bfloat16) / MIB == pytest.approx(41.7, abs=1)


@cache
def detector_sized() -> dict[str, float]:
    """GiB of one image of 800 x 1333 in bfloat16, the stem and the first stage frozen."""
    with FakeTensorMode():
        net = load_backbone("resnet50_gn_ws", pretrained=False)
        net.set_trainable_stages(3)
        return {
            level: per_image(save_memory(net, level).train(), 800, 1333, torch.bfloat16) / GIB
            for level in MEMORY
        }


def test_a_detectors_backbone_holds_at_most_half_a_gibibyte_per_image() -> None:
    held = detector_sized()

    assert held["fast"] <= 0.5
    assert held["lean"] <= 0.4
    assert held["small"] <= 0.25
    assert held["smallest"] <= 0.16


def test_frozen_stages_hold_nothing(fake: None) -> None:
    net = load_backbone("test_resnet_gn_ws", pretrained=False, out_indices=(0, 1))
    x = torch.empty(4, 3, 64, 64)
    for level in MEMORY:
        save_memory(net, level).set_trainable_stages(0)
        result = sum(each.nbytes for each in net(x))
        net.set_trainable_stages(0)

        assert held_bytes(lambda: net(x)[-1]) < result
        assert held_bytes(lambda: net(x)[0].new_zeros(())) == 4


@pytest.mark.slow
def test_kernels_are_held_once_and_by_the_smallest_level_not_at_all(fake: None) -> None:
    net = timm.create_model("resnet14_gn_ws", features_only=True).train()
    kernels = sum(p.numel() for p in net.parameters() if p.ndim == 4)

    def weight_side(level: Memory, dtype: torch.dtype | None) -> float:
        save_memory(net, level)
        x = torch.empty(1, 3, 32, 32)
        per = per_image(net, 32, 32, dtype)
        return (held_bytes(lambda: scores(net, x, dtype)) - per) / kernels

    assert weight_side("lean", None) == pytest.approx(4, rel=0.01)
    levels: tuple[Memory, ...] = ("fast", "small")
    for level in levels:
        assert weight_side(level, torch.bfloat16) == pytest.approx(2, rel=0.01), level
    assert weight_side("smallest", None) < 0.05
