"""The same function in plain torch ops: what stands in for the kernels, and their derivatives."""

import torch
import torch.nn.functional as F
from torch import Tensor


def group_norm_act_composite(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    relu: bool,
    residual: Tensor | None,
) -> Tensor:
    """GroupNorm with statistics in at least float32, then the residual, then ReLU.

    Args and shapes as for ``group_norm_act``; any device, dtype and layout.
    """
    out = _group_norm(x, num_groups, weight, bias, eps)
    if residual is not None:
        out = out + residual
    out = out.to(x.dtype)
    return F.relu(out) if relu else out


def _group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    weight, bias = (None if t is None else t.to(dtype) for t in (weight, bias))
    return F.group_norm(x.to(dtype), num_groups, weight, bias, eps)


def differentiable_gradients(
    dy: Tensor,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mask: Tensor | None,
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """Gradients of ``x``, the residual, weight and bias, which can be differentiated once more.

    The kernels' own backward pass cannot be: what it takes as given, mean and deviation, depends
    on ``x``.

    Args:
        dy: Gradient of the output.
        x: As for ``group_norm_act``, as are ``num_groups``, ``weight``, ``bias`` and ``eps``.
        num_groups: See there.
        weight: See there.
        bias: See there.
        eps: See there.
        mask: Where ReLU let values pass; None without ReLU.
    """
    with torch.enable_grad():
        # Aliases: x may itself be a function of the weight, or of the residual, and only the
        # direct dependence on each is wanted here.
        inputs = [None if t is None else t.view_as(t) for t in (x, weight, bias)]
        alias, scale, shift = inputs
        assert alias is not None
        wanted = [t for t in inputs if t is not None and t.requires_grad]
        out = _group_norm(alias, num_groups, scale, shift, eps)
        upstream = dy if mask is None else torch.where(mask, dy, 0.0)
        gradients = iter(
            torch.autograd.grad(out, wanted, upstream.to(out.dtype), create_graph=True)
            if wanted
            else ()
        )
    of_x, of_weight, of_bias = (
        next(gradients) if t is not None and t.requires_grad else None for t in inputs
    )
    return of_x, upstream, of_weight, of_bias
