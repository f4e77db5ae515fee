import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.training import checkpoint, runlog
from wszoo.training.checkpoint import load_checkpoint
from wszoo.training.engine import Learner
from wszoo.training.run import Limits, Run
from wszoo.training.runlog import RunLog


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of so short a run, and have tests of their own."""
    monkeypatch.setattr(runlog, "draw_epochs", lambda *_, **__: None)


class Line:
    """Three numbers to two, in five steps per epoch; ``at`` is called before each step."""

    steps_per_epoch = 5
    batch_size = 4
    judged_by = "score"

    def __init__(self, at: Callable[[int], None] = lambda step: None) -> None:
        self.at = at
        self.scores = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
        self.bad: set[int] = set()
        self.pauses = 0

    def batches(self, epoch: int, first_step: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
        for index in range(first_step, self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + index
            self.at(step)
            given = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
            yield [(given[:, :3] * (math.nan if step in self.bad else 1), given[:, 3:])]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    def evaluate(self, learner: Learner, pause: Callable[[], None]) -> dict[str, float]:
        self.at(-1)
        pause()
        self.pauses += 1
        return {"score": next(self.scores)}

    def facts(self, epoch: int) -> Mapping[str, Any]:
        return {"pixels": 32}

    def names(self, epoch: int, step: int) -> list[str]:
        return [f"photo {epoch}-{step}"]

    def close(self) -> None:
        pass


def make(output: Path, task: Line | None = None, **limits: Any) -> Run:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    output.mkdir(parents=True, exist_ok=True)
    run = Run(
        task or Line(),
        Learner(model, optimizer, ema_decay=0.9),
        output,
        Limits(epochs=3, **limits),
        rate_at=lambda step: 1 / (1 + step),
        log=RunLog(output, title="a line"),
    )
    run.resume()
    run.log.plan({"steps": "15 = 3 epochs x 5"})
    return run


def weights(output: Path) -> list[Tensor]:
    loaded = load_checkpoint(output)
    assert loaded is not None
    learner = loaded[0]["learner"]
    return [*learner["model"].values(), *learner["ema"].values()]


def timeless(output: Path) -> list[dict[str, Any]]:
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) | {"seconds": 0} for line in lines]


def send(step: int, number: int) -> Callable[[int], None]:
    return lambda now: os.kill(os.getpid(), number) if now == step else None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("step", [0, 6, 9, -1], ids=["first", "middle", "last", "evaluation"])
def test_a_signal_saves_the_current_step_and_the_run_goes_on_bit_by_bit(
    number: signal.Signals, step: int, tmp_path: Path
) -> None:
    make(tmp_path / "whole").fit()
    before = signal.getsignal(number)

    with pytest.raises(SystemExit) as stopped:
        make(tmp_path / "stopped", Line(send(step, number)), save_minutes=1e9).fit()

    assert stopped.value.code == 4
    assert signal.getsignal(number) == before
    loaded = load_checkpoint(tmp_path / "stopped")
    assert loaded is not None
    assert loaded[0]["learner"]["step"] == (5 if step == -1 else step + 1)
    task = Line()
    task.scores = iter([3.0, 1.0, 2.0][len(loaded[0]["rows"]) :])
    make(tmp_path / "stopped", task).fit()
    for one, other in zip(weights(tmp_path / "whole"), weights(tmp_path / "stopped"), strict=True):
        assert torch.equal(one, other)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "stopped")


def test_the_last_two_and_the_best_epoch_are_kept(tmp_path: Path) -> None:
    make(tmp_path).fit()

    kept = sorted(path.name for path in tmp_path.glob("step-*"))
    assert kept == ["step-00000005", "step-00000010", "step-00000015"]
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded[0]["best"] == {"step": 5, "epoch": 1, "value": 3.0}


def test_checkpoints_come_every_so_many_steps(tmp_path: Path) -> None:
    run = make(tmp_path, Line(cut(9)), save_every_steps=2, save_minutes=1e9)

    with pytest.raises(RuntimeError, match="power cut"):
        run.fit()

    assert sorted(path.name for path in tmp_path.glob("step-*"))[-1] == "step-00000008"


def cut(step: int) -> Callable[[int], None]:
    def at(now: int) -> None:
        if now == step:
            raise RuntimeError("power cut")

    return at


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    run = make(tmp_path, patience=1)

    last = run.fit()

    assert last["epoch"] == 2
    assert make(tmp_path, patience=1).fit()["epoch"] == 2, "nor does it go on when repeated"


def test_a_step_without_a_finite_loss_is_skipped_and_its_images_named(tmp_path: Path) -> None:
    task = Line()
    task.bad = {7}

    last = make(tmp_path, task).fit()

    assert last["step"] == 15
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len(events) == 1
    assert "step 8 was skipped: its loss is nan" in json.dumps(events[0])
    assert events[0]["images"] == ["photo 1-2"]
    assert all(torch.isfinite(value).all() for value in weights(tmp_path))


def test_too_many_of_them_in_a_row_end_the_run_with_the_last_good_weights(tmp_path: Path) -> None:
    task = Line()
    task.bad = {*range(6, 15)}

    with pytest.raises(FloatingPointError, match=r"3 steps in a row .* weights of step 6 are kept"):
        make(tmp_path, task, max_skipped=3, save_minutes=1e9).fit()

    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded[0]["learner"]["step"] == 9, "saved when it gave up"
    assert all(torch.isfinite(value).all() for value in weights(tmp_path))


def test_a_full_disk_is_told_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saves = []

    def full(point: str) -> None:
        saves.append(point)
        if len(saves) == 4:  # the second save, before it is flushed
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "on_point", full)

    last = make(tmp_path).fit()

    assert last["step"] == 15
    assert "No space left on device; the checkpoint before it stays" in capsys.readouterr().err
    assert not [*tmp_path.glob(".step*")], "nothing half-written stays"
    assert load_checkpoint(tmp_path) is not None


def test_a_torn_checkpoint_is_named_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "whole").fit()
    make(tmp_path / "torn").fit()
    (tmp_path / "torn" / "step-00000015" / "state.pt").write_bytes(b"torn")

    task = Line()
    task.scores = iter([2.0])
    make(tmp_path / "torn", task).fit()

    assert "step-00000015 is damaged and was passed over" in capsys.readouterr().err
    for one, other in zip(weights(tmp_path / "whole"), weights(tmp_path / "torn"), strict=True):
        assert torch.equal(one, other)


def test_rows_that_a_killed_run_logged_beyond_its_checkpoint_are_logged_once(
    tmp_path: Path,
) -> None:
    make(tmp_path).fit()
    for step in (10, 15):
        (tmp_path / f"step-{step:08}" / "state.pt").write_bytes(b"torn")

    task = Line()
    task.scores = iter([1.0, 2.0])
    make(tmp_path, task).fit()

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
