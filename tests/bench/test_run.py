import re
from pathlib import Path
from typing import Any

import pytest
import torch

from wszoo.bench import GROUPS, PEERS, compare
from wszoo.bench.run import _CELLS

TINY = "test_resnet_gn_ws"


def test_every_group_is_measured_by_something() -> None:
    assert [*_CELLS] == [*GROUPS]


def test_a_run_has_what_was_asked_for() -> None:
    before = torch.get_num_threads()
    told: list[tuple[int, str]] = []

    def progress(parts: Any, total: int, label: str) -> Any:
        told.append((total, label))
        return parts

    result = compare(
        f"{TINY}.any_tag",
        only=["operator"],
        against=["paper"],
        rounds=1,
        threads=2,
        progress=progress,
    )

    assert (result.model, result.device, result.clock) == (TINY, "cpu", "wall time")
    assert {row.group for row in result.rows} == {"operator"}
    assert {row.peer for row in result.rows} == {"paper's WS", "all parameters"}
    assert {row.rounds for row in result.rows} == {1, None}
    assert told == [(6, "bench")]
    assert (result.machine.threads, torch.get_num_threads()) == (2, before)
    assert result.met


def test_the_means_of_inference_come_first_in_its_group() -> None:
    result = compare(TINY, only=["inference"], against=["bn"], quick=True, rounds=1, cpu_time=True)

    means = [row.what.endswith("layouts") for row in result.rows]
    assert means == [True, True, *[False] * 8]
    assert result.clock == "processor time of one thread"
    assert result.machine.threads == 1


@pytest.mark.gpu
def test_a_gpu_is_timed_by_its_own_clock() -> None:
    result = compare(TINY, only=["operator", "training"], rounds=1, quick=True, device="cuda")

    assert result.clock == "time between CUDA events"
    assert result.machine.gpu
    assert all(row.ratio > 0 and row.goal is None for row in result.rows)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            TINY,
            {"against": ["mmcv"]},
            f"no peer 'mmcv' to compare with; the peers: {', '.join(PEERS)}",
        ),
        (
            TINY,
            {"only": ["speed"]},
            f"no group 'speed' of measurements; the groups: {', '.join(GROUPS)}",
        ),
        (TINY, {"device": "tpu"}, "no device 'tpu' to measure on; the devices: cpu, cuda"),
        (TINY, {"rounds": 0}, "rounds must be at least 1, got 0"),
        (TINY, {"threads": 0}, "threads must be at least 1, got 0"),
        (
            TINY,
            {"device": "cuda", "cpu_time": True},
            "processor time says nothing about a GPU; leave --cpu-time out",
        ),
        (
            TINY,
            {"threads": 2, "cpu_time": True},
            "processor time of 2 threads is no time that anybody waits; "
            "give --threads 1 or leave --cpu-time out",
        ),
        ("resnet50", {}, "'resnet50' is no variant of this zoo; `wszoo list` shows them"),
    ],
)
def test_wrong_arguments_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        compare(name, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_without_a_gpu_none_is_measured() -> None:
    with pytest.raises(
        ValueError, match="this machine has no CUDA device; leave --device out to take the CPU"
    ):
        compare(TINY, device="cuda")


def test_photos_that_are_not_there_are_missed_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder or archive"):
        compare(TINY, data=tmp_path / "gone")
