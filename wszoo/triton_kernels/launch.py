"""Launches of the kernels on tensors; needs Triton, which is imported by the first launch."""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from wszoo.triton_kernels.plan import Plan, make_plan

_INTERPRETED_PROCESSORS = 132  # of an H100: the interpreter then cuts tensors as that GPU would
_TILES = 16  # tiles whose sums a program of the second pass reads at once


def in_channels_last(x: Tensor) -> bool:
    """Whether channels are adjacent in memory; of layouts that are both, this one is taken."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def dense(x: Tensor) -> Tensor:
    """``x`` itself where it is contiguous in either layout, else a contiguous copy."""
    return x if in_channels_last(x) else x.contiguous()


def plan_for(x: Tensor, num_groups: int) -> Plan:
    """How the launches for ``x``, ``(N, C, *)`` and dense, are cut."""
    return make_plan(
        batch=x.shape[0],
        pixels=x[0, 0].numel(),
        num_groups=num_groups,
        per_group=x.shape[1] // num_groups,
        channels_last=in_channels_last(x),
        processors=_processors(x.device),
    )


def forward(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    relu: bool,
    residual: Tensor | None,
    plan: Plan | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, in the dtype and layout of ``x``, with mean and reciprocal deviation.

    Args:
        x: ``(N, C, *)``, dense in either layout.
        num_groups: Groups of channels.
        weight: ``(C,)``, or None together with ``bias``.
        bias: ``(C,)``.
        eps: Added to the variance.
        relu: Cut off what is negative, last.
        residual: Added to the norm's output; shape, dtype and layout of ``x``.
        plan: How to cut it; chosen from the shape where None.

    Returns:
        The output, and the two of shape ``(N, num_groups)`` in float32.
    """
    plan = plan or plan_for(x, num_groups)
    kernels = import_module("wszoo.triton_kernels.kernels.forward")
    y = torch.empty_like(x)
    mean, rstd = (_workspace(x, x.shape[0], num_groups) for _ in range(2))
    tensors = (x, x if residual is None else residual, *_affine(x, weight, bias))
    shape = (x[0, 0].numel(), num_groups)
    tiling = _tiling(x, num_groups, plan)
    flags = dict(AFFINE=weight is not None, RELU=relu, RESIDUAL=residual is not None)
    grid = (x.shape[0] * plan.tiles * plan.blocks,)
    with _on(x.device):
        if plan.whole:
            kernels.whole[grid](
                *tensors, y, mean, rstd, *shape, plan.blocks, eps, **tiling, **flags
            )
        else:
            partial = _workspace(x, 2, x.shape[0], plan.tiles, num_groups)
            cut = (plan.steps, plan.tiles, plan.blocks, partial[0].numel())
            kernels.moments[grid](x, partial, *shape, *cut, **tiling)
            kernels.apply[grid](
                *tensors, partial, y, mean, rstd, *shape, *cut, eps, TILES=_TILES, **tiling, **flags
            )
    return y, mean, rstd


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    y: Tensor | None,
    relu: bool,
    plan: Plan | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The gradients of ``x``, of the residual where ``y`` is given, and of the affine.

    Args:
        dy: Gradient of the output, shape, dtype and layout of ``x``.
        x: What ``forward`` got, as are ``weight``, ``bias`` and ``relu``.
        weight: See there.
        bias: See there.
        mean: What ``forward`` gave, as is ``rstd``.
        rstd: See there.
        y: The output, where a residual was added and ReLU followed: its sign is needed.
        relu: See ``forward``.
        plan: How to cut it; chosen from the shape where None.

    Returns:
        ``dx``; the gradient of the residual or None; and ``(2, C)`` in float32: the gradients of
        weight and bias, added up in the same order in every run.
    """
    num_groups = mean.shape[1]
    plan = plan or plan_for(x, num_groups)
    kernels = import_module("wszoo.triton_kernels.kernels.backward")
    dx = torch.empty_like(x)
    dresidual = None if y is None else torch.empty_like(x)
    partial = _workspace(x, 2, x.shape[0], plan.tiles, x.shape[1])
    saved = (*_affine(x, weight, bias), mean, rstd)
    shape = (x[0, 0].numel(), num_groups)
    tiling = _tiling(x, num_groups, plan) | dict(AFFINE=weight is not None)
    sources = (dy, x, dy if y is None else y, *saved, dx if dresidual is None else dresidual)
    flags = dict(RELU=relu, RESIDUAL=y is not None)
    plane = partial[0].numel()
    grid = (x.shape[0] * plan.tiles * plan.blocks,)
    with _on(x.device):
        if plan.whole:
            kernels.whole[grid](
                *sources, partial, dx, *shape, plan.blocks, plane, **tiling, **flags
            )
        else:
            cut = (plan.steps, plan.tiles, plan.blocks, plane)
            kernels.sums[grid](*sources, partial, *shape, *cut, **tiling, **flags)
            masked = dresidual is not None
            kernels.apply[grid](
                dresidual if masked else dy, x, *saved, partial, dx, *shape, *cut,
                TILES=_TILES, RELU=relu and not masked, **tiling,
            )  # fmt: skip
    return dx, dresidual, partial.sum(dim=(1, 2)).flip(0)


def _tiling(x: Tensor, num_groups: int, plan: Plan) -> dict[str, Any]:
    return dict(
        PER_GROUP=x.shape[1] // num_groups,
        WIDTH=plan.width,
        GROUPS=plan.groups,
        BLOCK=plan.block,
        NHWC=in_channels_last(x),
        num_warps=plan.warps,
    )


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Pointers for the kernels; without an affine they read neither."""
    if weight is None or bias is None:
        return x, x
    return weight.contiguous(), bias.contiguous()


def _workspace(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=x.device)


@lru_cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever device the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
