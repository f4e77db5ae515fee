"""How tensors are cut."""

from itertools import product

import pytest

from wszoo.triton_kernels.plan import Plan, make_plan

H100 = 132  # multiprocessors


def plan(
    channels: int, pixels: int, *, batch: int = 1, last: bool = True, groups: int = 32
) -> Plan:
    return make_plan(
        batch=batch,
        pixels=pixels,
        num_groups=groups,
        per_group=channels // groups,
        channels_last=last,
        processors=H100,
    )


@pytest.mark.parametrize(
    ("channels", "side", "last", "batch"),
    [
        *product(
            (64, 128, 256, 512, 1024, 2048), (1, 7, 14, 28, 56, 112, 400), (True, False), (1, 32)
        )
    ],
)
def test_every_value_is_read_once_by_programs_that_fit(
    channels: int, side: int, last: bool, batch: int
) -> None:
    pixels = side * side
    cut = plan(channels, pixels, batch=batch, last=last)

    rows = cut.steps * cut.block
    assert (cut.tiles - 1) * rows < pixels <= cut.tiles * rows
    assert (cut.blocks - 1) * cut.groups < 32 <= cut.blocks * cut.groups
    values = cut.block * cut.groups * cut.width
    assert values <= (16384 if cut.whole else 2048)
    assert values <= 32 * 64 * cut.warps
    assert cut.tiles <= 128
    assert not last or cut.groups * cut.width >= 16, "a whole sector of memory"
    assert all(n & (n - 1) == 0 for n in (cut.block, cut.groups, cut.width, cut.warps))


@pytest.mark.parametrize("last", [True, False])
def test_one_large_image_fills_two_waves(last: bool) -> None:
    for channels, pixels in ((64, 112 * 112), (256, 200 * 333), (64, 400 * 667), (512, 100 * 167)):
        cut = plan(channels, pixels, last=last)

        assert not cut.whole
        assert cut.tiles * cut.blocks >= 2 * H100


def test_a_small_image_takes_one_pass() -> None:
    for channels, side in ((128, 28), (512, 28), (256, 14), (1024, 14), (512, 7), (2048, 7)):
        assert plan(channels, side * side).whole


def test_wide_groups_leave_fewer_registers_in_nchw() -> None:
    assert plan(2048, 14 * 14).whole
    assert not plan(2048, 14 * 14, last=False).whole
    assert plan(1024, 14 * 14, last=False).whole and not plan(1024, 17 * 17, last=False).whole


def test_wide_programs_are_taken_only_where_they_fill_the_gpu() -> None:
    assert plan(1024, 49, batch=1).groups == 1
    assert plan(1024, 49, batch=32).groups == 2, "64 channels: a line of memory"
    assert plan(64, 112 * 112, batch=32).groups == 32


def test_fewer_channels_than_a_sector_are_padded() -> None:
    assert plan(12, 9, groups=3).groups == 4
    assert plan(2, 9, groups=1).groups == 1
