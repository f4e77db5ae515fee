import sys
from dataclasses import replace

import pytest
import torch

from wszoo.bench import footprint
from wszoo.bench.footprint import HELD, PEAK, measure
from wszoo.bench.memory_cell import Job, build, peak
from wszoo.bench.setting import Setting
from wszoo.bench.timing import WALL
from wszoo.memory import MEMORY

TINY = "test_resnet_gn_ws"
JOB = Job(
    kind="ours",
    level="fast",
    variant=TINY,
    batch=2,
    precision="fp32",
    layout="contiguous",
    device="cpu",
    threads=1,
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from Linux's /proc")


@pytest.fixture
def setting() -> Setting:
    device = torch.device("cpu")
    return Setting(variant=TINY, against=("bn",), device=device, clock=WALL, host_clock=WALL)


def test_what_is_held_per_image_is_told_of_every_level_and_peer(setting: Setting) -> None:
    rows = footprint.cells(setting)[0]()

    assert [(row.what, row.peer) for row in rows] == [
        (HELD, "BatchNorm"),
        *((f"{HELD}, memory={level!r}", "memory='fast'") for level in MEMORY[1:]),
    ]
    assert all(row.ratio < 1 for row in rows[1:])
    assert (rows[0].precision, rows[0].layout, rows[0].batch) == ("bf16", "channels_last", None)


def test_levels_are_told_apart_in_bf16_alone(setting: Setting) -> None:
    (row,) = footprint.cells(setting)[1]()

    assert (row.precision, row.layout, row.peer) == ("fp32", "contiguous", "BatchNorm")


def test_quick_leaves_the_larger_half_out(setting: Setting) -> None:
    whole, quick = footprint.cells(setting), footprint.cells(replace(setting, quick=True))

    assert (len(whole), len(quick)) == (10, 3)


@linux
def test_a_step_of_more_images_takes_more() -> None:
    small, large = peak(replace(JOB, batch=1), 64), peak(replace(JOB, batch=16), 160)

    assert large > small + 4 * 16 * 3 * 160 * 160  # at least as much as the images


@linux
@pytest.mark.slow
def test_it_is_measured_in_a_process_of_its_own() -> None:
    found = measure(replace(JOB, batch=4))

    assert found is not None and 4 * 224 * 224 * 4 < found < 10**9


@linux
@pytest.mark.slow
def test_what_ends_the_process_is_told_in_one_line() -> None:
    with pytest.raises(ValueError, match="is no variant of this zoo") as caught:
        measure(replace(JOB, variant="resnet5"))

    assert "\n" not in str(caught.value)


def test_a_peak_beyond_the_memory_is_left_out() -> None:
    found = {"memory='fast'": 100, "BatchNorm": None, "memory='lean'": 80}

    (row,) = footprint._rows(PEAK, found, "bf16", "channels_last", 8)

    assert (row.what, row.ratio) == (f"{PEAK}, memory='lean'", 0.8)


def test_a_level_belongs_to_the_net_that_is_built() -> None:
    plain, spare = build("ours", "fast", TINY), build("ours", "smallest", TINY)

    assert spare.training
    assert repr(plain) != repr(spare)


@pytest.mark.gpu
def test_on_a_gpu_the_peak_is_that_of_the_allocator() -> None:
    job = replace(JOB, device="cuda")

    assert peak(replace(job, batch=8)) > peak(job) > 0
