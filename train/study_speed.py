"""What the loop costs: ``python -m train.study_speed --help``.

Three figures, each a ratio from one run on this machine: the loop against the bare forward,
backward and optimizer step; two ranks on two cores against one on one; and the share of the time
that is spent waiting for photos that are read from files.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wszoo
from train.recipes import E6_TIN200
from wszoo.datasets import read_labelled_images
from wszoo.terminal import OneLineErrors
from wszoo.training.batches import plan_batches
from wszoo.training.classify import Classification
from wszoo.training.declaration import code_version, hardware
from wszoo.training.distributed import Ranks, join_ranks
from wszoo.training.engine import Learner
from wszoo.training.file_source import FileSource
from wszoo.training.run import Limits, Run
from wszoo.training.runlog import RunLog
from wszoo.training.sources import held_out_split

MODEL, CLASSES, PIXELS = "resnet18_gn_ws", 200, 64
RESULTS = Path(__file__).parent.parent / "model_cards" / "benchmarks" / "cpu_training_loop.json"
Batch = tuple[Tensor, Tensor]


def make(**more: Any) -> Learner:
    """The net with SGD, in fp32."""
    torch.manual_seed(0)
    model = timm.create_model(MODEL, num_classes=CLASSES).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return Learner(model, optimizer, **more)


def random_batch(size: int) -> Batch:
    return torch.randn(size, 3, PIXELS, PIXELS), torch.randint(CLASSES, (size,))


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class BareBetween:
    """A task of one batch that takes a bare step, timed, before each step of the loop.

    So the two take turns step by step, and what slows the machine down slows down both.
    """

    judged_by, batch_size = "none", 32

    def __init__(self, steps: int) -> None:
        self.steps_per_epoch = steps
        self.batch = random_batch(self.batch_size)
        self.bare_seconds: list[float] = []
        self.loop_seconds: list[float] = []
        learner = make()
        self._model, self._optimizer = learner.model, learner.optimizer

    def batches(self, epoch: int, first_step: int) -> Iterator[list[Batch]]:
        self._bare_step()
        for _ in range(self.steps_per_epoch):
            started = time.perf_counter()
            yield [self.batch]
            self.loop_seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            self._bare_step()
            self.bare_seconds.append(time.perf_counter() - started)

    def _bare_step(self) -> None:
        self.loss(self._model, self.batch).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model, batch)

    def evaluate(self, learner: Learner, pause: Callable[[], None]) -> dict[str, float]:
        return {"none": 0.0}

    def facts(self, epoch: int) -> dict[str, Any]:
        return {}

    def names(self, epoch: int, step: int) -> list[str]:
        return []

    def close(self) -> None:
        pass


def overhead(steps: int, ema: float | None) -> float:
    """Percent by which a step of the loop takes longer than a bare one."""
    task = BareBetween(steps)
    with TemporaryDirectory() as folder:
        log = RunLog(Path(folder), title="overhead")
        limits = Limits(epochs=1, save_minutes=1e9)
        Run(task, make(ema_decay=ema), Path(folder), limits, rate_at=lambda _: 1.0, log=log).fit()
    return 100 * (median(task.loop_seconds[3:]) / median(task.bare_seconds[3:]) - 1)


def images_per_second(ranks: int, steps: int) -> float:
    """Of ``ranks`` processes with a core and 64 images each."""
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    words += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "train.study_speed"]
    run = subprocess.run(
        [*words, "--rank-steps", str(steps)], capture_output=True, text=True, check=True
    )
    return float(run.stdout)


def measure_rank(steps: int) -> None:
    """Print images per second over all ranks; run by torchrun."""
    with join_ranks(device="cpu") as ranks:
        core = sorted(os.sched_getaffinity(0))[0]
        os.sched_setaffinity(0, {core})
        torch.set_num_threads(1)
        learner, batch, seconds = make(ranks=ranks), random_batch(64), []
        for _ in range(steps + 3):
            started = time.perf_counter()
            learner.step([batch], cross_entropy, rate=1.0)
            seconds.append(time.perf_counter() - started)
        if ranks.is_main:
            click.echo(64 * ranks.size / median(seconds[3:]))


class Waits(RunLog):
    """Adds up how long the loop waited for data."""

    seconds = waited = 0.0

    def step(self, step: int, **facts: Any) -> None:
        if step > 3:  # the first ones wait for the workers to start
            self.seconds += facts["seconds"]
            self.waited += facts["waited"]


def waiting(data: Path, steps: int) -> float:
    """Percent of the time that one thread waits for one worker that reads image files."""
    torch.set_num_threads(1)
    recipe = replace(E6_TIN200, phases=((1, PIXELS),), batch_size=64, stored_pixels=None)
    images = read_labelled_images(data)
    train, held = held_out_split(images.targets, recipe.held_out_per_class)
    train = train[: 64 * steps]
    ranks = Ranks()
    with TemporaryDirectory() as folder:
        log = Waits(Path(folder), title="waiting")
        source = FileSource(
            images, train, (images, held[:64]), recipe, ranks.device, workers=1, log=log
        )
        cfg = wszoo.Weights
        plan = plan_batches(64, 1)
        task = Classification(source, recipe, plan, ranks, mean=cfg.mean, std=cfg.std)
        limits = Limits(epochs=1, save_minutes=1e9)
        learner = make(precision="bf16")
        Run(task, learner, Path(folder), limits, rate_at=lambda _: 1.0, log=log).fit()
    return 100 * log.waited / log.seconds


@click.command(cls=OneLineErrors)
@click.option("--photos", type=click.Path(path_type=Path, exists=True), help="Class folders.")
@click.option("--steps", default=40, show_default=True, help="Per figure and round.")
@click.option("--rounds", default=3, show_default=True, help="Of one rank and two ranks in turn.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--rank-steps", type=int, hidden=True)
def main(
    photos: Path | None, steps: int, rounds: int, results: Path, rank_steps: int | None
) -> None:
    """Measure what the loop costs, print it and write it to a file."""
    if rank_steps:
        measure_rank(rank_steps)
        return
    if photos is None:
        raise click.UsageError("give --photos, a folder of class folders such as Tiny ImageNet")
    facts = {"model": MODEL, "pixels": PIXELS, "hardware": hardware(), "code": code_version()}
    found = {
        "overhead_percent": round(overhead(steps, None), 2),
        "overhead_with_ema_percent": round(overhead(steps, 0.999), 2),
    }
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for ranks in speeds:
            speeds[ranks].append(images_per_second(ranks, steps // 2))
    found["two_ranks_over_one"] = round(median(speeds[2]) / median(speeds[1]), 3)
    found["waiting_percent"] = round(waiting(photos, 2 * steps), 2)
    speed = {str(ranks): [round(value, 1) for value in values] for ranks, values in speeds.items()}
    text = json.dumps({**found, "images_per_second": speed, **facts}, indent=2)
    results.write_text(text + "\n")
    click.echo(text)


if __name__ == "__main__":
    main()
