import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from train.studies.check import CHECKED, check, main
from train.studies.figures import PLOTTED
from train.studies.results import STUDIES
from train.study_invariance import OUT, read_results


def committed() -> list[str]:
    return [name for name in CHECKED if (STUDIES / name / CHECKED[name].made_from).exists()]


def test_every_figure_and_page_is_what_the_committed_results_give() -> None:
    assert {"accumulation", "inside", "invariance", "seed"} <= set(committed())
    for name in committed():
        assert check(name) == [], "out of date: run `python -m train.studies.check --render`"


def test_a_number_a_picture_or_a_page_that_differs_is_named(tmp_path: Path) -> None:
    shutil.copytree(STUDIES / "accumulation", tmp_path / "accumulation")
    plotted = tmp_path / "accumulation" / PLOTTED
    facts = json.loads(plotted.read_text())
    was = facts["loss"]["series"][0]["y"][3]
    facts["loss"]["series"][0]["y"][3] = 9.5
    plotted.write_text(json.dumps(facts))
    (tmp_path / "accumulation" / "loss.png").unlink()
    page = tmp_path / "accumulation" / "README.md"
    page.write_text(page.read_text().replace("BN", "GN"))

    result = CliRunner().invoke(main, ["--studies", str(tmp_path)])

    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"accumulation: loss.series[0].y[3] is 9.5, and the results give {was}",
        "accumulation: no loss.png",
        "accumulation: README.md is not what the results give",
        "accumulation: checked",
    ]


def test_what_was_never_drawn_is_named_and_rendering_mends_it(tmp_path: Path) -> None:
    shutil.copytree(STUDIES / "invariance", tmp_path / "invariance")
    (tmp_path / "invariance" / PLOTTED).unlink()
    missing = "invariance: no figures.json; run `python -m train.studies.check --render`"

    assert check("invariance", tmp_path) == [missing]
    result = CliRunner().invoke(main, ["--studies", str(tmp_path), "--render", "--json"])

    assert result.exit_code == 0
    assert json.loads(result.output) == {"invariance": []}
    assert check("invariance", tmp_path) == []


@pytest.mark.parametrize("name", CHECKED)
def test_a_study_that_was_not_run_is_passed_over(name: str, tmp_path: Path) -> None:
    assert check(name, tmp_path) == []


def test_the_committed_comparison_is_of_all_five_norms_and_as_expected() -> None:
    found, facts = read_results(OUT)

    assert found.ok and facts["ok"] and facts["dtype"] == "float64"
    assert [row.norm for row in found.rows] == ["BN", "frozen BN", "GN", "GN+WS", "BCN+WS"]
