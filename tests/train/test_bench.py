import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.bench.results import RESULT
from train.bench import BEGIN, END, MEASURED, MISSED, PAGE, main, markdown, read, rendered
from wszoo.bench.missed import Profile, missed_page


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "bench.json").write_text(json.dumps(RESULT.to_json()))
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}old\n{END}\nafter\n")
    return path


def run(page: Path, *arguments: str) -> Result:
    results = str(page.parent / "measured")
    return CliRunner().invoke(main, ["--results", results, "--page", str(page), *arguments])


def test_the_table_has_the_goals_the_loader_the_machine_and_the_picture() -> None:
    lines = markdown(replace(RESULT, warnings=("the machine was busy",)), "some/folder").split("\n")

    assert lines[2].startswith("| **Weight Standardization")
    assert lines[3] == "| formula jhu, contiguous | StdConv2d | 0.50 | 0.60, met |"
    assert lines[5] == "| step, batch 8, bf16 | BatchNorm | 1.20 | 1.10, **missed** |"
    assert lines[7] == "| read | torchvision | 0.80 |  |"
    assert "wall time, 7 rounds" in lines[9] and str(RESULT.machine) in lines[9]
    assert "(some/folder/bench.json)" in lines[9]
    assert lines[10] == "Beware: the machine was busy."
    assert lines[12:14] == [
        "![ratios beside their goals](some/folder/ratios.png)",
        "![peaks of memory against batch size](some/folder/memory_bf16_channels_last.png)",
    ]


def test_only_what_is_between_the_marks_is_written(page: Path) -> None:
    assert run(page, "--check").exit_code == 1
    assert "old" in page.read_text()
    result = run(page, "--pictures")

    assert result.exit_code == 0, result.output
    expected = f"before\n{BEGIN}{markdown(RESULT, 'measured')}{END}\nafter\n"
    assert page.read_text() == expected
    assert (page.parent / "measured" / "ratios.png").exists()
    assert run(page, "--check").exit_code == 0


def test_missed_goals_get_a_page_of_their_own_which_goes_with_them(page: Path) -> None:
    run(page)
    results, missed = page.parent / "measured" / "bench.json", page.parent / "measured" / MISSED
    assert not missed.exists()
    parts = dict.fromkeys(("convolution", "norm", "WS", "rest"), 10.0)
    profiled = replace(RESULT, profiles=(Profile.of(RESULT.rows[1], parts, parts),))
    results.write_text(json.dumps(profiled.to_json()))

    assert run(page, "--check").exit_code == 1
    assert run(page).exit_code == 0
    assert missed.read_text() == missed_page(profiled.profiles, "bench.json")
    assert "[Missed, by how much and why](measured/README.md)." in page.read_text()
    missed.write_text("old")
    stale = run(page, "--check")
    assert stale.exit_code == 1
    assert f"{missed}: it is not that of the results; run python -m train.bench" in stale.stdout
    results.write_text(json.dumps(RESULT.to_json()))
    assert run(page).exit_code == 0
    assert not missed.exists()


def test_a_page_without_marks_is_refused(page: Path) -> None:
    page.write_text("nothing")

    result = run(page)

    assert result.exit_code == 3
    assert f"has no lines <!-- bench --> and {END}; put them in" in result.stderr
    assert page.read_text() == "nothing"


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file .*; `wszoo bench -o DIR` writes"):
        read(tmp_path / "bench.json")
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(ValueError, match=r"bench\.json holds no result of `wszoo bench`; "):
        read(tmp_path / "bench.json")


def test_the_table_of_the_readme_is_that_of_the_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = markdown(read(MEASURED / "bench.json"), os.path.relpath(MEASURED, PAGE.parent))

    assert text == rendered(text, table), "run python -m train.bench"
