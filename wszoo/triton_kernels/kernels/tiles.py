# mypy: ignore-errors
# ruff: noqa: N803
"""What the kernels share: where a program's values lie, and sums over groups of channels.

A tile is ``(pixels, channels)`` in both layouts; the compiler orders the threads along the axis
that is contiguous in memory. Triton's language only looks like Python, so it is not type-checked.
"""

import triton
import triton.language as tl


@triton.jit
def place(tiles, blocks):
    """Block of channels, tile of pixels and image of this program; neighbours share pixels."""
    program = tl.program_id(0)
    return program % blocks, (program // blocks) % tiles, (program // (blocks * tiles)).to(tl.int64)


@triton.jit
def channels_of(
    block, num_groups, PER_GROUP: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr
):
    """Numbers of a program's channels and of their groups, and which of them exist."""
    lane = tl.arange(0, GROUPS * WIDTH)
    group = block * GROUPS + lane // WIDTH
    if PER_GROUP == WIDTH:
        channel = block * (GROUPS * WIDTH) + lane
        exists = channel < num_groups * PER_GROUP
    else:
        channel = group * PER_GROUP + lane % WIDTH
        exists = (lane % WIDTH < PER_GROUP) & (group < num_groups)
    return channel, group, exists


@triton.jit
def offsets(row, channel, pixels, channels, NHWC: tl.constexpr):
    """Where a tile lies within its image."""
    if NHWC:
        result = row[:, None] * channels + channel[None, :]
    else:
        result = channel[None, :] * pixels + row[:, None]
    return result


@triton.jit
def affine(weight, bias, channel, exists, AFFINE: tl.constexpr):
    """Scale and shift of a program's channels."""
    if AFFINE:
        scale = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
        shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    else:
        scale = tl.where(exists, 1.0, 0.0)
        shift = tl.where(exists, 0.0, 0.0)
    return scale, shift


@triton.jit
def per_group(values, WIDTH: tl.constexpr, GROUPS: tl.constexpr):
    """Sums over the channels of each group."""
    return tl.sum(tl.reshape(values, (GROUPS, WIDTH)), axis=1)


@triton.jit
def per_channel(values, WIDTH: tl.constexpr, GROUPS: tl.constexpr):
    """The value of a group for each of its channels."""
    return tl.reshape(tl.broadcast_to(values[:, None], (GROUPS, WIDTH)), (GROUPS * WIDTH,))
