from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from train import study_accumulation as study
from train.studies.learn import Plan
from train.studies.photos import Photos, Subset
from train.studies.results import declare
from train.study_accumulation import (
    OUT,
    PAIRS,
    RESULTS,
    _row,
    compare,
    losses_differ,
    main,
    page,
    plots,
)
from wszoo.training.rows import append_row, read_rows


def subset() -> Subset:
    targets = torch.arange(24) % 2
    photos = Photos(pixels=torch.randint(0, 255, (24, 3, 8, 8)).byte(), targets=targets)
    return Subset(train=photos, held_out=photos, test=photos, classes=("a", "b"), facts={"n": 24})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(batch=4, base_rate=0.1, samples=16, seed=0, chunk=8)
    monkeypatch.setattr(study, "PLAN", plan)
    monkeypatch.setattr(study, "read_subset", lambda *_, **__: subset())


@pytest.mark.usefixtures("quick")
def test_passes_of_one_image_are_a_batch_with_gn_ws_and_not_with_bn() -> None:
    ours, bn, nudged = (compare(pair, subset()) for pair in PAIRS[:3])

    for row in (ours, nudged):
        assert 0 < row["parameters_differ"] < 1e-10
        assert max(losses_differ(row)) < 1e-10
    assert bn["parameters_differ"] > 1e-4
    assert max(losses_differ(bn)) > 1e-3


@pytest.mark.usefixtures("quick")
def test_the_study_goes_on_where_it_was_and_draws(tmp_path: Path) -> None:
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output
    assert [line.split(":")[0] for line in first.output.splitlines()] == [
        "GN+WS, float64",
        "BN, float64",
        "GN+WS, one value nudged, float64",
        "GN+WS, float32",
    ]

    again = CliRunner().invoke(main, arguments)

    assert again.output == ""
    assert len(read_rows(tmp_path / "out" / RESULTS)[0]) == len(PAIRS)
    found = plots(tmp_path / "out")
    assert [line.name for line in found["loss"].series] == [
        "BN, 1 pass of 4",
        "BN, 4 passes of 1",
        "GN+WS, 1 pass of 4",
        "GN+WS, 4 passes of 1",
    ]
    assert all(line.x == [8, 16] for plot in found.values() for line in plot.series)
    assert all((tmp_path / "out" / f"{name}.png").exists() for name in found)
    assert "takes 4 steps of 4 images twice" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.usefixtures("quick")
def test_what_was_not_run_is_said(tmp_path: Path) -> None:
    declare(tmp_path, {"plan": asdict(study.PLAN)})
    row = {**PAIRS[1]._asdict(), "losses": [2.0, 2.0], "losses_changed": [2.0, 1.0]}
    row |= {"parameters_differ": 0.25, "hardware": "h", "torch": "t", "code": "c"}
    append_row(tmp_path / RESULTS, row)

    assert plots(tmp_path) == {}
    assert "| BN, float64 | 0 | 5.0e-01 | 5.0e-01 | 2.5e-01 |" in page(tmp_path)
    assert "| GN+WS, float64 | not run | not run | not run | not run |" in page(tmp_path)


def test_data_is_needed_to_train() -> None:
    result = CliRunner().invoke(main, [])

    assert result.exit_code == 2
    assert "give --data, the folder of Tiny ImageNet, or --render alone" in result.output


def test_the_committed_results_say_what_the_title_says() -> None:
    ours, bn, nudged = (_row(read_rows(OUT / RESULTS)[0], pair) for pair in PAIRS[:3])

    assert ours and bn and nudged
    assert losses_differ(ours)[0] < 1e-12 and losses_differ(bn)[0] > 1e-3
    # The curves cannot be told apart in the picture, nor better than those of a nudge.
    assert max(losses_differ(ours)) < max(0.01, 3 * max(losses_differ(nudged)))
    assert max(losses_differ(bn)) > 10 * max(losses_differ(ours))
