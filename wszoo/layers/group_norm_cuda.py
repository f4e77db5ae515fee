"""GroupNorm of half-precision maps on CUDA, with float32 statistics and affine.

PyTorch's kernel has no form that mixes dtypes: autocast runs it in float32 and saves a float32 copy
of every map, and in half precision it rounds means and deviations to half precision. Here the
moments and the sums for the gradient come from BatchNorm's kernels, which see each image's groups
or channels as channels of one long image; the rest is arithmetic with float32 coefficients.

A forward pass reads the map twice and writes it once, in four kernels; a backward pass reads map
and gradient twice each and writes one float32 map, which is freed at once, and the gradient. As in
PyTorch's kernel, channels_last maps are laid out anew for it; the result lies as the input does.
"""

import torch
from torch import Tensor

_batch_gradients = torch.ops.aten.native_batch_norm_backward.default
_library = torch.library.Library("wszoo", "FRAGMENT")
_library.define("moments(Tensor rows, float eps) -> (Tensor, Tensor)")
_library.impl("moments", torch.batch_norm_stats, "CUDA")


def _moments_on_cpu(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """What the CUDA kernel gives, for tests of the arithmetic around it."""
    variance, mean = torch.var_mean(rows.float(), dim=(0, 2), correction=0)
    return mean, (variance + eps).rsqrt()


def _fake_moments(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    mean = rows.new_empty(rows.shape[1], dtype=torch.float32)
    return mean, torch.empty_like(mean)


_library.impl("moments", _moments_on_cpu, "CPU")
torch.library.register_fake("wszoo::moments", _fake_moments, lib=_library)


def _laid_out_as(x: Tensor, result: Tensor) -> Tensor:
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return result.contiguous(memory_format=torch.channels_last)
    return result


def normalize(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalized map, with the mean and the inverse deviation of each group.

    Args:
        x: ``(N, C, *)`` of bfloat16 or float16, not empty.
        groups: Groups of channels.
        weight: Scale per channel, float32.
        bias: Shift per channel, float32.
        eps: Added to the variance.

    Returns:
        The map, in the dtype and layout of ``x``; means and inverse deviations of shape
        ``(N, groups)``, float32.
    """
    images, channels = x.shape[:2]
    rows = x.contiguous().view(images, groups, channels // groups, -1)
    of_groups = rows.view(1, images * groups, -1)
    mean, rstd = (moment.view(images, groups) for moment in torch.ops.wszoo.moments(of_groups, eps))
    by_group = groups, channels // groups, 1
    scale = rstd[:, :, None, None] * weight.view(by_group)
    shift = torch.addcmul(bias.view(by_group), mean[:, :, None, None], scale, value=-1)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    torch.addcmul(shift, rows, scale, out=y.view(rows.shape))
    return _laid_out_as(x, y), mean, rstd


def gradients(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the map, of the scale and of the shift of ``normalize``.

    Args:
        grad: Gradient of the result, of the shape and dtype of ``x``.
        x: What was normalized.
        mean: As ``normalize`` returned it.
        rstd: As ``normalize`` returned it.
        weight: Scale per channel, float32.
    """
    images, groups = mean.shape
    per_group = x.shape[1] // groups
    rows, upstream = (
        tensor.contiguous().view(1, images * groups * per_group, -1) for tensor in (x, grad)
    )
    centres, scales = (
        moment.unsqueeze(2).expand(images, groups, per_group).reshape(-1) for moment in (mean, rstd)
    )
    # The scale only says that sums are to be float32.
    _, of_scale, of_shift = _batch_gradients(
        upstream, rows, scales, None, None, centres, scales, True, 0.0, [False, True, True]
    )
    size = x[0].numel() // groups
    by_group = images, groups, per_group
    affine = weight.view(groups, per_group)
    of_scale, of_shift = of_scale.view(by_group), of_shift.view(by_group)
    factor = (rstd / -size).unsqueeze(2)
    of_x = (of_scale * affine).sum(2, True) * factor * rstd.unsqueeze(2)
    constant = torch.addcmul(
        (of_shift * affine).sum(2, True) * factor, of_x, mean.unsqueeze(2), value=-1
    )
    of_grad = scales.view(by_group) * affine
    shape = *by_group, -1
    level = torch.addcmul(constant.unsqueeze(3), upstream.view(shape), of_grad.unsqueeze(3))
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    torch.addcmul(level, rows.view(shape), of_x.unsqueeze(3), out=result.view(shape))
    return _laid_out_as(x, result), of_scale.sum(0).view(-1), of_shift.sum(0).view(-1)
