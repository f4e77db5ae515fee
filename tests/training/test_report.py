import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from wszoo.training.report import (
    command_line,
    draw_epochs,
    duration,
    render_report,
)


def epochs(count: int, **metrics: float) -> list[dict[str, Any]]:
    return [
        {"epoch": epoch, "step": 10 * epoch, **{k: v / epoch for k, v in metrics.items()}}
        for epoch in range(1, count + 1)
    ]


def report(**parts: Any) -> str:
    given = {"plan": {}, "epochs": [], "events": [], "summary": {}, "curves": None} | parts
    return render_report("a run", **given)


def height(path: Path) -> int:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.height


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (99.4, "99 s"),
        (99.5, "2 min"),
        (3569, "59 min"),
        (3570, "1 h 00 min"),
        (47 * 3600, "47 h 00 min"),
        (50 * 3600, "2 d 2 h"),
    ],
)
def test_durations_are_told_in_units_that_fit_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("metrics", "pictures"),
    [
        ({"loss": 5.0, "held_out_loss": 0.9}, 1),
        ({"loss": 5.0, "top1": 40.0, "top5": 70.0}, 2),
        ({"loss": 0.9, "miou": 0.6}, 1),
        ({"miou": 0.6, "top1": 40.0, "images": 3000.0, "pixels": 64.0, "lr": 0.1}, 3),
    ],
)
def test_series_share_a_picture_only_where_their_scales_agree(
    metrics: dict[str, float], pictures: int, tmp_path: Path
) -> None:
    draw_epochs(epochs(1, **metrics), tmp_path / "curves.png", "a run")

    assert height(tmp_path / "curves.png") == 660 * pictures


def test_the_title_stands_above_the_first_picture_alone(tmp_path: Path) -> None:
    tops, bottoms = set(), set()
    for title in ("a run", "another run"):
        draw_epochs(epochs(2, loss=5.0, top1=40.0), tmp_path / "curves.png", title)
        with Image.open(tmp_path / "curves.png") as page:
            tops.add(page.crop((0, 0, page.width, 660)).tobytes())
            bottoms.add(page.crop((0, 660, page.width, page.height)).tobytes())

    assert (len(tops), len(bottoms)) == (2, 1)


def test_epochs_without_a_number_are_left_out_of_the_picture(tmp_path: Path) -> None:
    good = epochs(3, loss=5.0)
    draw_epochs(good, tmp_path / "good.png", "a run")

    odd: list[dict[str, Any]] = [
        {"epoch": 4, "step": 40, "loss": None},
        {"epoch": 5, "step": 50, "loss": "nan"},
        {"epoch": 6, "step": 60, "loss": math.nan},
    ]
    draw_epochs([*good, *odd], tmp_path / "odd.png", "a run")
    draw_epochs(odd, tmp_path / "none.png", "a run")

    assert (tmp_path / "odd.png").read_bytes() == (tmp_path / "good.png").read_bytes()
    assert not (tmp_path / "none.png").exists()


def test_a_report_tells_the_plan_the_epochs_and_what_came_out() -> None:
    rows = [
        {"epoch": 1, "pixels": 64, "loss": 4.5, "top1": 8.25, "seconds": 100.0},
        {"epoch": 2, "pixels": 80, "loss": None, "top1": 12.0, "seconds": 7300.0},
    ]

    text = report(
        plan={"data": "photos | masks"},
        epochs=rows,
        summary={"top1": 12.0, "best_epoch": 2, "commands": {"publish it": "publish RUN"}},
        curves="curves.png",
    )

    assert text.startswith("# a run\n")
    assert "| data | photos \\| masks |" in text
    assert "| epoch | pixels | loss | top1 | time |\n| ---: | ---: | ---: | ---: | ---: |" in text
    assert "| 1 | 64 | 4.5 | 8.25 | 2 min |\n| 2 | 80 | – | 12.00 | 2 h 02 min |" in text
    assert "| best epoch | 2 |" in text
    assert "(curves.png)" in text
    assert f"| torch | {torch.__version__.partition('+')[0]}" in text
    assert "To publish it:\n\n```\npublish RUN\n```" in text
    assert "None: nothing was skipped" in text


def test_the_report_of_a_run_that_did_nothing_says_so() -> None:
    text = report()

    assert "None was finished." in text
    assert "None were drawn." in text
    assert "curves.png" not in text


def test_a_long_table_of_epochs_is_thinned_and_says_so() -> None:
    text = report(epochs=epochs(302, loss=5.0))

    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    shown = [line.split(" ")[1] for line in lines if line.split(" ")[1].isdecimal()]
    assert shown == [*map(str, range(7, 302, 7)), "302"]
    assert "44 of 302 epochs; `metrics.csv` has them all" in text


def test_very_small_numbers_are_not_rounded_to_nothing() -> None:
    rows = [{"epoch": 1, "rate": 1e-5, "top1": 0.0}, {"epoch": 2, "rate": 0.5, "top1": 20.25}]

    text = report(epochs=rows)

    assert "| 1 | 1e-05 | 0.00 |\n| 2 | 0.5 | 20.25 |" in text


def test_events_that_differ_in_numbers_only_are_counted_together() -> None:
    events = [
        {"time": "", "step": 3, "event": "step 3 was skipped: its loss is nan"},
        {"time": "", "step": 5, "event": "cannot decode b.jpg"},
        {"time": "", "step": 70, "event": "step 70 was skipped: its loss is 1.5e+30"},
        {"time": "", "step": 80, "event": "step 80 was skipped: its loss is -inf"},
    ]

    text = report(events=events)

    assert "4 in all" in text
    assert "| 3 | 3 | 80 | step 80 was skipped: its loss is -inf |\n| 1 | 5 | 5 | cannot" in text


def test_the_command_is_the_one_that_started_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/home/me/bin/python3.11", "-m", "train.pretrain", "--out", "my runs"]
    monkeypatch.setattr(sys, "orig_argv", words)

    assert command_line() == "python -m train.pretrain --out 'my runs'"


@pytest.mark.parametrize(
    ("nodes", "start"),
    [
        ("1", "torchrun --nproc-per-node 8"),
        (
            "16",
            "torchrun --nproc-per-node 8 --nnodes 16 --rdzv-backend c10d --rdzv-endpoint HOST:PORT",
        ),
    ],
)
def test_workers_of_torchrun_are_started_again_by_torchrun(
    nodes: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setenv("GROUP_WORLD_SIZE", nodes)
    words = ["/x/python", "-u", "-m", "train.pretrain", "resnet50_gn_ws"]
    monkeypatch.setattr(sys, "orig_argv", words)

    assert command_line() == f"{start} -m train.pretrain resnet50_gn_ws"
