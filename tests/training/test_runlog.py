import io
import json
import math
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from wszoo.training.rows import read_rows
from wszoo.training.runlog import RunLog

PLAN = {"model": "resnet18_gn_ws", "batch": "256 = 32 x 8 ranks", "steps": "1,000 = 10 x 100"}


class Unwritable(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal; in the test itself, for pytest sets its own between phases."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return stream


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond ``room`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def started(output: Path, **options: Any) -> RunLog:
    log = RunLog(output, title="a run", **options)
    log.plan(PLAN)
    return log


def take(log: RunLog, steps: range, *, loss: float = 2.0, seconds: float = 0.5) -> None:
    for step in steps:
        log.step(step, loss=loss, lr=0.1, images=256, seconds=seconds, waited=0.02)


def epoch(log: RunLog, number: int, **metrics: Any) -> None:
    """Without metrics there is nothing to draw, which takes long."""
    row = {"epoch": number, "step": 100 * number, "pixels": 64, **metrics}
    log.epoch({**row, "seconds": 50.0 * number})


def rows_of(output: Path, name: str) -> list[dict[str, Any]]:
    rows, damaged = read_rows(output / name)
    assert damaged == 0
    return rows


def files(output: Path) -> list[str]:
    return sorted(path.name for path in output.iterdir())


def test_the_plan_is_printed_in_columns_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started(tmp_path / "new" / "run")

    assert capsys.readouterr().out == (
        "a run\n  model  resnet18_gn_ws\n  batch  256 = 32 x 8 ranks\n  steps  1,000 = 10 x 100\n"
    )
    assert json.loads((tmp_path / "new" / "run" / "plan.json").read_text()) == PLAN


@pytest.mark.parametrize("rows", [{}, {"steps": "about 300"}, {"steps": "-3"}])
def test_a_plan_that_does_not_start_with_the_number_of_steps_is_refused(
    rows: dict[str, str], tmp_path: Path
) -> None:
    log = RunLog(tmp_path, title="a run")

    with pytest.raises(ValueError, match="starts with the number of steps of the run, as in '5936"):
        log.plan(rows)


def test_lines_that_would_never_come_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        RunLog(tmp_path, title="a run", every=0)


def test_without_a_terminal_there_is_a_line_every_so_many_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = started(tmp_path, every=10)
    log.start_epoch(0, step=0, steps_per_epoch=100)

    take(log, range(1, 11), loss=3.0)
    take(log, range(11, 20), loss=2.0)

    assert capsys.readouterr().err == (
        "step 10/1000, 8 min left, loss 3.0000, lr 0.1, 512 images/s, 4.0 % waiting for data\n"
    )
    take(log, range(20, 21), loss=1.0)
    assert "step 20/1000, 8 min left, loss 1.9000" in capsys.readouterr().err
    assert [row["loss"] for row in rows_of(tmp_path, "steps.jsonl")] == [3.0, 1.9]
    assert rows_of(tmp_path, "steps.jsonl")[0] == {
        "step": 10,
        "loss": 3.0,
        "lr": 0.1,
        "images_per_second": 512.0,
        "waited_percent": 4.0,
    }


def test_the_first_line_of_a_resumed_run_tells_of_its_own_steps_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = started(tmp_path, every=10)
    log.rewind(107)
    log.start_epoch(1, step=107, steps_per_epoch=100)

    take(log, range(108, 111), seconds=2.0)

    err = capsys.readouterr().err
    assert err.startswith("step 110/1000, 30 min left, loss 2.0000, lr 0.1, 128 images/s")


def test_the_time_left_counts_an_evaluation_for_every_epoch_to_come(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = started(tmp_path, every=100)
    take(log, range(1, 101))
    log.start_epoch(0, step=100, steps_per_epoch=100)
    log._pace._ended -= 600  # so long ago was the last step
    epoch(log, 1)

    take(log, range(101, 201))

    assert "step 200/1000, 1 h 37 min left" in capsys.readouterr().err  # 800 / 2 s, 9 x 600 s


def test_the_whole_run_is_estimated_once_after_twenty_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = started(tmp_path)
    log.rewind(200)

    take(log, range(201, 202), seconds=90.0)  # compiles something
    take(log, range(202, 220))
    assert capsys.readouterr().err == ""
    take(log, range(220, 249))

    assert capsys.readouterr().err == (
        "the whole run takes about 8 min at 0.5 s per step, without evaluation; 6 min are left\n"
    )


def test_losses_that_are_not_finite_are_left_out_of_the_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = started(tmp_path, every=2)

    take(log, range(1, 2), loss=3.0)
    take(log, range(2, 3), loss=math.nan)
    take(log, range(3, 5), loss=math.inf)

    assert "step 4/1000, 8 min left, loss nan" in capsys.readouterr().err
    assert [row["loss"] for row in rows_of(tmp_path, "steps.jsonl")] == [3.0, "nan"]


def test_a_terminal_gets_a_bar_of_the_epoch_and_no_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_terminal(monkeypatch)
    log = started(tmp_path, every=10)
    log.start_epoch(2, step=230, steps_per_epoch=100)

    take(log, range(231, 241))
    log._bar.refresh()
    epoch(log, 3)

    text = terminal.getvalue()
    assert "epoch 3 " in text
    assert " 30/100" in text
    assert " 40/100, 6 min left, loss 2.0000, lr 0.1" in text
    assert "step 240" not in text
    assert text.endswith("\r"), "the bar is wiped away when the epoch is told"
    assert [row["step"] for row in rows_of(tmp_path, "steps.jsonl")] == [240]


def test_events_are_coloured_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)

    RunLog(tmp_path, title="a run").event("look here")

    assert terminal.getvalue() == "\x1b[33mwszoo: look here\x1b[0m\n"


def test_events_are_plain_where_colour_is_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")

    RunLog(tmp_path, title="a run").event("look here")

    assert terminal.getvalue() == "wszoo: look here\n"


def test_events_are_plain_in_a_log_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)

    RunLog(tmp_path, title="a run").event("look here")

    assert capsys.readouterr().err == "wszoo: look here\n"


def test_events_are_kept_with_their_time_step_and_details_over_restarts(tmp_path: Path) -> None:
    log = started(tmp_path)
    take(log, range(1, 4))
    log.event("step 4 was skipped", images=[Path("a.jpg")], loss=math.nan)

    again = started(tmp_path)
    again.rewind(2)
    again.event("step 3 was skipped")

    first, second = rows_of(tmp_path, "events.jsonl")
    assert first.pop("time") <= second["time"]
    assert first == {
        "step": 3,
        "event": "step 4 was skipped",
        "images": ["a.jpg"],
        "loss": "nan",
    }
    assert second["step"] == 2
    assert "| 2 | 3 | 2 | step 3 was skipped |" in again.finish({}).read_text()


def test_other_ranks_say_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = started(tmp_path / "run", main=False, tensorboard=True)

    log.rewind(0)
    log.start_epoch(0, step=0, steps_per_epoch=100)
    take(log, range(1, 101))
    log.gauges(100, {"norm/stem": 1.0})
    log.event("look here")
    epoch(log, 1)
    report = log.finish({})

    assert report == tmp_path / "run" / "report.md"
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_a_finished_epoch_is_a_row_a_line_and_a_point_of_the_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = started(tmp_path)
    epoch(log, 1, loss=4.0, top1=10.0)
    picture = (tmp_path / "curves.png").read_bytes()
    capsys.readouterr()

    epoch(log, 2, loss=None, top1=torch.tensor(20.25))

    assert rows_of(tmp_path, "metrics.jsonl") == [
        {"epoch": 1, "step": 100, "pixels": 64, "loss": 4.0, "top1": 10.0, "seconds": 50.0},
        {"epoch": 2, "step": 200, "pixels": 64, "loss": None, "top1": 20.25, "seconds": 100.0},
    ]
    assert (tmp_path / "metrics.csv").read_text() == (
        "epoch,step,pixels,loss,top1,seconds\n1,100,64,4.0,10.0,50.0\n2,200,64,,20.25,100.0\n"
    )
    assert (tmp_path / "curves.png").read_bytes() != picture
    assert capsys.readouterr().out == (
        "epoch 2, step 200, pixels 64, loss –, top1 20.25, time 2 min\n"
    )


def test_a_resumed_run_has_no_row_beyond_its_step_and_none_twice(tmp_path: Path) -> None:
    killed = started(tmp_path, every=50)
    for number in (1, 2, 3):
        take(killed, range(100 * number - 99, 100 * number + 1))
        killed.gauges(100 * number, {"norm/stem": float(number)})
        epoch(killed, number)

    log = started(tmp_path, every=50)
    log.rewind(200)

    for name in ("metrics.jsonl", "gauges.jsonl"):
        assert [row["step"] for row in rows_of(tmp_path, name)] == [100, 200]
    assert [row["step"] for row in rows_of(tmp_path, "steps.jsonl")] == [50, 100, 150, 200]
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 3
    assert not (tmp_path / "events.jsonl").exists()

    epoch(log, 2, lr=0.5)  # the kill came between the row and the checkpoint after it
    epoch(log, 3)
    assert [row.get("lr") for row in rows_of(tmp_path, "metrics.jsonl")] == [None, 0.5, None]


def test_epochs_of_an_earlier_process_stay_where_nobody_rewinds(tmp_path: Path) -> None:
    epoch(started(tmp_path), 1)

    epoch(started(tmp_path), 2)

    assert [row["epoch"] for row in rows_of(tmp_path, "metrics.jsonl")] == [1, 2]


def test_a_resumed_run_draws_and_reports_the_epochs_before_it(tmp_path: Path) -> None:
    epoch(started(tmp_path), 1, loss=0.5)
    alone = (tmp_path / "curves.png").read_bytes()

    log = started(tmp_path)
    log.rewind(100)
    epoch(log, 2, loss=0.25)

    assert (tmp_path / "curves.png").read_bytes() != alone
    text = log.finish({}).read_text()
    assert "| 1 | 100 | 64 | 0.50 | 50 s |\n| 2 | 200 | 64 | 0.25 | 2 min |" in text


@pytest.mark.parametrize("name", ["steps", "gauges", "metrics", "events"])
def test_a_torn_last_line_is_dropped_and_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"{name}.jsonl").write_text('{"step": 1, "event": "x"}\n{"step": 2, "ev')

    log = started(tmp_path)
    log.rewind(2)

    kept = rows_of(tmp_path, f"{name}.jsonl")
    assert kept[0] == {"step": 1, "event": "x"}
    assert len(kept) == (2 if name == "events" else 1)
    told = rows_of(tmp_path, "events.jsonl")[-1]["event"]
    assert told == f"{name}.jsonl had 1 damaged line(s), which a kill may leave; dropped"
    assert told in capsys.readouterr().err


def test_a_full_disk_is_told_once_per_file_and_does_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, title="a run", every=1)

    with full_disk(room=100):
        log.plan({**PLAN, "data": "x" * 100})
        take(log, range(1, 4))
        for step in (1, 2):
            log.gauges(step, {f"norm/{index}": 1.0 for index in range(20)})
        epoch(log, 1, loss=0.5)
        epoch(log, 2, loss=0.5)

    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wszoo:")]
    named = [line.split(": ")[1].rpartition("/")[2] for line in told]
    assert named == [
        *("plan.json", "events.jsonl", "steps.jsonl", "gauges.jsonl"),
        *("curves.png", "metrics.jsonl"),
    ]
    assert all(line.endswith("File too large; training goes on") for line in told)
    for path in tmp_path.glob("*.jsonl"):
        rows_of(tmp_path, path.name)
    assert not [name for name in files(tmp_path) if name.endswith(".partial")]


def test_what_a_full_disk_kept_out_is_written_once_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = started(tmp_path)
    with full_disk(room=50):
        epoch(log, 1)
        log.event("look here")

    epoch(log, 2)

    assert [row["epoch"] for row in rows_of(tmp_path, "metrics.jsonl")] == [1, 2]
    told = [row["event"] for row in rows_of(tmp_path, "events.jsonl")]
    assert told[0] == f"cannot write {tmp_path}/metrics.jsonl: File too large; training goes on"
    assert "look here" in told
    assert f"{tmp_path}/metrics.jsonl is written again; 1 write(s) had failed" in told
    assert sorted(set(told)) == sorted(told)


def test_output_that_cannot_be_printed_is_counted_and_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = started(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Unwritable())
        patch.setattr(sys, "stdout", Unwritable())
        log.event("look here")
        epoch(log, 1)

    log.event("look again")

    told = [row["event"] for row in rows_of(tmp_path, "events.jsonl")]
    assert told == [
        "look here",
        "2 line(s) before this one could not be printed",
        "look again",
    ]


def test_the_report_has_the_plan_the_epochs_the_picture_and_the_summary(tmp_path: Path) -> None:
    log = started(tmp_path)
    epoch(log, 1, loss=0.5)

    report = log.finish({"top1": 10.0, "commands": {"publish it": "publish RUN"}})

    text = report.read_text()
    assert report == tmp_path / "report.md"
    for part in ("# a run", *PLAN.values(), "| 1 | 100 |", "](curves.png)", "publish RUN"):
        assert part in text


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    reader: Any = import_module("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder)).Reload().Scalars(tag)
    return [(event.step, event.value) for event in found]


def test_tensorboard_gets_steps_gauges_and_epochs_and_forgets_what_was_rewound(
    tmp_path: Path,
) -> None:
    killed = started(tmp_path, every=50, tensorboard=True)
    take(killed, range(1, 151))
    killed.gauges(150, {"norm/stem": 7.0})
    epoch(killed, 1, lr=0.5)

    log = started(tmp_path, every=50, tensorboard=True)
    log.rewind(120)
    take(log, range(121, 151), loss=1.0)

    board = tmp_path / "tensorboard"
    assert scalars(board, "step/loss") == [(50, 2.0), (100, 2.0), (150, 1.0)]
    assert scalars(board, "epoch/lr") == [(100, 0.5)]
    log.gauges(200, {"norm/stem": 8.0})
    assert scalars(board, "norm/stem") == [(200, 8.0)]


def test_without_tensorboard_installed_it_is_asked_for_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)

    with pytest.raises(ValueError, match=r"pip install 'wszoo\[train\]'"):
        RunLog(tmp_path / "run", title="a run", tensorboard=True)

    assert not (tmp_path / "run").exists()
