"""The study of transfer: which runs there are, what they are made of, and its page."""

import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from train.studies import transfer_page
from train.studies.transfer_page import plots, write_page
from train.studies.transfer_tasks import TASKS, prepare
from train.study_transfer import (
    STARTS,
    Cell,
    cells,
    held_out_by_epoch,
    left,
    main,
    settings_of,
)
from wszoo.datasets.quarantine import read_quarantine
from wszoo.finetune.data import read_images
from wszoo.training.rows import append_row, write_rows


def row(task: str, start: str, batch: int, seed: int, value: float) -> dict[str, Any]:
    return {
        **{"task": task, "start": start, "batch": batch, "seed": seed},
        **{"test": {"photos": 72, TASKS[task].metric: value}, "cpu_seconds": 600},
        **{"code": "abc", "torch": "2", "timm": "1"},
    }


def archive_of(root: Path, photos: dict[str, str]) -> Path:
    with tarfile.open(root / "camvid-480x360.tar", "w") as tar:
        for name, mode in photos.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (64, 64)).save(path)
            tar.add(path, name)
    return root


def test_the_runs_that_say_most_come_first() -> None:
    wanted = cells(("bccd", "camvid", "clothing"), ("published", "random"))

    assert [str(cell) for cell in wanted[:4]] == [
        "bccd-published-b2-s0",
        "bccd-random-b2-s0",
        "camvid-published-b1-s0",
        "camvid-random-b1-s0",
    ]
    assert len(wanted) == len(set(wanted)) == 2 * (2 * (3 + 2) + 3 * 3)


def test_the_rows_of_every_task_give_their_metric() -> None:
    assert held_out_by_epoch([{"box_ap50": 70.12345}], "box_ap50") == [70.123]
    assert held_out_by_epoch([{"held_out_top1": 83.2845}], "top1") == [83.284]


def test_starts_differ_in_the_weights_alone() -> None:
    every = [settings_of(Cell("bccd", start, 2, 1)) for start in STARTS]
    ours, random, twin, recipe = every

    assert (ours.pretrained, random.pretrained, twin.pretrained) == (True, False, True)
    assert ours.model == random.model and "resnet18_gn_ws" in ours.model
    assert recipe.pretrained and Path(recipe.model.partition(":")[2]).is_dir()
    assert [each.allow_batch_norm for each in every] == [False, False, True, False]
    alike = ("lr", "epochs", "batch_size", "image_size", "head", "seed", "trainable_stages")
    assert len({tuple(getattr(each, key) for key in alike) for each in every}) == 1


def test_rates_grow_with_the_batch_up_to_a_bound() -> None:
    assert [TASKS["bccd"].lr(size) for size in (1, 2, 8)] == [5e-4, 1e-3, 1e-3]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    wanted = cells(("camvid",), ("published", "random"))
    append_row(results, row("camvid", "published", 1, 0, 50.0))

    asked = [cell for cell in left(wanted, results) if (cell.batch, cell.seed) == (1, 0)]
    assert [cell.start for cell in asked] == ["random"]


def test_a_sequence_of_roads_is_held_out_of_train(tmp_path: Path) -> None:
    names = ["train/0001TP_1", "train/0006R0_1", "test/0001TP_2"]
    photos = {f"{name}.jpg": "RGB" for name in names}
    masks = {f"{name.replace('/', 'annot/')}.png": "L" for name in names}
    data = archive_of(tmp_path, photos | masks)

    source, digest = prepare(TASKS["camvid"], data, tmp_path / "runs")

    found = {split: read_images(source, split, "val").names for split in ("train", "val", "test")}
    assert [Path(*names).name for names in found.values()] == [
        "0006R0_1.jpg",
        "0001TP_1.jpg",
        "0001TP_2.jpg",
    ]
    assert prepare(TASKS["camvid"], data, tmp_path / "runs") == (source, digest), "once is enough"


def test_the_empty_boxes_of_the_cells_are_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bccd.tar", "w") as tar:
        (tmp_path / "LICENSE").write_text("MIT")
        tar.add(tmp_path / "LICENSE", "BCCD/LICENSE")

    source, _ = prepare(TASKS["bccd"], tmp_path, tmp_path / "runs")

    assert source.quarantine is not None
    names = {Path(name).name for name in read_quarantine(source.quarantine)}
    assert names == {"BloodImage_00338.jpg", "BloodImage_00343.jpg"}


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no bccd\.tar in .*; name the folder"):
        prepare(TASKS["bccd"], tmp_path, tmp_path)


def test_the_page_says_who_was_above_and_what_was_not_run(tmp_path: Path) -> None:
    rows = [
        row("bccd", "published", 2, 0, 70.0),
        row("bccd", "published", 2, 1, 72.0),
        row("bccd", "random", 2, 0, 50.0),
        row("bccd", "random", 2, 1, 71.0),
        row("camvid", "published", 1, 0, 40.0),
        row("camvid", "random", 1, 0, 45.0),
    ]
    write_rows(tmp_path / transfer_page.RESULTS, rows)

    write_page(tmp_path)

    page = (tmp_path / transfer_page.PAGE).read_text()
    assert "| GN+WS, published weights | not run | 71.0 (70.0, 72.0) | not run |" in page
    assert "not told apart by these seeds (10.5 points" in page
    assert "**below** GN+WS, random weights with every seed (5.0 points" in page
    assert (tmp_path / "bccd.png").exists() and not (tmp_path / "clothing.png").exists()
    assert plots(tmp_path)["bccd"].series[0].y == [71.0]


def test_options_that_are_lacking_are_asked_for(tmp_path: Path) -> None:
    asked = CliRunner().invoke(main, ["--data", str(tmp_path)])
    unknown = CliRunner().invoke(main, ["--tasks", "bccd,imagenet", "--render"])

    assert asked.exit_code == 2 and "give --data and --runs" in asked.output
    assert unknown.exit_code == 2 and "no task 'imagenet'; choose of bccd, camvid" in unknown.output
