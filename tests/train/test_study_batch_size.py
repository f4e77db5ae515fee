import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from filelock import FileLock
from PIL import Image

from train.studies import batch_size_page, grid
from train.studies.batch_size_page import page, plots, write_page
from train.studies.figures import differences
from train.studies.grid import BASE_RATES, BATCHES, PLAN, RESULTS, Cell, Grid, cells, chosen_rate
from train.studies.learn import Outcome, Plan
from train.studies.nets import KINDS
from train.studies.photos import Photos, Subset
from train.studies.results import declare
from train.study_batch_size import main
from wszoo.training.rows import Row, append_row, read_rows


def subset(pixels: int = 8) -> Subset:
    """Photos of two classes, told apart by how bright they are."""
    targets = torch.arange(40) % 2
    noise = torch.randint(0, 60, (40, 3, pixels, pixels))
    photos = Photos(pixels=(noise + 120 * targets[:, None, None, None]).byte(), targets=targets)
    facts = {
        "classes": ["dark", "bright"],
        "pixels": pixels,
        "photos": {"train": 40, "held_out": 40, "test": 40},
        "sha256": {"train": "0"},
    }
    classes = ("dark", "bright")
    return Subset(train=photos, held_out=photos, test=photos, classes=classes, facts=facts)


def run_row(kind: str, batch: int, seed: int, top1: float) -> Row:
    row = {"what": "run", "norm": kind, "batch": batch, "seed": seed, "top1_eval": top1}
    row |= {"top1_train_mode": top1 + 1, "top1_exact_statistics": top1 + 2, "base_rate": 0.1}
    row |= {"cpu_seconds": 60.0 * (1 + 4 / batch), "diverged_at": None, "samples": 32_000}
    return row | {"hardware": "1 CPU thread", "torch": "2", "code": "abc"}


def rate_row(kind: str, rate: float, top1: float) -> Row:
    row = {"what": "rate", "norm": kind, "batch": 64, "seed": 0, "base_rate": rate, "top1": top1}
    return row | {"hardware": "1 CPU thread", "torch": "2", "code": "abc"}


def write_rows_of(out: Path, rows: list[Row]) -> None:
    declare(out, {"photos": subset().facts, "plan": PLAN})
    for row in rows:
        append_row(out / RESULTS, row)


@pytest.fixture(autouse=True)
def locks_of_a_test_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 16 images in place of minutes; everything else as it is."""

    def small(**settings: Any) -> Plan:
        return Plan(**{**settings, "samples": 16, "batch": min(settings["batch"], 8)}, chunk=8)

    monkeypatch.setattr(grid, "Plan", small)


def test_the_first_seed_of_all_cells_comes_before_the_second_of_any() -> None:
    order = [*cells((0, 1), ())]

    assert [cell.rate is not None for cell in order] == [True] * 25 + [False] * 50
    assert [cell.seed for cell in order[25:]] == [0] * 25 + [1] * 25
    assert {(cell.kind, cell.batch) for cell in order[25:50]} == {
        (kind, batch) for kind in KINDS for batch in BATCHES
    }


def test_one_cell_alone_still_has_its_rate_chosen() -> None:
    order = [*cells((2,), (("gn_ws", 1),))]

    assert order == [Cell("gn_ws", 64, 0, rate) for rate in BASE_RATES] + [Cell("gn_ws", 1, 2)]


def test_the_rate_is_the_best_on_held_out_photos_once_all_were_tried() -> None:
    rows = [rate_row("gn", rate, 30 + 10 * (rate == 0.05)) for rate in BASE_RATES]
    rows += [rate_row("bn", 0.1, 90.0)]

    assert chosen_rate(rows, "gn") == 0.05
    assert chosen_rate(rows[1:], "gn") is None
    assert chosen_rate(rows, "bn") is None


@pytest.mark.usefixtures("quick")
def test_a_run_is_written_down_whole_and_not_repeated(tmp_path: Path) -> None:
    work = Grid(tmp_path, subset(), (64, 64))
    wanted = [*cells((0,), (("bn", 1),))]

    done = [work.do_one(wanted) for _ in wanted]

    assert work.do_one(wanted) is None and work.left(wanted) == []
    assert [each[0] for each in done if each] == wanted
    rows, damaged = read_rows(tmp_path / RESULTS)
    assert damaged == 0
    assert [row["what"] for row in rows] == ["rate"] * len(BASE_RATES) + ["run"]
    assert rows[-1].keys() >= {"seed", "peak_rate", "losses", "cpu_seconds", "top1_eval"}
    assert rows[-1].keys() >= {"top1_train_mode", "top1_exact_statistics", "command", "sources"}
    assert rows[-1]["base_rate"] == chosen_rate(rows, "bn")
    assert len(rows[-1]["losses"]) == 2


@pytest.mark.usefixtures("quick")
def test_a_run_that_another_process_does_is_left_to_it(tmp_path: Path) -> None:
    work = Grid(tmp_path, subset(), (64, 64))
    first, second = Cell("gn", 64, 0, 0.05), Cell("gn", 64, 0, 0.1)

    with FileLock(work.locks / f"{first}.lock"):
        done = work.do_one([first, second])
        assert done and done[0] == second
        assert work.do_one([first, second]) is None

    assert work.left([first, second]) == [first]


@pytest.mark.usefixtures("quick")
def test_what_a_kill_left_of_a_row_is_done_again(tmp_path: Path) -> None:
    work = Grid(tmp_path, subset(), (64, 64))
    cell = Cell("gn", 64, 0, 0.05)
    (tmp_path / RESULTS).write_text('{"what": "rate", "norm": "gn", "base_')

    assert work.do_one([cell])

    rows, damaged = read_rows(tmp_path / RESULTS)
    assert len(rows) == 1 and damaged == 1 and cell.matches(rows[0])


def test_a_loss_that_is_not_finite_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = Outcome(losses=(3.0, float("nan")), cpu_seconds=1.0, diverged_at=3200)
    monkeypatch.setattr(grid, "train", lambda *_arguments: outcome)
    work = Grid(tmp_path, subset(), (64, 64))

    work.do_one([Cell("gn", 64, 0, 0.05)])

    row = json.loads((tmp_path / RESULTS).read_text())
    assert row["losses"] == [3.0, "nan"] and row["diverged_at"] == 3200


def test_a_part_of_the_grid_says_what_is_missing(tmp_path: Path) -> None:
    write_rows_of(tmp_path, [run_row("gn_ws", 1, 0, 40.0), run_row("bn", 1, 0, 10.0)])

    text = page(tmp_path)

    assert "**Not all of the grid was run.** 2 of 75 runs are there" in text
    assert "GN+WS at 1 (1 of 3 seeds)" in text and "BN at 64 (0 of 3 seeds)" in text
    assert "| GN+WS | 40.0 | not run | not run | not run | not run |" in text


def test_a_rate_at_an_end_of_the_search_is_named(tmp_path: Path) -> None:
    rows = [rate_row("gn", rate, 50 - 100 * rate) for rate in BASE_RATES]
    rows += [rate_row("bn", rate, 30 + 10 * (rate == 0.05)) for rate in BASE_RATES]
    write_rows_of(tmp_path, [*rows, run_row("gn_ws", 1, 0, 40.0)])

    assert "At an end of what was tried, so perhaps not its best: GN.\n" in page(tmp_path)


def test_the_page_says_where_ours_does_not_win_and_what_seeds_do_not_tell(tmp_path: Path) -> None:
    rows = [run_row("gn_ws", 1, seed, 40.0 + seed / 10) for seed in range(3)]
    rows += [run_row("bn", 1, seed, 10.0 + seed / 10) for seed in range(3)]
    rows += [run_row("gn_ws", 64, seed, 40.0 + seed) for seed in range(3)]
    rows += [run_row("bn", 64, seed, 41.0 - seed) for seed in range(3)]
    rows += [run_row("bn", 2, 0, 50.0), run_row("gn_ws", 2, 0, 45.0)]
    write_rows_of(tmp_path, rows)

    text = page(tmp_path)

    assert "- 1 per step: GN+WS (40.1 ± 0.2 %) leads; next is BN (10.1 ± 0.2 %)" in text
    assert "difference 30.0 ± 0.0." in text
    assert "- 2 per step: GN+WS (45.0 %) **does not win** against BN (50.0 %)" in text
    tie = next(line for line in text.splitlines() if line.startswith("- 64 per step"))
    assert tie.endswith("not told apart by seeds.")


def test_the_figures_show_the_rows_and_their_intervals(tmp_path: Path) -> None:
    rows = [run_row("bn", batch, seed, 50.0 + seed) for batch in (64, 1) for seed in range(3)]
    write_rows_of(tmp_path, rows)

    write_page(tmp_path)

    found = plots(tmp_path)
    line = found["error"].series[0]
    assert (line.name, line.x, line.y) == ("BN", [64, 1], [49.0, 49.0])
    assert line.half == pytest.approx([4.303 / 3**0.5] * 2)
    assert found["error"].series[1].y == [48.0, 48.0] and found["error"].series[1].dashed
    assert found["cpu_minutes"].series[0].x == pytest.approx([1 + 4 / 64, 5])
    stored = json.loads((tmp_path / "figures.json").read_text())
    assert differences(stored["error"], found["error"].to_json()) == []
    with Image.open(tmp_path / "error.png") as picture:
        assert picture.width > 1000


def test_nothing_is_drawn_before_the_grid_has_a_run(tmp_path: Path) -> None:
    write_rows_of(tmp_path, [rate_row("gn", 0.1, 40.0)])

    write_page(tmp_path)

    assert not (tmp_path / batch_size_page.PAGE).exists()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --data, the folder of Tiny ImageNet, or --render alone"),
        (("--only", "gn_ws:3"), "'gn_ws:3' is no cell; give NORM:BATCH of bn, gn"),
        (("--only", "ln:1"), "'ln:1' is no cell"),
        (("--seeds", "0,x"), "'0,x' are no seeds of the study; give some of 0,1,2"),
    ],
)
def test_a_grid_that_cannot_be_is_a_usage_error(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_no_run_begins_after_the_minutes_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.study_batch_size.read_subset", lambda *_, **__: subset())

    result = run("--data", str(tmp_path), "--out", str(tmp_path / "out"), "--minutes", "0")

    assert result.exit_code == 0, result.output
    assert result.output == "100 runs are left; repeat the command to go on\n"


def test_rendering_again_gives_the_same_page(tmp_path: Path) -> None:
    write_rows_of(tmp_path / "one", [run_row("gn", 1, 0, 40.0)])
    write_page(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")

    assert run("--render", "--out", str(tmp_path / "two")).exit_code == 0

    for name in ("README.md", "figures.json", "error.png", "cpu_minutes.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
