"""GroupNorm that takes the fastest path for a device, layout, dtype and width of groups.

Where PyTorch's own operator is as good, it stays. On CUDA Triton's kernels come first where they
were measured to be faster, or are asked for. Elsewhere, that is on CUDA in half precision and on
the CPU in channels_last, the norm keeps the dtype and the layout of its input, takes statistics
and affine in float32, and saves the input, means and inverse deviations for the backward pass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.layers import group_norm_cpu, group_norm_cuda
from wszoo.tangents import has_tangent

_GRAPH_MODES = (torch._C._TorchDispatchModeKey.FUNCTIONAL, torch._C._TorchDispatchModeKey.PROXY)
_HALVES = (torch.bfloat16, torch.float16)


class Kernels(NamedTuple):
    """A forward and a backward pass, with the arguments of those in ``group_norm_cpu``."""

    normalize: Callable[[Tensor, int, Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]
    gradients: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def _stock_normalize(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    images, channels, height, width = x.shape
    return torch.native_group_norm(x, weight, bias, images, channels, height * width, groups, eps)


_ON_CUDA = Kernels(group_norm_cuda.normalize, group_norm_cuda.gradients)
_ON_BIG_MAPS = Kernels(_stock_normalize, group_norm_cpu.gradients)
_ON_SMALL_MAPS = Kernels(group_norm_cpu.normalize, group_norm_cpu.gradients)


class Limits(NamedTuple):
    """Up to where PyTorch's CPU kernels for channels_last are the slower ones.

    Attributes:
        channels: Channels per group from which on both passes are left to theirs.
        pixels: Pixels of a map from which on their forward pass is taken: it then sums whole rows
            of channels, squares as they are, which float32 would show, and half precision where
            the mean of a group is tens of its deviations. Never if ``None``.
        numel: Numbers in a map below which calls cost more than the arithmetic.
    """

    channels: int
    pixels: int | None
    numel: int


# Measured on one core with AVX-512: each pass beside BatchNorm's, over the maps of ResNet-50 at 64
# and 224 pixels in batches of 1 to 32. PyTorch's backward pass takes 5 to 20 times as long as
# BatchNorm's below the limit in half precision, 3 to 7 times in float32; its forward pass 7 to 30
# and 4 to 8 times. From the limit on it takes 0.8 to 1.3 and 0.7 to 2.3 times as long.
_LIMITS: dict[torch.dtype, Limits] = {
    torch.bfloat16: Limits(channels=16, pixels=1024, numel=2**13),
    torch.float16: Limits(channels=16, pixels=1024, numel=2**13),
    torch.float32: Limits(channels=8, pixels=None, numel=2**14),
}


def choose(x: Tensor, groups: int) -> Kernels | None:
    """The passes to take for ``x``, or ``None`` where ``F.group_norm`` is best."""
    if x.numel() == 0 or x.shape[1] % groups:
        return None
    if x.device.type == "cuda":
        return _ON_CUDA if x.dtype in _HALVES else None
    limits = _LIMITS.get(x.dtype)
    if limits is None or x.device.type != "cpu" or type(x) not in (Tensor, nn.Parameter):
        return None
    if x.dim() != 4 or x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    if x.shape[1] >= limits.channels * groups or x.numel() < limits.numel:
        return None
    if limits.pixels is None or x.shape[2] * x.shape[3] < limits.pixels:
        return _ON_SMALL_MAPS
    return _ON_BIG_MAPS


def in_a_graph(*tensors: Tensor | None) -> bool:
    """Whether operators are being recorded or transformed; those of PyTorch are understood best.

    Args:
        *tensors: What they are to take, any of which may have a tangent.
    """
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return True
    if torch._C._are_functorch_transforms_active() or has_tangent(*tensors):
        return True
    return bool(torch._C._len_torch_dispatch_stack()) and any(
        map(torch._C._get_dispatch_mode, _GRAPH_MODES)
    )


class _GroupNorm(torch.autograd.Function):
    """A forward and a backward pass, joined; the gradient can be differentiated again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, kernels: Kernels
    ) -> Tensor:
        y, mean, rstd = kernels.normalize(x, groups, weight, bias, eps)
        ctx.groups, ctx.eps, ctx.kernels = groups, eps, kernels
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        x, weight, bias, mean, rstd = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # create_graph: the saved statistics carry no graph
            # Aliases, lest a gradient is counted twice where one input depends on another.
            x, weight, bias = (tensor.view_as(tensor) for tensor in (x, weight, bias))
            again = F.group_norm(x.float(), ctx.groups, weight, bias, ctx.eps).to(x.dtype)
            inputs = [
                tensor for tensor, wanted in zip((x, weight, bias), needed, strict=True) if wanted
            ]
            found = iter(torch.autograd.grad(again, inputs, grad, create_graph=True))
            return *(next(found) if wanted else None for wanted in needed), None, None, None
        if x.device.type == "cpu":
            grad = grad.contiguous(memory_format=torch.channels_last)
        results = ctx.kernels.gradients(grad, x, mean, rstd, weight)
        return (
            *(result if wanted else None for result, wanted in zip(results, needed, strict=True)),
            None,
            None,
            None,
        )


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor | None:
    """The normalized map, or ``None`` where PyTorch's own operator is to be taken.

    Args:
        x: ``(N, C, *)``.
        groups: Groups of channels.
        weight: Scale per channel; ones if ``None``.
        bias: Shift per channel; zeros if ``None``.
        eps: Added to the variance.
    """
    if in_a_graph(x, weight, bias) or x.dim() < 2:
        return None
    channels = x.shape[1]
    if any(tensor is not None and tensor.shape != (channels,) for tensor in (weight, bias)):
        return None  # PyTorch says what is wrong
    if x.device.type == "cuda":  # elsewhere not worth the import
        from wszoo.triton_kernels import group_norm_act, usable

        if usable(x, groups):
            return group_norm_act(x, groups, weight, bias, eps)
    kernels = choose(x, groups)
    if kernels is None:
        return None
    weight = x.new_ones(channels, dtype=torch.float32) if weight is None else weight.float()
    bias = x.new_zeros(channels, dtype=torch.float32) if bias is None else bias.float()
    result: Tensor = _GroupNorm.apply(x, weight, bias, groups, eps, kernels)
    return result
