"""How a tensor is cut into the programs of one launch. Plain arithmetic, without Triton."""

from dataclasses import dataclass

LEAST_CHANNELS = 16  # of half precision: one 32-byte sector of memory, the least a read fetches
MOST_CHANNELS = 64
MOST_PER_GROUP = 512  # channels of one group; wider ones would leave a tile too few pixels
MOST_TILES = 128  # along the pixels: every program of the second pass reads the sums of all
SLAB = 16384  # values one program can hold in its registers
_WIDE = 32  # channels from which, in NCHW, what is kept per channel takes many of them, too
_TILE, _LEAST_TILE = 2048, 1024  # values a program of the two-pass form reads at once
_PER_WARP = 1024  # values: 32 threads with 32 each
_RESIDENT = 4  # programs a processor runs at a time, by registers
_WAVES = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One launch: who reads what.

    Attributes:
        width: Channels of a group, padded to a power of two.
        groups: Groups of one program, a power of two.
        block: Pixels it holds at once, a power of two.
        steps: Blocks of pixels that one program takes in turn.
        tiles: Programs side by side along the pixels.
        blocks: Programs side by side along the channels.
        warps: Of 32 threads, for each program.
        whole: A program sees all pixels of its groups at once, so that one pass is enough.
    """

    width: int
    groups: int
    block: int
    steps: int
    tiles: int
    blocks: int
    warps: int
    whole: bool


def make_plan(
    *,
    batch: int,
    pixels: int,
    num_groups: int,
    per_group: int,
    channels_last: bool,
    processors: int,
    slab: int = SLAB,
) -> Plan:
    """The launch for a tensor: one pass where a slab of it fits into registers, two otherwise.

    In channels_last a program takes at least 16 adjacent channels, so that no part of a memory
    sector is read for nothing. The grid has two waves of programs also for a single image, where
    the image is large enough.

    Args:
        batch: Images.
        pixels: Of each.
        num_groups: Groups of channels.
        per_group: Channels of one group.
        channels_last: The layout in memory; contiguous (NCHW) otherwise.
        processors: Multiprocessors of the GPU.
        slab: Values that fit one program; 0 never takes the one-pass form.
    """
    width = _power_above(per_group)
    shapes = _shapes(num_groups, width, LEAST_CHANNELS if channels_last else 1)
    if width >= _WIDE and not channels_last:
        slab //= 2
    one_pass = _one_pass(shapes, batch, pixels, width, slab, processors)
    if one_pass is not None:
        return one_pass
    if not channels_last:  # the pixels of a group are adjacent: nothing is won by several groups
        shapes = shapes[-1:]
    return _two_passes(shapes, batch, pixels, width, processors)


def _shapes(num_groups: int, width: int, least: int) -> list[tuple[int, int]]:
    """Groups of a program, and programs along the channels: the widest programs first."""
    shapes = []
    channels = max(MOST_CHANNELS, width)
    while channels >= max(least, width):
        groups = min(channels // width, _power_above(num_groups))
        shapes.append((groups, -(-num_groups // groups)))
        channels //= 2
    return shapes


def _one_pass(
    shapes: list[tuple[int, int]], batch: int, pixels: int, width: int, slab: int, processors: int
) -> Plan | None:
    """The widest programs that fit the registers and fill the GPU, else the narrowest."""
    block = _power_above(pixels)
    fitting = [shape for shape in shapes if shape[0] * width * block <= slab]
    if not fitting:
        return None
    filling = (shape for shape in fitting if batch * shape[1] >= _WAVES * processors)
    groups, blocks = next(filling, fitting[-1])
    warps = max(1, min(16, groups * width * block // _PER_WARP))
    return Plan(
        width=width, groups=groups, block=block, steps=1, tiles=1, blocks=blocks, warps=warps,
        whole=True,
    )  # fmt: skip


def _two_passes(
    shapes: list[tuple[int, int]], batch: int, pixels: int, width: int, processors: int
) -> Plan:
    """The widest programs of which there are enough, else those of which there are most."""
    wanted = _WAVES * _RESIDENT * processors
    plans = [_cut(*shape, batch, pixels, width, wanted) for shape in shapes]
    enough = (plan for plan in plans if batch * plan.tiles * plan.blocks >= wanted)
    return next(enough, None) or max(plans, key=lambda plan: plan.tiles * plan.blocks)


def _cut(groups: int, blocks: int, batch: int, pixels: int, width: int, wanted: int) -> Plan:
    """Tiles along the pixels, smaller ones where larger would leave processors idle."""
    channels = groups * width
    values = _TILE
    while values > _LEAST_TILE and batch * blocks * -(-pixels * channels // values) < wanted:
        values //= 2
    block = min(max(1, values // channels), _power_above(pixels))
    blocks_of_pixels = -(-pixels // block)
    tiles = min(blocks_of_pixels, MOST_TILES, -(-wanted // (batch * blocks)))
    steps = -(-blocks_of_pixels // tiles)
    tiles = -(-pixels // (steps * block))
    return Plan(
        width=width, groups=groups, block=block, steps=steps, tiles=tiles, blocks=blocks, warps=4,
        whole=False,
    )  # fmt: skip


def _power_above(number: int) -> int:
    """The least power of two that is not below ``number``."""
    return 1 << (number - 1).bit_length()
