# mypy: ignore-errors
# ruff: noqa: N803
"""GroupNorm, residual and ReLU, forward: one pass where a slab fits, moments then apply otherwise.

Mean and deviation are float32 and never come from a difference of large sums: each thread keeps
Welford's running mean and squared deviation, and these are put together as Chan et al. do
(http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf).
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
def finish(
    value, mean, scale, shift, residual, here, inside,
    RELU: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """The output for normalized values; backward recomputes its sign by the same expression."""
    out = (value - mean[None, :]) * scale[None, :] + shift[None, :]
    if RESIDUAL:
        out += tl.load(residual + here, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        out = tl.where(out < 0.0, 0.0, out)  # which lets NaN pass, as torch does
    return out


@triton.jit(do_not_specialize=["steps", "tiles", "blocks", "plane"])
def moments(
    x, partial, pixels, num_groups, steps, tiles, blocks, plane,
    PER_GROUP: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
    NHWC: tl.constexpr,
):  # fmt: skip
    """Mean, and sum of squared deviations from it, of each group in each tile.

    ``partial`` is ``(2, images, tiles, groups)``; ``plane`` is the size of its last three.
    """
    block, tile, image = place(tiles, blocks)
    channel, _, exists = channels_of(block, num_groups, PER_GROUP, WIDTH, GROUPS)
    channels = num_groups * PER_GROUP
    x += image * channels * pixels
    start = tile * (steps * BLOCK)
    end = tl.minimum(start + steps * BLOCK, pixels)
    lane = tl.arange(0, BLOCK)
    mean = tl.zeros((BLOCK, GROUPS * WIDTH), tl.float32)
    squares = tl.zeros((BLOCK, GROUPS * WIDTH), tl.float32)
    seen = 0.0
    for first in range(start, end, BLOCK):
        row = first + lane
        inside = (row < pixels)[:, None] & exists[None, :]
        here = offsets(row, channel, pixels, channels, NHWC)
        value = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
        seen += 1.0
        gap = tl.where(inside, value - mean, 0.0)
        mean += gap * (1.0 / seen)
        squares += gap * (value - mean)
    count = (tl.maximum(end - start - lane + BLOCK - 1, 0) // BLOCK).to(tl.float32)[:, None]
    total = (end - start) * 1.0 * PER_GROUP
    of_group = per_group(tl.sum(mean * count, axis=0), WIDTH, GROUPS) / total
    gap = tl.where(exists[None, :], mean - per_channel(of_group, WIDTH, GROUPS)[None, :], 0.0)
    squares = per_group(tl.sum(squares + count * gap * gap, axis=0), WIDTH, GROUPS)
    group = block * GROUPS + tl.arange(0, GROUPS)
    partial += (image * tiles + tile) * num_groups
    tl.store(partial + group, of_group, mask=group < num_groups)
    tl.store(partial + plane + group, squares, mask=group < num_groups)


@triton.jit
def combine(
    partial, group, image, pixels, num_groups, rows, tiles, plane, eps,
    PER_GROUP: tl.constexpr, GROUPS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Mean and reciprocal deviation of a program's groups, from the tiles of one image."""
    partial += image * tiles * num_groups
    exists = (group < num_groups)[None, :]
    sums = tl.zeros((TILES, GROUPS), tl.float32)
    for first in range(0, tiles, TILES):
        tile = first + tl.arange(0, TILES)
        count = tl.maximum(tl.minimum(pixels - tile * rows, rows), 0).to(tl.float32)[:, None]
        here = tile[:, None] * num_groups + group[None, :]
        inside = (tile < tiles)[:, None] & exists
        sums += count * tl.load(partial + here, mask=inside, other=0.0)
    mean = tl.sum(sums, axis=0) / pixels
    squares = tl.zeros((TILES, GROUPS), tl.float32)
    for first in range(0, tiles, TILES):
        tile = first + tl.arange(0, TILES)
        count = tl.maximum(tl.minimum(pixels - tile * rows, rows), 0).to(tl.float32)[:, None]
        here = tile[:, None] * num_groups + group[None, :]
        inside = (tile < tiles)[:, None] & exists
        gap = tl.load(partial + here, mask=inside, other=0.0) - mean[None, :]
        squares += tl.load(partial + plane + here, mask=inside, other=0.0)
        squares += PER_GROUP * count * gap * gap
    variance = tl.sum(squares, axis=0) / (pixels * 1.0 * PER_GROUP)
    return mean, 1.0 / tl.sqrt(variance + eps)


@triton.jit(do_not_specialize=["steps", "tiles", "blocks", "plane"])
def apply(
    x, residual, weight, bias, partial, y, means, rstds,
    pixels, num_groups, steps, tiles, blocks, plane, eps,
    PER_GROUP: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
    TILES: tl.constexpr, NHWC: tl.constexpr, AFFINE: tl.constexpr, RELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
):  # fmt: skip
    """The output, from the moments of all tiles; tile 0 leaves mean and deviation for backward."""
    block, tile, image = place(tiles, blocks)
    channel, _, exists = channels_of(block, num_groups, PER_GROUP, WIDTH, GROUPS)
    group = block * GROUPS + tl.arange(0, GROUPS)
    mean, rstd = combine(
        partial, group, image, pixels, num_groups, steps * BLOCK, tiles, plane, eps,
        PER_GROUP, GROUPS, TILES,
    )  # fmt: skip
    keep = (group < num_groups) & (tile == 0)
    tl.store(means + image * num_groups + group, mean, mask=keep)
    tl.store(rstds + image * num_groups + group, rstd, mask=keep)
    scale, shift = affine(weight, bias, channel, exists, AFFINE)
    mean = per_channel(mean, WIDTH, GROUPS)
    scale *= per_channel(rstd, WIDTH, GROUPS)
    channels = num_groups * PER_GROUP
    x += image * channels * pixels
    residual += image * channels * pixels
    y += image * channels * pixels
    start = tile * (steps * BLOCK)
    for first in range(start, tl.minimum(start + steps * BLOCK, pixels), BLOCK):
        row = first + tl.arange(0, BLOCK)
        inside = (row < pixels)[:, None] & exists[None, :]
        here = offsets(row, channel, pixels, channels, NHWC)
        value = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
        out = finish(value, mean, scale, shift, residual, here, inside, RELU, RESIDUAL)
        tl.store(y + here, out.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["blocks"])
def whole(
    x, residual, weight, bias, y, means, rstds, pixels, num_groups, blocks, eps,
    PER_GROUP: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
    NHWC: tl.constexpr, AFFINE: tl.constexpr, RELU: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Everything in one pass: the program holds all pixels of its groups."""
    block, _, image = place(1, blocks)
    channel, _, exists = channels_of(block, num_groups, PER_GROUP, WIDTH, GROUPS)
    channels = num_groups * PER_GROUP
    x += image * channels * pixels
    residual += image * channels * pixels
    y += image * channels * pixels
    row = tl.arange(0, BLOCK)
    inside = (row < pixels)[:, None] & exists[None, :]
    here = offsets(row, channel, pixels, channels, NHWC)
    value = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
    total = pixels * 1.0 * PER_GROUP
    mean = per_group(tl.sum(value, axis=0), WIDTH, GROUPS) / total
    spread = per_channel(mean, WIDTH, GROUPS)
    gap = tl.where(inside, value - spread[None, :], 0.0)
    variance = per_group(tl.sum(gap * gap, axis=0), WIDTH, GROUPS) / total
    rstd = 1.0 / tl.sqrt(variance + eps)
    group = block * GROUPS + tl.arange(0, GROUPS)
    tl.store(means + image * num_groups + group, mean, mask=group < num_groups)
    tl.store(rstds + image * num_groups + group, rstd, mask=group < num_groups)
    scale, shift = affine(weight, bias, channel, exists, AFFINE)
    scale *= per_channel(rstd, WIDTH, GROUPS)
    out = finish(value, spread, scale, shift, residual, here, inside, RELU, RESIDUAL)
    tl.store(y + here, out.to(y.dtype.element_ty), mask=inside)
