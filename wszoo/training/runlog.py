"""What a person sees of a run while it goes on, and the numbers by which to judge it later."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from wszoo.training.board import Board
from wszoo.training.pace import ESTIMATE_AFTER, Pace
from wszoo.training.report import draw_epochs, heading, render_report, shown
from wszoo.training.rows import append_row, plain, read_rows, replace_file, write_csv, write_rows

_STEPS, _GAUGES, _METRICS, _EVENTS = "steps.jsonl", "gauges.jsonl", "metrics.jsonl", "events.jsonl"
_CSV, _CURVES, _REPORT, _BOARD = "metrics.csv", "curves.png", "report.md", "tensorboard"


class RunLog:
    """Tells how a run goes, and keeps what it tells in the run's folder.

    Standard output has the plan and a line per epoch; standard error has a bar where it is a
    terminal, else a line per ``every`` steps, and the events. The folder has plan.json,
    steps.jsonl, gauges.jsonl, metrics.jsonl and .csv, events.jsonl, curves.png and report.md.
    What cannot be written, as on a full disk, is told as an event, and the run goes on.

    Args:
        output: Folder of the run; made if missing.
        title: Name of the run, for people.
        main: False on ranks other than 0, where every method does nothing.
        every: Steps per line, and per row of steps.jsonl.
        tensorboard: Write event files for TensorBoard too, into ``output/tensorboard``.

    Raises:
        ValueError: ``tensorboard`` is asked for and not installed, or ``every`` is less than 1.
    """

    def __init__(
        self,
        output: Path,
        *,
        title: str,
        main: bool = True,
        every: int = 50,
        tensorboard: bool = False,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.output, self.title, self.every = output, title, every
        self._main = main
        if not main:
            return
        self._board = Board(output / _BOARD) if tensorboard else None
        output.mkdir(parents=True, exist_ok=True)
        self._epochs, _ = read_rows(output / _METRICS)
        self._events, _ = read_rows(output / _EVENTS)
        self._plan: dict[str, str] = {}
        self._pace = Pace(every)
        self._step = 0
        self._bar: Any = None
        self._failed: Counter[str] = Counter()  # writes of each file since the last that succeeded
        self._unsaid = 0  # lines that could not be printed

    def plan(self, rows: Mapping[str, str]) -> None:
        """Print what is about to be done, and keep it in plan.json.

        Args:
            rows: What it is about and how it is to be. The row ``steps`` starts with the number
                of steps of the whole run, as in "5,936 = 16 epochs x 371".

        Raises:
            ValueError: The row ``steps`` is missing or starts with no number.
        """
        if not self._main:
            return
        number = rows.get("steps", "").split(" ")[0].replace(",", "")
        if not number.isdecimal():
            raise ValueError(
                f"the row 'steps' of a plan starts with the number of steps of the run, as in "
                f"'5936 = 16 epochs x 371'; got {rows.get('steps')!r}"
            )
        self._plan = dict(rows)
        self._pace.total = int(number)
        width = max(map(len, rows))
        lines = [f"  {key.ljust(width)}  {value}" for key, value in rows.items()]
        self._say("\n".join([self.title, *lines]), err=False)
        data = json.dumps(self._plan, indent=2).encode() + b"\n"
        self._keep("plan.json", lambda path: replace_file(path, data))

    def rewind(self, step: int) -> None:
        """Forget the rows beyond ``step`` that a killed run left, and lines it left unfinished."""
        if not self._main:
            return
        self._step = step
        for name in (_STEPS, _GAUGES, _METRICS, _EVENTS):
            rows, damaged = read_rows(self.output / name)
            kept = rows if name == _EVENTS else [row for row in rows if row["step"] <= step]
            if damaged or len(kept) < len(rows):
                self._keep(name, partial(write_rows, rows=kept))
            if name == _METRICS:
                self._epochs = kept
            if damaged:
                self.event(f"{name} had {damaged} damaged line(s), which a kill may leave; dropped")
        if (self.output / _CSV).exists():
            self._keep(_CSV, partial(write_csv, rows=self._epochs))
        if self._board is not None:
            self._board.rewind(step)

    def start_epoch(self, epoch: int, *, step: int, steps_per_epoch: int) -> None:
        """Begin a bar, where standard error is a terminal.

        Args:
            epoch: Counted from 0; people are shown one more.
            step: Steps of the run so far, more than whole epochs where one is gone on with.
            steps_per_epoch: Steps of every epoch.
        """
        if not self._main:
            return
        self._close_bar()
        self._pace.steps_per_epoch = steps_per_epoch
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=f"epoch {epoch + 1}",
                total=steps_per_epoch,
                initial=step - epoch * steps_per_epoch,
                bar_format="{desc} {bar:12} {n_fmt}/{total_fmt}{postfix}",
                dynamic_ncols=True,
                leave=False,
            )

    def step(
        self, step: int, *, loss: float, lr: float, images: int, seconds: float, waited: float
    ) -> None:
        """Take note of one optimizer step.

        Args:
            step: Steps of the run so far, this one included.
            loss: Mean over the step; left out of means where it is not finite.
            lr: Learning rate.
            images: Over all ranks.
            seconds: That the step took.
            waited: Of these, seconds spent waiting for data.
        """
        if not self._main:
            return
        self._step = step
        pace = self._pace
        pace.add(step, loss, lr, images, seconds, waited)
        if self._bar is not None:
            self._bar.set_postfix_str(str(pace), refresh=False)
            self._bar.update()
        if pace.count == ESTIMATE_AFTER and pace.total:
            self._say(pace.estimate())
        if step % self.every == 0:
            means = pace.means()
            self._keep(_STEPS, partial(append_row, row={"step": step, **means}))
            self._chart(step, {f"step/{key}": value for key, value in means.items()})
            if self._bar is None:
                self._say(f"step {step}{f'/{pace.total}' if pace.total else ''}, {pace}")

    def gauges(self, step: int, values: Mapping[str, float]) -> None:
        """Keep what was measured of the net, such as ``weight_gauges``."""
        if not self._main:
            return
        self._keep(_GAUGES, partial(append_row, row={"step": step, **values}))
        self._chart(step, values)

    def event(self, text: str, **facts: Any) -> None:
        """Tell of something that must not be lost: now, in events.jsonl, and in the report.

        Args:
            text: One line. The report counts those together that differ in numbers only.
            facts: Details, for events.jsonl alone.
        """
        if not self._main:
            return
        said = f"wszoo: {text}"
        # See https://no-color.org; where there is no terminal, click leaves colours out by itself.
        self._say(said if os.environ.get("NO_COLOR") else click.style(said, fg="yellow"))
        row = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "step": self._step, "event": text}
        row |= plain(facts)
        self._events.append(row)
        if self._failed[_EVENTS]:  # some are in memory alone
            self._keep(_EVENTS, partial(write_rows, rows=self._events))
        else:
            self._keep(_EVENTS, partial(append_row, row=row))

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Tell of a finished epoch; rows of its step or later, left by a killed run, give way.

        Args:
            row: ``epoch`` counted from 1, ``step``, ``seconds`` since the start of the run, losses
                (named so) and metrics.
        """
        if not self._main:
            return
        self._close_bar()
        self._pace.end_epoch()
        finished = plain(row)
        self._epochs = [old for old in self._epochs if old["step"] < row["step"]] + [finished]
        numbers = {f"epoch/{key}": value for key, value in finished.items() if key != "step"}
        self._chart(row["step"], numbers)
        cells = (f"{heading(key)} {shown(key, value)}" for key, value in finished.items())
        self._say(", ".join(cells), err=False)
        self._keep(_METRICS, partial(write_rows, rows=self._epochs))
        self._keep(_CSV, partial(write_csv, rows=self._epochs))
        self._keep(_CURVES, partial(draw_epochs, self._epochs, title=self.title))

    def finish(self, summary: Mapping[str, Any]) -> Path:
        """Write report.md.

        Args:
            summary: What came out, by name. Its entry ``commands``, if there is one, maps what can
                be done next ("publish it") to the command that does it.
        """
        report = self.output / _REPORT
        if not self._main:
            return report
        self._close_bar()
        text = render_report(
            self.title,
            plan=self._plan,
            epochs=self._epochs,
            events=self._events,
            summary=summary,
            curves=_CURVES if (self.output / _CURVES).exists() else None,
        )
        data = text.encode(errors="backslashreplace")
        self._keep(_REPORT, lambda path: replace_file(path, data))
        return report

    def _keep(self, name: str, write: Callable[[Path], None]) -> None:
        """Write a file of the folder, and survive it if that fails."""
        try:
            write(self.output / name)
        except OSError as error:
            self._failed[name] += 1
            if self._failed[name] == 1:
                reason = error.strerror or error
                self.event(f"cannot write {self.output / name}: {reason}; training goes on")
            return
        if failed := self._failed.pop(name, 0):
            self.event(f"{self.output / name} is written again; {failed} write(s) had failed")

    def _chart(self, step: int, values: Mapping[str, Any]) -> None:
        if self._board is not None:
            self._keep(_BOARD, partial(self._board.add, step, values))

    def _say(self, text: str, *, err: bool = True) -> None:
        try:
            with tqdm.external_write_mode(file=sys.stderr):  # above the bar, if there is one
                click.echo(text, err=err)
        except OSError:  # such as a log file on a full disk; the run goes on without it
            self._unsaid += 1
            return
        if unsaid := self._unsaid:
            self._unsaid = 0
            self.event(f"{unsaid} line(s) before this one could not be printed")

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
