"""A run from its first step to its last, however often it is stopped or killed on the way."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from torch import Tensor, nn

from wszoo.training.checkpoint import Saver, load_checkpoint
from wszoo.training.engine import Batch, Learner, Outcome
from wszoo.training.gauges import DriftWatch, weight_gauges
from wszoo.training.runlog import RunLog

STOPPED = 4  # exit code: stopped by a signal, with a checkpoint saved
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
)


class Task(Protocol):
    """What a run trains on and is judged by.

    Attributes:
        steps_per_epoch: Optimizer steps.
        batch_size: Images of each, over all ranks.
        judged_by: Key of the metric, larger is better, by which the best epoch is kept.
    """

    steps_per_epoch: int
    batch_size: int
    judged_by: str

    def batches(self, epoch: int, first_step: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each step of ``epoch`` from ``first_step`` on."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of a micro-batch."""

    def evaluate(self, learner: Learner, pause: Callable[[], None]) -> dict[str, float]:
        """Metrics over all ranks. ``pause`` is called equally often on each, and may not return."""

    def facts(self, epoch: int) -> Mapping[str, Any]:
        """What to log of an epoch beside its metrics, such as the size of the images."""

    def names(self, epoch: int, step: int) -> list[str]:
        """The images in step ``step`` of ``epoch``, over all ranks."""

    def close(self) -> None:
        """End what the task has started, such as processes that read."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a run saves, and when it ends.

    Attributes:
        epochs: In all.
        save_every_steps: Steps between checkpoints; None for none by steps.
        save_minutes: Minutes between checkpoints.
        patience: Epochs without a better metric after which the run ends; None for no such end.
        max_skipped: Steps in a row without a finite loss after which the run gives up.
    """

    epochs: int
    save_every_steps: int | None = None
    save_minutes: float = 5.0
    patience: int | None = None
    max_skipped: int = 10


class Run:
    """Trains a ``Learner`` on a ``Task``, and goes on where the newest checkpoint stands.

    Args:
        task: What to train on.
        learner: What learns.
        output: Folder of the run; locked while this lives.
        limits: When to save and to end.
        rate_at: Share of the peak learning rate at a step.
        log: What a person sees.
        seed: Of what the net itself draws.
    """

    def __init__(
        self,
        task: Task,
        learner: Learner,
        output: Path,
        limits: Limits,
        *,
        rate_at: Callable[[int], float],
        log: RunLog,
        seed: int = 0,
    ) -> None:
        self.task, self.learner, self.limits = task, learner, limits
        self.output, self.log, self.seed = output, log, seed
        self._rate_at = rate_at
        self._ranks = learner.ranks
        self._saver = Saver(output)
        self._signals: list[int] = []
        self._drift = DriftWatch()
        self.rows: list[dict[str, Any]] = []  # one per finished epoch
        self.best: dict[str, float] | None = None  # step and value
        self.seconds = 0.0  # of all processes that this run has had
        self._losses = [0.0, 0]  # of the current epoch: sum and count
        self._clock = self._saved = time.monotonic()

    def resume(self) -> None:
        """Go on where the newest complete checkpoint stands, if there is one."""
        state = None
        if self._ranks.is_main:
            loaded = load_checkpoint(self.output, on_damaged=self._tell_damaged)
            state = loaded and loaded[0]
        state = self._ranks.share(state)
        if state is None:
            self.log.rewind(0)
            return
        self.learner.load_state_dict(state["learner"])
        self.rows, self.best = state["rows"], state["best"]
        self.seconds, self._losses = state["seconds"], state["losses"]
        self._drift.load_state_dict(state["drift"])
        self.log.rewind(self.learner.step_count)

    def fit(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            The row of the last epoch.

        Raises:
            SystemExit: With code 4: a signal came; the current step is saved.
            FloatingPointError: Too many steps in a row had no finite loss.
            OSError: The end of the run could not be saved.
        """
        with _caught(self._signals):
            self._clock = self._saved = time.monotonic()
            try:
                while len(self.rows) < self.limits.epochs and not self._is_stale():
                    self._train_epoch()
                    self._finish_epoch()
            finally:
                self._saver.wait()
        return self.rows[-1]

    def _train_epoch(self) -> None:
        """Take what is left of the current epoch."""
        epoch, spe = len(self.rows), self.task.steps_per_epoch
        done = self.learner.step_count - epoch * spe
        self.log.start_epoch(epoch, step=self.learner.step_count, steps_per_epoch=spe)
        batches = self.task.batches(epoch, done)
        for index in range(done, spe):
            started = time.monotonic()
            micro_batches = next(batches)
            waited = time.monotonic() - started
            outcome = self.learner.step(
                micro_batches,
                self.task.loss,
                rate=self._rate_at(self.learner.step_count),
                seed=self.seed,
                stop=bool(self._signals),
            )
            self._after_step(epoch, index, outcome, waited)

    def _after_step(self, epoch: int, index: int, outcome: Outcome, waited: float) -> None:
        now = time.monotonic()
        took, self._clock = now - self._clock, now
        self.seconds += took
        step = self.learner.step_count
        if outcome.taken:
            self._losses = [self._losses[0] + outcome.loss, self._losses[1] + 1]
        else:
            self._tell_skipped(epoch, index, outcome)
        self.log.step(
            step,
            loss=outcome.loss,
            lr=self.learner.optimizer.param_groups[0]["lr"],
            images=self.task.batch_size,
            seconds=took,
            waited=waited,
        )
        every = self.limits.save_every_steps
        due = now - self._saved >= 60 * self.limits.save_minutes
        if outcome.stop:
            self._stop()
        elif due or (every and step % every == 0):
            self._save()

    def _finish_epoch(self) -> None:
        """Judge the epoch, log it, and save."""
        epoch = len(self.rows)
        metrics = self.task.evaluate(self.learner, self._pause)
        total, count = self._losses
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        step = self.learner.step_count
        row = {
            "epoch": epoch + 1,
            "step": step,
            **self.task.facts(epoch),
            "loss": round(total / count, 4) if count else None,
            **{key: round(value, 4) for key, value in metrics.items()},
            "seconds": round(self.seconds, 1),
        }
        self.rows.append(row)
        self._losses = [0.0, 0]
        value = metrics[self.task.judged_by]
        if self.best is None or value > self.best["value"]:
            self.best = {"step": step, "epoch": epoch + 1, "value": value}
        self.log.epoch(row)
        gauges = weight_gauges(self.learner.model, self.learner.optimizer)
        self.log.gauges(step, gauges)
        for warning in self._drift.look(gauges):
            self.log.event(warning)
        self._save()

    def _is_stale(self) -> bool:
        """Whether patience has run out."""
        if self.limits.patience is None or self.best is None:
            return False
        return len(self.rows) - int(self.best["epoch"]) >= self.limits.patience

    def _save(self) -> None:
        """Begin to save; a save that failed is told, and the next one is tried in its turn."""
        self._saved = time.monotonic()
        if not self._ranks.is_main:
            return
        try:
            self._saver.save(
                self.learner.step_count,
                self._state(),
                best_step=None if self.best is None else int(self.best["step"]),
            )
        except OSError as error:
            self.log.event(f"{error}; the checkpoint before it stays, training goes on")

    def _state(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "rows": self.rows,
            "best": self.best,
            "seconds": self.seconds,
            "losses": self._losses,
            "drift": self._drift.state_dict(),
        }

    def _stop(self) -> NoReturn:
        """Save the current step, and end every rank."""
        self._save()
        if self._ranks.is_main:
            self._saver.wait()
        self._ranks.wait()
        if self._ranks.is_main:
            step = self.learner.step_count
            self.log.event(f"stopped at step {step} and saved; repeat the command to go on")
        sys.exit(STOPPED)

    def _pause(self) -> None:
        """End here if any rank was asked to stop."""
        if self._ranks.any(bool(self._signals)):
            self._stop()

    def _tell_damaged(self, folder: Path) -> None:
        self.log.event(f"{folder} is damaged and was passed over; the one before it is used")

    def _tell_skipped(self, epoch: int, index: int, outcome: Outcome) -> None:
        """Write down a step without a finite loss, and give up after too many in a row."""
        step, skipped = self.learner.step_count, self.learner.skipped
        self.log.event(
            f"step {step} was skipped: its loss is {outcome.loss:.4g}, its gradient's length "
            f"{outcome.grad_norm:.4g}",
            images=self.task.names(epoch, index),
        )
        if skipped >= self.limits.max_skipped:
            self._save()
            self._saver.wait()
            raise FloatingPointError(
                f"{skipped} steps in a row had no finite loss, the last of them step {step}; the "
                f"weights of step {step - skipped} are kept; lower the learning rate or look at "
                f"the images in {self.output / 'events.jsonl'}"
            )


@contextmanager
def _caught(received: list[int]) -> Iterator[None]:
    """Note the signals that ask for a stop instead of dying of them."""
    before = {
        number: signal.signal(number, lambda given, _: received.append(given)) for number in SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
