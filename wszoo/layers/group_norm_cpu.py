"""GroupNorm of channels_last maps on the CPU, in passes that lie well in memory.

PyTorch's own kernel walks the channels of one group at a time there. Where a group has fewer
channels than a vector register, that is 3 to 26 times as slow as BatchNorm. Here every pass runs
over whole rows of channels, a group being a sum over neighbours at the end:

- big maps go image by image through BatchNorm's channels_last kernels, which take float32
  statistics and coefficients beside half-precision maps, and gradients in tiles of rows;
- small ones in tiles of several images, in float32 that stays in the cache.

Statistics, coefficients and all arithmetic are float32, and variances are those of centred values.
"""

import math
import threading

import torch
from torch import Tensor

_batch_moments = torch.ops.aten.batch_norm_update_stats.default
_batch_norm_out = torch.ops.aten.native_batch_norm.out
_batch_gradients = torch.ops.aten.native_batch_norm_backward.default
# In numbers, per thread; tuned on one core with 1 MiB of second-level cache.
_TILE = 2**19  # of a buffer: with fewer, calls take the time
_LARGEST_TILE = 2**22  # of a buffer of all threads, since buffers are kept
_BY_IMAGE = 2**16  # of an image that is worth a call: forward, and twice that backward

Normalized = tuple[Tensor, Tensor, Tensor]


def _rows(x: Tensor) -> Tensor:
    """``(N, H * W, C)``, a view of a channels_last map."""
    images, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).view(images, height * width, channels)


def _widen(of_groups: Tensor, channels: int) -> Tensor:
    """``(..., G, 1)`` to ``(..., 1, C)``."""
    *images, groups, _ = of_groups.shape
    wide = of_groups.expand(*images, groups, channels // groups)
    return wide.reshape(*images, 1, channels)


def _by_group(of_channels: Tensor, groups: int) -> Tensor:
    """``(..., C)`` to ``(..., G, D)``."""
    return of_channels.unflatten(-1, (groups, -1))


def _is_worth_a_call(image: Tensor, least: int) -> bool:
    return image.numel() >= least * torch.get_num_threads()


def _per_tile(numel: int) -> int:
    """How many pieces of ``numel`` numbers make a tile."""
    return max(1, min(_TILE * torch.get_num_threads(), _LARGEST_TILE) // numel)


class _Scratch(threading.local):
    """Two buffers that a thread keeps: asking for memory anew costs as much as the arithmetic."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.float32, device="cpu")

    def buffers(self, *shape: int) -> tuple[Tensor, Tensor]:
        numel = math.prod(shape)
        if self.memory.numel() < 2 * numel:
            with torch.inference_mode(False):  # or training could not write to them
                self.memory = torch.empty(2 * numel, dtype=torch.float32, device="cpu")
        first, second = self.memory[: 2 * numel].view(2, *shape).unbind()
        return first, second


_scratch = _Scratch()


def normalize(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Normalized:
    """The normalized map, with the mean and the inverse deviation of each group.

    Args:
        x: Channels_last map ``(N, C, H, W)`` of float32, bfloat16 or float16.
        groups: Groups of channels.
        weight: Scale per channel, float32.
        bias: Shift per channel, float32.
        eps: Added to the variance.

    Returns:
        The map, in the dtype and layout of ``x``; means and inverse deviations of shape
        ``(N, groups)``, float32.
    """
    by_image = len(x) == 1 or _is_worth_a_call(x[0], _BY_IMAGE)
    path = _normalize_by_image if by_image else _normalize_in_tiles
    return path(x, groups, weight, bias, eps)


def _normalize_by_image(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> Normalized:
    # Running statistics of float32 make the kernel return float32; nobody reads them.
    unread_mean, unread_variance = weight.new_zeros(2, len(weight))
    moments = [_batch_moments(image, unread_mean, unread_variance, 0.0) for image in x.split(1)]
    means, variances = (
        _by_group(torch.stack(of_images), groups) for of_images in zip(*moments, strict=True)
    )
    if x.dtype == torch.float32:  # the kernel adds up one by one, which costs a digit
        means = _by_group(_rows(x).mean(1), groups)
    mean = means.mean(2, True)
    variance = (means - mean).square_().add_(variances).mean(2, True)
    centres, scales = _widen(mean, len(weight)), _widen(variance, len(weight))
    y = torch.empty_like(x)
    none = weight.new_empty(0)
    for image, out, centre, scale in zip(
        x.split(1), y.split(1), centres.unbind(), scales.unbind(), strict=True
    ):
        _batch_norm_out(
            image, weight, bias, centre[0], scale[0], False, 0.0, eps,
            out=out, save_mean=none, save_invstd=none,
        )  # fmt: skip
    return y, mean.squeeze(2), variance.add_(eps).rsqrt_().squeeze(2)


def _normalize_in_tiles(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> Normalized:
    y = torch.empty_like(x)
    rows, out = _rows(x), _rows(y)
    exact = x.dtype == torch.float32
    scale = _by_group(weight, groups)
    mean, rstd = weight.new_empty(2, len(x), groups, 1)
    per_tile = min(_per_tile(x[0].numel()), len(x))
    buffers = _scratch.buffers(per_tile, *rows.shape[1:])
    for part, result, centre, inverse in zip(
        *(whole.split(per_tile) for whole in (rows, out, mean, rstd)), strict=True
    ):
        centred, work = (buffer[: len(part)] for buffer in buffers)
        values = part if exact else centred.copy_(part)
        torch.mean(_by_group(values.mean(1), groups), 2, True, out=centre)
        torch.sub(values, _widen(centre, len(weight)), out=centred)
        squares = torch.mul(centred, centred, out=work).mean(1)
        torch.mean(_by_group(squares, groups), 2, True, out=inverse).add_(eps).rsqrt_()
        factors = (inverse * scale).flatten(1).unsqueeze(1)
        normalized = torch.addcmul(bias, centred, factors, out=result if exact else work)
        if not exact:
            result.copy_(normalized)
    return y, mean.squeeze(2), rstd.squeeze(2)


def gradients(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor) -> Normalized:
    """The gradients of the map, of the scale and of the shift of ``normalize``.

    With r the inverse deviation, n the size of a group and c = x - mean, that of the map is
    ``r * weight * grad - r**3 * c * sum(weight * grad * c) / n - r * sum(weight * grad) / n``,
    the sums running over the group.

    Args:
        grad: Gradient of the result, of the shape, dtype and layout of ``x``.
        x: What was normalized.
        mean: As ``normalize`` returned it.
        rstd: As ``normalize`` returned it.
        weight: Scale per channel, float32.
    """
    by_image = len(x) == 1 or _is_worth_a_call(x[0], 2 * _BY_IMAGE)
    path = _gradients_by_image if by_image else _gradients_in_tiles
    return path(grad, x, mean.unsqueeze(2), rstd.unsqueeze(2), weight)


def _gradients_by_image(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor
) -> Normalized:
    centres, scales = _widen(mean, len(weight)), _widen(rstd, len(weight))
    sums = [
        _batch_gradients(
            part, image, weight, None, None, centre[0], scale[0], True, 0.0, [False, True, True]
        )[1:]
        for part, image, centre, scale in zip(
            grad.split(1), x.split(1), centres.unbind(), scales.unbind(), strict=True
        )
    ]
    of_scale, of_shift = (torch.stack(of_images) for of_images in zip(*sums, strict=True))
    factor = rstd / -(x[0].numel() // rstd.shape[1])
    slopes = _slopes(of_scale, of_shift, weight, torch.stack((factor * rstd, factor)))
    # Of x, not of c: one pass less.
    constants = torch.addcmul(slopes[1], slopes[0], centres, value=-1)
    result = torch.empty_like(x)
    _combine((_rows(x), _rows(grad), _rows(result)), (slopes[0], scales * weight, constants))
    return result, of_scale.sum(0), of_shift.sum(0)


def _slopes(of_scale: Tensor, of_shift: Tensor, weight: Tensor, factors: Tensor) -> Tensor:
    """What c is multiplied by and what is added, ``(2, N, 1, C)``, from ``(N, C)`` sums."""
    weighted = torch.stack((of_scale, of_shift)).mul_(weight)
    of_groups = _by_group(weighted, factors.shape[2]).sum(3, True).mul_(factors)
    return _widen(of_groups, len(weight))


def _combine(
    maps: tuple[Tensor, Tensor, Tensor], coefficients: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Write ``constant + x * of_x + grad * of_grad`` image by image, rounded once."""
    _, pixels, channels = maps[0].shape
    length = min(_per_tile(channels), pixels)
    buffers = _scratch.buffers(length, channels)
    for index in range(len(maps[0])):
        of_x, of_grad, constant = (part[index] for part in coefficients)
        for x, grad, out in zip(*(part[index].split(length) for part in maps), strict=True):
            if out.dtype == torch.float32:
                torch.addcmul(constant, x, of_x, out=out).addcmul_(grad, of_grad)
                continue
            values, upstream = (
                buffer[: len(x)].copy_(part)
                for buffer, part in zip(buffers, (x, grad), strict=True)
            )
            torch.addcmul(constant, values, of_x, out=values).addcmul_(upstream, of_grad)
            out.copy_(values)


def _gradients_in_tiles(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor
) -> Normalized:
    result = torch.empty_like(x)
    rows, grad_rows, out = _rows(x), _rows(grad), _rows(result)
    exact = x.dtype == torch.float32
    centres, scales = _widen(mean, len(weight)), _widen(rstd, len(weight))
    factor = rstd / -(x[0].numel() // rstd.shape[1])
    factors = torch.stack((factor * rstd.square(), factor), dim=1)
    products, grads = weight.new_empty(2, len(x), len(weight))
    per_tile = min(_per_tile(x[0].numel()), len(x))
    buffers = _scratch.buffers(per_tile, *rows.shape[1:])
    inputs = (rows, grad_rows, out, centres, scales * weight, factors, products, grads)
    for part, upstream, target, centre, of_grad, factor, product, level in zip(
        *(whole.split(per_tile) for whole in inputs), strict=True
    ):
        centred, work = (buffer[: len(part)] for buffer in buffers)
        values = part if exact else centred.copy_(part)
        upstream = upstream if exact else upstream.float()
        torch.sub(values, centre, out=centred)
        torch.sum(upstream, 1, out=level)
        torch.sum(torch.mul(centred, upstream, out=work), 1, out=product)
        of_centred, constant = _slopes(product, level, weight, factor.transpose(0, 1))
        work = target if exact else work
        torch.addcmul(constant, centred, of_centred, out=work).addcmul_(upstream, of_grad)
        if not exact:
            target.copy_(work)
    return result, products.mul_(scales.squeeze(1)).sum(0), grads.sum(0)
