from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from train import study_inside as study
from train.studies.photos import Photos, Subset
from train.studies.results import declare
from train.study_inside import RECIPE, RESULTS, _verdict, main, page, plots, probe_photos
from wszoo.training.rows import append_row, read_rows


def subset() -> Subset:
    targets = torch.arange(24) % 2
    photos = Photos(pixels=torch.randint(0, 255, (24, 3, 8, 8)).byte(), targets=targets)
    return Subset(train=photos, held_out=photos, test=photos, classes=("a", "b"), facts={"n": 24})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "RECIPE", replace(RECIPE, batch=4, samples=16, chunk=8))
    monkeypatch.setattr(study, "EVERY", 8)
    monkeypatch.setattr(study, "SEEDS", (0, 1))
    monkeypatch.setattr(study, "read_subset", lambda *_, **__: subset())


@pytest.mark.usefixtures("quick")
def test_nets_are_probed_from_the_first_step_to_the_last_and_not_repeated(tmp_path: Path) -> None:
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output

    again = CliRunner().invoke(main, arguments)

    assert again.exit_code == 0 and again.output == ""
    rows, _ = read_rows(tmp_path / "out" / RESULTS)
    nets = [(row["norm"], row["seed"]) for row in rows]
    assert nets == [("gn", 0), ("gn_ws", 0), ("gn", 1), ("gn_ws", 1)]
    for row in rows:
        assert [probe["seen"] for probe in row["probes"]] == [0, 8, 16]
        assert all(len(probe["smoothness"]) == 3 for probe in row["probes"])
        assert len(row["before"]["active"]) == len(row["after"]["active"]) == 352
        assert row["before"]["active"] != row["after"]["active"]
    found = plots(tmp_path / "out")
    assert [*found] == ["smoothness", "loss_after_step", "channels"]
    assert all((tmp_path / "out" / f"{name}.png").exists() for name in found)
    assert "batches of 4" in (tmp_path / "out" / "README.md").read_text()


def row_of(kind: str, active: list[float], smoothness: list[float]) -> dict[str, Any]:
    probe = {"seen": 0, "loss": 2.0, "gradient": 1.0, "losses": [1.9, 1.5, 3.0], "kernels": 2.0}
    channels = {"active": active, "mean": [3.0, 1.0], "deviation": [1.0, 0.0]}
    row = {"norm": kind, "seed": 0, "probes": [{**probe, "smoothness": smoothness}], "top1": 30.0}
    facts = {"hardware": "h", "torch": "t", "code": "c"}
    return row | facts | {"before": {**channels, "active": [0.5, 0.5]}, "after": channels}


def test_figures_and_tables_show_what_the_probes_found(tmp_path: Path) -> None:
    plan = {"base_rate": 0.1, "batch": 16, "samples": 100}
    declare(tmp_path, {"plan": plan, "probes": study.PROBES})
    append_row(tmp_path / RESULTS, row_of("gn", [0.0, 0.5], [1.0, 7.0, 5.0]))
    assert plots(tmp_path) == {}
    append_row(tmp_path / RESULTS, row_of("gn_ws", [0.04, 0.97], [1.0, 2.0, 3.0]))

    found, text = plots(tmp_path), page(tmp_path)

    assert [line.y for line in found["smoothness"].series] == [[7.0], [3.0]]
    assert [line.y for line in found["loss_after_step"].series] == [[0.75], [0.75]]
    trained = {line.name: line for line in found["channels"].series}["GN, trained"]
    assert trained.y[0] == 50.0 and trained.y[trained.x.index(50.0)] == 100.0
    assert "| GN | 1 | 2 | 0.75 | 7 | 28 |" in text
    assert "| GN+WS | 1 | 2 | 0.75 | 3 | 12 |" in text
    assert "| GN, trained | 50.0 % | 0.0 % | 50.0 % | 3 |" in text
    assert "| GN+WS, trained | 50.0 % | 50.0 % | 0.0 % | 3 |" in text


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([3.0, 3.1], "GN+WS is smoother: the change of its gradient is that of GN -4 ± 0.64."),
        ([9.0, 9.1], "GN+WS is **not** smoother: the change of its gradient is that of GN +2 ±"),
        ([1.0, 9.1], "seeds do not tell the two apart, the change of its gradient is that of GN"),
        (
            [3.0],
            "seeds do not tell the two apart, the change of its gradient is that of GN -4 (one",
        ),
    ],
)
def test_the_page_says_whether_ours_is_smoother(ours: list[float], verdict: str) -> None:
    rows = [row_of("gn", [0.5], [7.0]), {**row_of("gn", [0.5], [7.0]), "seed": 1}]
    rows += [{**row_of("gn_ws", [0.5], [value]), "seed": i} for i, value in enumerate(ours)]

    assert verdict in _verdict(rows)


def test_probes_ask_about_the_same_photos_every_time() -> None:
    photos = subset().held_out

    first, again = probe_photos(photos, 8), probe_photos(photos, 8)

    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert len(first[0]) == 8


def test_data_is_needed_to_train() -> None:
    result = CliRunner().invoke(main, [])

    assert result.exit_code == 2
    assert "give --data, the folder of Tiny ImageNet, or --render alone" in result.output
