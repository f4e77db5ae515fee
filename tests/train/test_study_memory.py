import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from click.testing import CliRunner

from train import study_memory as study
from train.studies.check import CHECKED, check
from train.studies.memory_cell import Cell, Steps, cpu_seconds, peak_beside_state
from train.study_memory import OUT, PRECISIONS, main, page, peaks, plots, read_results
from wszoo.finetune.memory import TIMES
from wszoo.memory import MEMORY

TINY = ["--model", "test_resnet_gn_ws", "--batch", "2", "--pixels", "64", "--rounds", "1"]


@pytest.mark.slow
def test_the_study_measures_all_levels_and_draws(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [*TINY, "--out", str(tmp_path / "memory")])

    assert result.exit_code == 0, result.output
    found = read_results(tmp_path / "memory")
    cells = [(row["precision"], row["level"]) for row in found["rows"]]
    assert cells == [(precision, level) for precision in PRECISIONS for level in MEMORY]
    assert all(row["time"] > 0 and row["held"] > 0 for row in found["rows"])
    assert check("memory", tmp_path) == []
    (tmp_path / "memory" / "README.md").unlink()
    assert CliRunner().invoke(main, ["--render", "--out", str(tmp_path / "memory")]).exit_code == 0
    assert check("memory", tmp_path) == []


def test_less_is_held_at_each_level() -> None:
    held = [
        peak_beside_state(Cell("test_resnet_gn_ws", level, "fp32", 4, 64))["held"]
        for level in MEMORY
    ]

    assert held == sorted(held, reverse=True)
    assert len(set(held)) == len(MEMORY)


def test_a_step_trains() -> None:
    steps = Steps(Cell("test_resnet_gn_ws", "small", "bf16", 2, 32))
    before = {name: p.detach().clone() for name, p in steps.net.named_parameters()}

    steps.hold_state()
    assert cpu_seconds(steps.step) > 0

    moved = [name for name, p in steps.net.named_parameters() if not p.equal(before[name])]
    assert {"conv1.weight", "layer1.0.bn2.weight", "fc.weight"} <= set(moved)


@pytest.mark.slow
def test_a_process_that_fails_is_named_with_its_last_word() -> None:
    with pytest.raises(OSError, match=r"that measures fast, fp32 failed: .*resnet999_gn_ws"):
        peaks(Cell("resnet999_gn_ws", "fast", "fp32", 1, 32))


def results(tmp_path: Path) -> dict[str, Any]:
    rows = [
        {"precision": precision, "level": level, "peak": 400 - 100 * place, "held": 5, "time": 1.2}
        for precision in PRECISIONS
        for place, level in enumerate(MEMORY)
    ]
    plan = {"model": "net", "batch": 4, "pixels": 224, "rounds": 5}
    facts = {"hardware": "1 CPU thread", "torch": "2", "code": "abc"}
    found = {"plan": plan, "seconds": dict.fromkeys(PRECISIONS, 1.5), "rows": rows, **facts}
    (tmp_path / "results.json").write_text(json.dumps(found))
    return found


def test_the_page_and_the_figure_tell_what_was_measured(tmp_path: Path) -> None:
    assert plots(tmp_path) == {}
    results(tmp_path)

    text, figure = page(tmp_path), plots(tmp_path)["memory"]

    assert "| `small` | the same but for the last convolution and the shortcut's |" in text
    assert "| bfloat16 | 200 | 50% | 5 | 1.20 |" in text
    assert "1.50 s in float32 and 1.50 s in bfloat16" in text
    assert [series.y for series in figure.series] == [[400, 300, 200, 100]] * 2
    assert "fast, lean, small, smallest" in figure.note


def test_the_committed_results_are_of_the_plan_and_fall_from_level_to_level() -> None:
    found = read_results(OUT)

    assert CHECKED["memory"].made_from == study.RESULTS
    assert found["plan"]["model"] == study.MODEL
    for precision in PRECISIONS:
        rows = [row for row in found["rows"] if row["precision"] == precision]
        assert [row["level"] for row in rows] == list(MEMORY)
        held = [row["held"] for row in rows]
        assert held == sorted(held, reverse=True)
        assert rows[-1]["peak"] < 0.75 * rows[0]["peak"]
        assert rows[-1]["time"] < 1.45


def test_fine_tuning_decides_by_the_committed_times() -> None:
    rows = read_results(OUT)["rows"]
    for level in MEMORY:
        times = [row["time"] for row in rows if row["level"] == level]
        assert TIMES[level] == pytest.approx(fmean(times), abs=0.01)
