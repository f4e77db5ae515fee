import os
from dataclasses import replace

import pytest
import torch

from tests.bench.results import MACHINE
from wszoo.bench.machine import describe_machine


def test_a_machine_is_told_in_one_line() -> None:
    assert str(MACHINE) == (
        "Some CPU, 2 cores, 2 threads; torch 2.14.1, timm 1.0.31, wszoo 0.1.0 (abc123); "
        "load 0.1 before, 2.0 after; 2026-11-23"
    )
    bare = replace(MACHINE, gpu="Some GPU", threads=1, commit=None, load_before=None)
    assert str(bare) == ("Some GPU, 1 thread; torch 2.14.1, timm 1.0.31, wszoo 0.1.0; 2026-11-23")


@pytest.mark.parametrize(
    ("before", "after", "warnings"),
    [
        (0.1, 2.0, []),
        (2.4, 4.4, []),  # others leave room for two threads
        (None, None, []),
        (
            2.6,
            4.0,
            [
                "the machine was busy: load 2.6 before 2 threads began on 4 cores; "
                "measure again when it rests"
            ],
        ),
        (
            0.0,
            4.6,
            ["the machine was busy: load 4.6 at the end on 4 cores; measure again when it rests"],
        ),
    ],
)
def test_other_work_is_warned_of(
    before: float | None, after: float | None, warnings: list[str]
) -> None:
    assert replace(MACHINE, load_before=before, load_after=after).warnings() == warnings


def test_this_machine_is_described() -> None:
    machine = describe_machine(torch.device("cpu"), 0.5)

    assert machine.threads == torch.get_num_threads()
    assert 1 <= machine.usable <= machine.cores == os.cpu_count()
    assert machine.torch == torch.__version__.split("+")[0]
    assert (machine.gpu, machine.load_before) == (None, 0.5)
    assert machine.commit != "unknown"
