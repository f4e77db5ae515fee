# mypy: ignore-errors
# ruff: noqa: N803
"""The gradients of GroupNorm, residual and ReLU: one pass where a slab fits, sums then apply else.

Where ReLU follows the norm alone, the sign of its input is computed again from ``x``, which is
read anyway. Where a residual was added, it is that of the output ``y``: reading it costs what
reading the residual would, and a net keeps ``y`` in any case, as the input of its next layer.
"""

import triton
import triton.language as tl

from wszoo.triton_kernels.kernels.tiles import (
    affine,
    channels_of,
    offsets,
    per_channel,
    per_group,
    place,
)


@triton.jit
def upstream(
    dy, y, value, mean, scale, shift, here, inside, RELU: tl.constexpr, RESIDUAL: tl.constexpr
):
    """The gradient behind ReLU, zero where it let nothing pass."""
    gradient = tl.load(dy + here, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        if RESIDUAL:
            out = tl.load(y + here, mask=inside, other=0.0).to(tl.float32)
        else:
            out = (value - mean[None, :]) * scale[None, :] + shift[None, :]
        gradient = tl.where(out <= 0.0, 0.0, gradient)
    return gradient


@triton.jit
def statistics(means, rstds, group, image, exists, num_groups):
    """Mean and reciprocal deviation for each of a program's channels."""
    here = image * num_groups + group
    mean = tl.load(means + here, mask=exists, other=0.0)
    return mean, tl.load(rstds + here, mask=exists, other=0.0)


@triton.jit(do_not_specialize=["steps", "tiles", "blocks", "plane"])
def sums(
    dy, x, y, weight, bias, means, rstds, dresidual, partial,
    pixels, num_groups, steps, tiles, blocks, plane,
    PER_GROUP: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
    NHWC: tl.constexpr, AFFINE: tl.constexpr, RELU: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Per tile and channel: the sum of the gradient, and of it times the normalized values.

    ``partial`` is ``(2, images, tiles, channels)``; ``plane`` is the size of its last three. With
    a residual behind ReLU its gradient is written here, and ``apply`` reads that instead of
    ``dy`` and ``y``.
    """
    block, tile, image = place(tiles, blocks)
    channel, group, exists = channels_of(block, num_groups, PER_GROUP, WIDTH, GROUPS)
    channels = num_groups * PER_GROUP
    dy += image * channels * pixels
    x += image * channels * pixels
    y += image * channels * pixels
    dresidual += image * channels * pixels
    mean, rstd = statistics(means, rstds, group, image, exists, num_groups)
    scale, shift = affine(weight, bias, channel, exists, AFFINE)
    scale *= rstd
    plain = tl.zeros((BLOCK, GROUPS * WIDTH), tl.float32)
    scaled = tl.zeros((BLOCK, GROUPS * WIDTH), tl.float32)
    start = tile * (steps * BLOCK)
    for first in range(start, tl.minimum(start + steps * BLOCK, pixels), BLOCK):
        row = first + tl.arange(0, BLOCK)
        inside = (row < pixels)[:, None] & exists[None, :]
        here = offsets(row, channel, pixels, channels, NHWC)
        value = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
        gradient = upstream(dy, y, value, mean, scale, shift, here, inside, RELU, RESIDUAL)
        if RELU and RESIDUAL:
            tl.store(dresidual + here, gradient.to(dresidual.dtype.element_ty), mask=inside)
        plain += gradient
        scaled += gradient * ((value - mean[None, :]) * rstd[None, :])
    partial += (image * tiles + tile) * channels
    tl.store(partial + channel, tl.sum(plain, axis=0), mask=exists)
    tl.store(partial + plane + channel, tl.sum(scaled, axis=0), mask=exists)


@triton.jit
def input_gradient(
    gradient, value, mean, rstd, weight, plain, scaled, total,
    WIDTH: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """``dx``, from the sums of the gradient over each channel of the image."""
    plain = per_channel(per_group(weight * plain, WIDTH, GROUPS) / total, WIDTH, GROUPS)
    scaled = per_channel(per_group(weight * scaled, WIDTH, GROUPS) / total, WIDTH, GROUPS)
    normalized = (value - mean[None, :]) * rstd[None, :]
    inner = weight[None, :] * gradient - plain[None, :] - normalized * scaled[None, :]
    return inner * rstd[None, :]


@triton.jit(do_not_specialize=["steps", "tiles", "blocks", "plane"])
def apply(
    dy, x, weight, bias, means, rstds, partial, dx,
    pixels, num_groups, steps, tiles, blocks, plane,
    PER_GROUP: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
    TILES: tl.constexpr, NHWC: tl.constexpr, AFFINE: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    """The gradient of the input, from the sums of all tiles."""
    block, tile, image = place(tiles, blocks)
    channel, group, exists = channels_of(block, num_groups, PER_GROUP, WIDTH, GROUPS)
    channels = num_groups * PER_GROUP
    mean, rstd = statistics(means, rstds, group, image, exists, num_groups)
    weights, shift = affine(weight, bias, channel, exists, AFFINE)
    scale = weights * rstd
    partial += image * tiles * channels
    plain = tl.zeros((TILES, GROUPS * WIDTH), tl.float32)
    scaled = tl.zeros((TILES, GROUPS * WIDTH), tl.float32)
    for first in range(0, tiles, TILES):
        other = first + tl.arange(0, TILES)
        inside = (other < tiles)[:, None] & exists[None, :]
        here = other[:, None] * channels + channel[None, :]
        plain += tl.load(partial + here, mask=inside, other=0.0)
        scaled += tl.load(partial + plane + here, mask=inside, other=0.0)
    plain = tl.sum(plain, axis=0)
    scaled = tl.sum(scaled, axis=0)
    total = pixels * 1.0 * PER_GROUP
    dy += image * channels * pixels
    x += image * channels * pixels
    dx += image * channels * pixels
    start = tile * (steps * BLOCK)
    for first in range(start, tl.minimum(start + steps * BLOCK, pixels), BLOCK):
        row = first + tl.arange(0, BLOCK)
        inside = (row < pixels)[:, None] & exists[None, :]
        here = offsets(row, channel, pixels, channels, NHWC)
        value = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
        gradient = upstream(dy, dy, value, mean, scale, shift, here, inside, RELU, False)
        out = input_gradient(
            gradient, value, mean, rstd, weights, plain, scaled, total, WIDTH, GROUPS
        )
        tl.store(dx + here, out.to(dx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["blocks"])
def whole(
    dy, x, y, weight, bias, means, rstds, dresidual, partial, dx,
    pixels, num_groups, blocks, plane,
    PER_GROUP: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
    NHWC: tl.constexpr, AFFINE: tl.constexpr, RELU: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Everything in one pass: the program holds all pixels of its groups."""
    block, _, image = place(1, blocks)
    channel, group, exists = channels_of(block, num_groups, PER_GROUP, WIDTH, GROUPS)
    channels = num_groups * PER_GROUP
    dy += image * channels * pixels
    x += image * channels * pixels
    y += image * channels * pixels
    dresidual += image * channels * pixels
    dx += image * channels * pixels
    mean, rstd = statistics(means, rstds, group, image, exists, num_groups)
    weights, shift = affine(weight, bias, channel, exists, AFFINE)
    scale = weights * rstd
    row = tl.arange(0, BLOCK)
    inside = (row < pixels)[:, None] & exists[None, :]
    here = offsets(row, channel, pixels, channels, NHWC)
    value = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
    gradient = upstream(dy, y, value, mean, scale, shift, here, inside, RELU, RESIDUAL)
    if RELU and RESIDUAL:
        tl.store(dresidual + here, gradient.to(dresidual.dtype.element_ty), mask=inside)
    plain = tl.sum(gradient, axis=0)
    scaled = tl.sum(gradient * ((value - mean[None, :]) * rstd[None, :]), axis=0)
    tl.store(partial + image * channels + channel, plain, mask=exists)
    tl.store(partial + plane + image * channels + channel, scaled, mask=exists)
    total = pixels * 1.0 * PER_GROUP
    out = input_gradient(gradient, value, mean, rstd, weights, plain, scaled, total, WIDTH, GROUPS)
    tl.store(dx + here, out.to(dx.dtype.element_ty), mask=inside)
