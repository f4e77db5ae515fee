"""``group_norm_act``: the kernels as an operator of torch, with its derivatives.

The operator is opaque to ``torch.compile``: no graph break, and no fusion with its neighbours.
"""

from typing import Any

import torch
from torch import Tensor

from wszoo.triton_kernels import launch
from wszoo.triton_kernels.choice import usable
from wszoo.triton_kernels.composite import differentiable_gradients, group_norm_act_composite

_FORWARD, _BACKWARD = "wszoo::group_norm_act", "wszoo::group_norm_act_backward"
_DEFAULT = "default"  # any device: what has no kernel never gets here
_TAGS = (torch.Tag.needs_fixed_stride_order,)  # the output has the layout of x

torch.library.define(
    _FORWARD,
    "(Tensor x, int num_groups, Tensor? weight, Tensor? bias, float eps, bool relu,"
    " Tensor? residual) -> (Tensor, Tensor, Tensor)",
    tags=_TAGS,
)
torch.library.define(
    _BACKWARD,
    "(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd, Tensor? y,"
    " bool relu) -> (Tensor, Tensor, Tensor)",
    tags=_TAGS,
)


def group_norm_act(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float = 1e-5,
    *,
    relu: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """GroupNorm of ``x``, plus ``residual``, through ReLU, in the dtype and layout of ``x``.

    One or two Triton kernels each way where ``usable`` says so, the same in torch's operators
    otherwise. Mean, deviation and affine are float32 in both. For the backward pass it keeps
    ``x``, and mean and deviation of each group; the output too where both residual and ReLU are
    there, which the next layer keeps anyway. Second derivatives go through torch's operators.

    Args:
        x: ``(N, C, *)``.
        num_groups: Groups of channels; a divisor of ``C``.
        weight: ``(C,)``, or None for no affine.
        bias: ``(C,)``, or None.
        eps: Added to the variance.
        relu: Cut off what is negative, last.
        residual: Of the shape of ``x``; added before ReLU.

    Example:
        >>> x = torch.tensor([[[-3.0, 1.0], [1.0, 1.0]]])
        >>> group_norm_act(x, 1, None, None, relu=True)
        tensor([[[0.0000, 0.5773],
                 [0.5773, 0.5773]]])
    """
    if not (usable(x, num_groups, weight, bias, residual) and _alike(x, weight, bias, residual)):
        return group_norm_act_composite(x, num_groups, weight, bias, eps, relu, residual)
    out: Tensor = torch.ops.wszoo.group_norm_act(x, num_groups, weight, bias, eps, relu, residual)[
        0
    ]
    return out


def _alike(x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None) -> bool:
    """Whether the other tensors are what the kernels take beside ``x``."""
    if (weight is None) != (bias is None):
        return False
    if any(t is not None and t.device != x.device for t in (weight, bias, residual)):
        return False
    if any(t is not None and t.shape != x.shape[1:2] for t in (weight, bias)):
        return False  # PyTorch says what is wrong
    return residual is None or (residual.shape == x.shape and residual.dtype == x.dtype)


@torch.library.impl(_FORWARD, _DEFAULT)
def _forward(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    relu: bool,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    x = launch.dense(x)
    residual = None if residual is None else _in_layout_of(x, residual)
    return launch.forward(x, num_groups, weight, bias, eps, relu, residual)


def _forward_fake(x: Tensor, num_groups: int, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty((x.shape[0], num_groups), dtype=torch.float32) for _ in range(2))
    return torch.empty_like(launch.dense(x)), mean, rstd


@torch.library.impl(_BACKWARD, _DEFAULT)
def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    y: Tensor | None,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x = launch.dense(x)
    dy = _in_layout_of(x, dy)
    dx, dresidual, affine = launch.backward(dy, x, weight, bias, mean, rstd, y, relu)
    return dx, x.new_empty(0) if dresidual is None else dresidual, affine


def _backward_fake(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    y: Tensor | None,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x = launch.dense(x)
    dresidual = x.new_empty(0) if y is None else torch.empty_like(x)
    return torch.empty_like(x), dresidual, mean.new_empty((2, x.shape[1]))


def _in_layout_of(x: Tensor, other: Tensor) -> Tensor:
    """``other`` as the kernels index it; an upstream gradient may be expanded or strided."""
    if launch.in_channels_last(x):
        return other.contiguous(memory_format=torch.channels_last)
    return other.contiguous()


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, ctx.num_groups, weight, bias, ctx.eps, ctx.relu, residual = inputs
    y, mean, rstd = output
    ctx.residual = residual is not None
    ctx.mark_non_differentiable(mean, rstd)
    signs = y if ctx.relu and ctx.residual else None
    ctx.save_for_backward(x, weight, bias, mean, rstd, signs)


def _gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # create_graph: the result will be differentiated itself
        dx, dresidual, dweight, dbias = _twice_differentiable(ctx, dy)
    else:
        dx, dresidual, dweight, dbias = _from_kernels(ctx, dy)
    return dx, None, dweight, dbias, None, None, dresidual if ctx.residual else None


def _from_kernels(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, rstd, y = ctx.saved_tensors
    dx, dresidual, affine = torch.ops.wszoo.group_norm_act_backward(
        dy, x, weight, bias, mean, rstd, y, ctx.relu
    )
    if y is None:  # nothing was cut off behind the sum, or there is no residual
        dresidual = dy
    if weight is None:
        return dx, dresidual, None, None
    return dx, dresidual, affine[0].to(weight.dtype), affine[1].to(bias.dtype)


def _twice_differentiable(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, *_, mask = ctx.saved_tensors
    if ctx.relu and mask is None:
        with torch.no_grad():
            mask = group_norm_act_composite(x, ctx.num_groups, weight, bias, ctx.eps, False, None)
    mask = None if mask is None else mask > 0
    return differentiable_gradients(dy, x, ctx.num_groups, weight, bias, ctx.eps, mask)


torch.library.register_fake(_FORWARD, _forward_fake)
torch.library.register_fake(_BACKWARD, _backward_fake)
torch.library.register_autograd(_FORWARD, _gradients, setup_context=_setup_context)
