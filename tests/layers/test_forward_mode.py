"""Derivatives taken forward, through dual tensors and ``torch.func.jvp``."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from wszoo.layers import (
    FORMULAS,
    GroupNorm,
    WSConv2d,
    freeze,
    standardize_weight,
    standardized_once,
)
from wszoo.memory import Memory, save_memory

Function = Callable[[Tensor], Tensor]
DUAL_AND_JVP = pytest.mark.parametrize("transform", [False, True], ids=["dual tensors", "jvp"])


def tangent(function: Function, x: Tensor, direction: Tensor, transform: bool = False) -> Tensor:
    if transform:
        return torch.func.jvp(function, (x,), (direction,))[1]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.clone().requires_grad_(), direction)
        result = forward_ad.unpack_dual(function(dual)).tangent
    assert result is not None
    return result.detach()


def by_backward(function: Function, x: Tensor, direction: Tensor) -> Tensor:
    """The same from two backward passes."""
    leaf = x.clone().requires_grad_()
    out = function(leaf)
    upstream = torch.zeros_like(out, requires_grad=True)
    (pulled,) = torch.autograd.grad(out, leaf, upstream, create_graph=True)
    return torch.autograd.grad(pulled, upstream, direction)[0]


@DUAL_AND_JVP
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_standardized_kernel_has_a_tangent(formula: str, transform: bool) -> None:
    weight, direction = torch.randn(2, 4, 3, 3, 3, dtype=torch.float64)

    def function(weight: Tensor) -> Tensor:
        return standardize_weight(weight, formula)

    expected = by_backward(function, weight, direction)
    torch.testing.assert_close(tangent(function, weight, direction, transform), expected)


@DUAL_AND_JVP
@pytest.mark.parametrize("size", [20, 40])  # both paths of channels_last maps
def test_a_norm_has_a_tangent_in_channels_last(size: int, transform: bool) -> None:
    norm = GroupNorm(32, 8)
    nn.init.normal_(norm.weight)
    x, direction = (
        torch.randn(2, 32, size, size).to(memory_format=torch.channels_last) for _ in range(2)
    )

    actual = tangent(norm, x, direction, transform)

    expected = by_backward(norm.double(), x.double(), direction.double())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


@DUAL_AND_JVP
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("level", ["fast", "lean"])
def test_a_net_has_a_tangent(level: Memory, training: bool, transform: bool) -> None:
    net = save_memory(timm.create_model("test_resnet_gn_ws", num_classes=3), level).train(training)
    net = net.to(memory_format=torch.channels_last)
    images, direction = torch.randn(2, 1, 3, 32, 32)
    images = images.contiguous(memory_format=torch.channels_last)
    net(images)  # kernels are kept from here on, where they are

    actual = tangent(net, images, direction, transform)

    expected = by_backward(net.double(), images.double(), direction.double())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["eval", "frozen", "once"])
def test_a_kernel_that_is_kept_does_not_stand_in_for_one_with_a_tangent(kind: str) -> None:
    layer = WSConv2d(3, 4, 3, bias=False).eval()
    if kind == "frozen":
        freeze(layer)
    x, weight = torch.randn(1, 3, 5, 5), layer.weight.detach().clone()
    direction = torch.randn_like(weight)
    layer(x)
    with standardized_once(layer) if kind == "once" else torch.no_grad(), forward_ad.dual_level():
        layer.weight.requires_grad_(False)
        dual = forward_ad.make_dual(layer.weight, direction)
        del layer.weight
        layer.weight = dual
        actual = forward_ad.unpack_dual(layer(x)).tangent
        del layer.weight
        layer.weight = nn.Parameter(weight)

    def function(weight: Tensor) -> Tensor:
        return nn.functional.conv2d(x.double(), standardize_weight(weight))

    assert actual is not None
    expected = by_backward(function, weight.double(), direction.double())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


@DUAL_AND_JVP
def test_a_norm_has_a_tangent_in_half_precision(transform: bool) -> None:
    norm = GroupNorm(8, 4)
    x, direction = torch.randn(2, 2, 8, 6, 6).bfloat16()

    actual = tangent(norm, x, direction, transform)

    expected = by_backward(norm.double(), x.double(), direction.double())
    assert actual.dtype is torch.bfloat16
    torch.testing.assert_close(actual.double(), expected, rtol=0.02, atol=0.02)


def test_what_has_no_tangent_takes_the_own_paths() -> None:
    norm = GroupNorm(32, 8)
    x = torch.randn(2, 32, 16, 16, requires_grad=True).to(memory_format=torch.channels_last)
    with forward_ad.dual_level():
        inside = norm(forward_ad.make_dual(x, torch.ones_like(x)))
        beside = norm(x)

    assert type(inside.grad_fn).__name__ == "NativeGroupNormBackward0"
    assert type(beside.grad_fn).__name__ == type(norm(x).grad_fn).__name__ == "_GroupNormBackward"


@pytest.mark.parametrize("level", ["lean", "small", "smallest"])
def test_a_backward_pass_in_it_computes_again_what_was_computed_outside(level: Memory) -> None:
    images = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    net = timm.create_model("test_resnet_gn_ws", num_classes=3).to(
        memory_format=torch.channels_last
    )
    weights = [*net.parameters()]
    expected = torch.autograd.grad(net(images).sum(), weights)

    out = save_memory(net, level)(images).sum()
    with forward_ad.dual_level():
        actual = torch.autograd.grad(out, weights)

    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
