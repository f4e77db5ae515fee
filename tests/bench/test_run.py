import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from wszoo.bench import GROUPS, PEERS, Comparison, compare
from wszoo.bench.run import _CELLS

TINY = "test_resnet_gn_ws"


def test_every_group_is_measured_by_something() -> None:
    assert [*_CELLS] == [*GROUPS]


def test_a_run_has_what_was_asked_for() -> None:
    before = torch.get_num_threads()
    told: list[str] = []

    result = compare(
        f"{TINY}.any_tag",
        only=["operator"],
        against=["paper"],
        rounds=1,
        threads=2,
        tell=told.append,
    )

    assert (result.model, result.device, result.clock) == (TINY, "cpu", "wall time")
    assert {row.group for row in result.rows} == {"operator"}
    assert {row.peer for row in result.rows} == {"paper's WS", "all parameters"}
    assert {row.rounds for row in result.rows} == {1, None}
    assert told == [
        "making the nets",
        "1 of 6, operator: time, contiguous",
        "2 of 6, operator: time, channels_last",
        *(
            f"{place} of 6, operator: saved for backward, {kind}"
            for place, kind in enumerate(
                ("fp32 contiguous", "fp32 channels_last", "bf16 contiguous", "bf16 channels_last"),
                3,
            )
        ),
    ]
    assert (result.machine.threads, torch.get_num_threads()) == (2, before)
    assert result.met


def test_the_means_of_inference_come_first_in_its_group() -> None:
    result = compare(TINY, only=["inference"], against=["bn"], quick=True, rounds=1, cpu_time=True)

    means = [row.what.endswith("layouts") for row in result.rows]
    assert means == [True, True, *[False] * 8]
    assert result.clock == "processor time of one thread"
    assert result.machine.threads == 1


@pytest.mark.slow
def test_where_the_time_of_missed_goals_goes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    never = dict.fromkeys(("contiguous", "channels_last"), 1e-9)
    monkeypatch.setattr("wszoo.bench.setting.GOALS_FOR", TINY)
    monkeypatch.setattr("wszoo.bench.kernels.TIME_GOALS", {"jhu": never})
    monkeypatch.setattr("wszoo.bench.inference.MEAN_GOALS", {"timm": 1e-9})
    monkeypatch.setattr("wszoo.bench.inference.CELL_GOALS", {})
    told: list[str] = []

    result = compare(
        TINY,
        only=["operator", "inference"],
        against=["timm"],
        quick=True,
        rounds=1,
        tell=told.append,
    )

    assert [(each.name, *each.ours) for each in result.profiles] == [
        ("formula jhu, contiguous", "kernels", "allocation", "calls"),
        ("formula jhu, channels_last", "kernels", "allocation", "calls"),
        *(
            (
                f"{form}, mean over fp32, bf16 and both layouts, batch 1",
                *("convolution", "norm", "WS", "rest"),
            )
            for form in ("folded", "kept kernels")
        ),
    ]
    assert all(each.ours["WS"] == 0 < each.theirs["WS"] for each in result.profiles[2:])
    assert told[-1] == f"profile 4 of 4, inference: {result.profiles[3].name}"
    assert Comparison.from_json(json.loads(json.dumps(result.to_json()))) == result


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
