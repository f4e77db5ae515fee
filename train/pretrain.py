"""Pretrain a variant on a classification set: ``python -m train.pretrain --help``.

A run is resumed by repeating its command; it goes on with the very next photo.
"""

import hashlib
import json
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.optim import Muon
from torch import Tensor, nn
from tqdm import tqdm

import wszoo
from train.recipes import RECIPES, Recipe
from wszoo.datasets import read_labelled_images
from wszoo.terminal import OneLineErrors, check_name
from wszoo.training.augment import CROP_DRAWS, random_resized_crops, resize
from wszoo.training.checkpoint import load_checkpoint, save_checkpoint
from wszoo.training.engine import train
from wszoo.training.sampler import epoch_order, epoch_uniforms

MEAN = torch.tensor(wszoo.Weights.mean).view(3, 1, 1) * 255
STD = torch.tensor(wszoo.Weights.std).view(3, 1, 1) * 255
STORED_PIXELS = 64
HELD_OUT_PER_CLASS = 25
STOPPED = 4  # exit code


class Photos:
    """A split decoded once into a memory-mapped array, beside the runs that use it.

    Attributes:
        pixels: ``(N, 64, 64, 3)`` uint8.
        targets: ``(N,)``.
        classes: Names of the class folders.
    """

    def __init__(self, data: Path, split: str, cache: Path) -> None:
        key = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:12]
        array, labels = cache / f"{key}-{split}.npy", cache / f"{key}-{split}.json"
        if not labels.exists():
            cache.mkdir(parents=True, exist_ok=True)
            images = read_labelled_images(data, split)
            np.save(array, images.decode(STORED_PIXELS))
            labels.write_text(json.dumps({"targets": images.targets, "classes": images.classes}))
        meta = json.loads(labels.read_text())
        self.pixels: np.ndarray = np.load(array, mmap_mode="r")
        self.targets = torch.tensor(meta["targets"])
        self.classes: list[str] = meta["classes"]

    def hold_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices to train on, and those kept to choose by: the last few photos of each class."""
        kept = [
            (self.targets == target).nonzero()[-HELD_OUT_PER_CLASS:, 0]
            for target in range(len(self.classes))
        ]
        held = torch.cat(kept).numpy()
        return np.setdiff1d(np.arange(len(self.targets)), held), held


class Run:
    """One pretraining run: what it trains, where it stands, and how that is saved."""

    def __init__(self, model: str, recipe: Recipe, photos: Photos, output: Path) -> None:
        self.recipe, self.photos, self.output = recipe, photos, output
        self.train, self.held = photos.hold_out()
        torch.manual_seed(recipe.seed)
        self.model = timm.create_model(model, num_classes=len(photos.classes)).train()
        self.optimizer = make_optimizer(self.model, recipe)
        self.steps_per_epoch = len(self.train) // recipe.batch_size
        self.steps = self.steps_per_epoch * recipe.epochs
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []  # of the current epoch
        self.log: list[dict[str, Any]] = []  # one row per finished epoch

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "log": self.log,
        }
        save_checkpoint(self.output, self.step, state)

    def resume(self) -> None:
        """Go on where the newest checkpoint stands, if there is one."""
        loaded = load_checkpoint(self.output)
        if loaded is not None:
            state, _ = loaded
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.losses, self.log = state["losses"], state["log"]
            self.write_log()

    def write_log(self) -> None:
        """The rows as the checkpoint has them, whatever a killed run left behind."""
        rows = "".join(json.dumps(row) + "\n" for row in self.log)
        (self.output / "metrics.jsonl").write_text(rows)

    def finish_epoch(self) -> dict[str, Any]:
        """Judge by the held-out photos, log that, and save."""
        epoch = self.step // self.steps_per_epoch
        row = {
            "epoch": epoch,
            "step": self.step,
            "pixels": self.recipe.size_at(epoch - 1),
            "loss": round(float(np.mean(self.losses)), 4),
            "held_out_top1": round(self.held_out_top1(), 2),
            "seconds": round(self.seconds, 1),
        }
        self.log.append(row)
        self.losses = []
        self.write_log()
        self.save()
        return row

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of ``epoch``: crops ``(N, 3, S, S)`` and targets ``(N,)``."""
        size = self.recipe.size_at(epoch)
        order = epoch_order(self.recipe.seed, epoch, len(self.train))
        draws = epoch_uniforms(self.recipe.seed, epoch, len(self.train), CROP_DRAWS)
        for index in range(self.step % self.steps_per_epoch, self.steps_per_epoch):
            chosen = np.sort(order[index * self.recipe.batch_size :][: self.recipe.batch_size])
            photos = self.train[chosen]
            images = normalise(to_floats(self.photos.pixels[photos]))
            uniforms = torch.from_numpy(draws[chosen])
            crops = random_resized_crops(images, uniforms, size, scale=self.recipe.crop_scale)
            yield crops, self.photos.targets[photos]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, targets = batch
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)

    def held_out_top1(self) -> float:
        """Top-1 in percent on the photos that are kept to choose by."""
        pixels, targets = self.photos.pixels[self.held], self.photos.targets[self.held]
        return top1(self.model, pixels, targets, self.recipe.test_size)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    kernels = [p for p in model.parameters() if p.ndim == 4]
    others = [p for p in model.parameters() if p.ndim != 4]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "lr": recipe.lr, "weight_decay": recipe.weight_decay},
        {"params": others, "lr": recipe.head_lr, "weight_decay": 0.0, "use_fallback": True},
    ]
    return Muon(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True)


def to_floats(pixels: np.ndarray) -> Tensor:
    """``(N, H, W, 3)`` uint8 to ``(N, 3, H, W)`` in 0..255."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float()


def normalise(images: Tensor) -> Tensor:
    return images.sub_(MEAN).div_(STD)


@torch.inference_mode()
def top1(model: nn.Module, pixels: np.ndarray, targets: Tensor, size: int) -> float:
    """Percent of photos whose class is rated highest, at ``size`` pixels."""
    model.eval()
    correct = 0
    for start in range(0, len(pixels), 250):
        images = normalise(resize(to_floats(pixels[start : start + 250]), size))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        correct += int((logits.argmax(1) == targets[start : start + 250]).sum())
    model.train()
    return 100 * correct / len(pixels)


def pretrain(run: Run, *, save_minutes: float, epochs: int | None = None) -> None:
    """Train to the end of the recipe, or of ``epochs``, saving now and then and when stopped."""
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: signals.append(received))
    clock = saved = time.monotonic()

    def on_step(step: int, loss: float) -> None:
        nonlocal clock, saved
        now = time.monotonic()
        run.step, run.seconds, clock = step, run.seconds + now - clock, now
        run.losses.append(loss)
        if signals or now - saved > 60 * save_minutes:
            run.save()
            saved = now
        if signals:
            click.echo(f"stopped at step {step}; repeat the command to go on", err=True)
            sys.exit(STOPPED)

    while run.step < run.steps_per_epoch * (epochs or run.recipe.epochs):
        # A run that was stopped after the last step of an epoch has only that epoch's log to write.
        if not (run.losses and run.step % run.steps_per_epoch == 0):
            train_epoch(run, on_step)
        click.echo(json.dumps(run.finish_epoch()))
        clock = time.monotonic()


def train_epoch(run: Run, on_step: Callable[[int, float], None]) -> None:
    """Take what is left of the current epoch."""
    epoch, done = divmod(run.step, run.steps_per_epoch)
    left = run.steps_per_epoch - done
    train(
        run.model,
        tqdm(run.batches(epoch), f"epoch {epoch + 1}", total=left, disable=None),
        run.loss,
        run.optimizer,
        rate_at=lambda step: run.recipe.rate_at(step, run.steps),
        on_step=on_step,
        step=run.step,
    )


def hardware() -> str:
    """What the run computes on, for its card."""
    threads = torch.get_num_threads()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{threads} CPU thread{'s' * (threads > 1)} ({next(named, platform.machine())})"


def declare(output: Path, settings: dict[str, Any]) -> None:
    """Write down what a run is before it starts, and hold a resumed one to it.

    Raises:
        ValueError: The folder belongs to another run.
    """
    path = output / "run.json"
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        facts = {**settings, "hardware": hardware(), "code": code_version()}
        path.write_text(json.dumps(facts, indent=2))
        return
    before = json.loads(path.read_text())
    for key, value in settings.items():
        if before.get(key) != value:
            raise ValueError(
                f"{output} holds a run with {key} {before.get(key)!r}, not {value!r}; "
                f"resume it as it was, or name another --output-dir"
            )


def code_version() -> str:
    """Commit of this checkout, with ``-dirty`` where files differ from it."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    result = subprocess.run((*command, "--abbrev=12"), capture_output=True, text=True)
    return result.stdout.strip() or "unknown"


@click.command(cls=OneLineErrors)
@click.option(
    "--model",
    default="resnet18_gn_ws",
    show_default=True,
    callback=lambda _context, _parameter, name: check_name(name).split(".")[0],
    help="Variant to train.",
)
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--output-dir", type=click.Path(path_type=Path), required=True)
@click.option("--save-minutes", default=5.0, show_default=True, help="Between checkpoints.")
@click.option("--epochs", type=int, help="Stop after so many; repeat without it to go on.")
def main(
    model: str, recipe: str, data: Path, output_dir: Path, save_minutes: float, epochs: int | None
) -> None:
    """Train a variant by a recipe on the train split under --data, resuming where it stood."""
    output_dir.mkdir(parents=True, exist_ok=True)
    declare(output_dir, {"model": model, "recipe": recipe, **asdict(RECIPES[recipe])})
    photos = Photos(data, "train", output_dir.parent / "cache")
    run = Run(model, RECIPES[recipe], photos, output_dir)
    run.resume()
    pretrain(run, save_minutes=save_minutes, epochs=epochs)


if __name__ == "__main__":
    main()
