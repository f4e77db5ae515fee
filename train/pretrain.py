"""Pretrain a variant on a classification set: ``python -m train.pretrain --help``.

A run is resumed by repeating its command; it goes on with the very next image.
"""

import json
import signal
import sys
import time
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

import wszoo  # noqa: F401  registers the variants
from train.recipes import RECIPES, Recipe
from wszoo.datasets import read_labelled_images
from wszoo.training.augment import CROP_DRAWS, random_resized_crops, resize
from wszoo.training.checkpoint import load_checkpoint, save_checkpoint
from wszoo.training.sampler import epoch_order, epoch_uniforms

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) * 255
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255
STORED_SIZE = 64


def decode_cached(data: Path, split: str, cache: Path) -> tuple[np.ndarray, Tensor, list[str]]:
    """Photos of a split as a memory-mapped uint8 array, decoded once, with targets and classes."""
    pixels, labels = cache / f"{split}.npy", cache / f"{split}.json"
    if not labels.exists():
        cache.mkdir(parents=True, exist_ok=True)
        images = read_labelled_images(data, split)
        np.save(pixels, images.decode(STORED_SIZE))
        labels.write_text(json.dumps({"targets": images.targets, "classes": images.classes}))
    meta = json.loads(labels.read_text())
    return np.load(pixels, mmap_mode="r"), torch.tensor(meta["targets"]), meta["classes"]


def hold_out(targets: Tensor, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and to judge by: the last ``per_class`` photos of each class are kept."""
    held = torch.cat([(targets == c).nonzero()[-per_class:, 0] for c in targets.unique()]).numpy()
    return np.setdiff1d(np.arange(len(targets)), held), held


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    kernels = [p for p in model.parameters() if p.ndim == 4]
    others = [p for p in model.parameters() if p.ndim != 4]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "peak_lr": recipe.lr, "weight_decay": recipe.weight_decay},
        {"params": others, "peak_lr": recipe.head_lr, "weight_decay": 0.0, "use_fallback": True},
    ]
    if recipe.optimizer == "muon":
        return Muon(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True)
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=True
    )


def normalise(images: np.ndarray) -> Tensor:
    """``(N, H, W, 3)`` uint8 to ``(N, 3, H, W)`` float."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().sub_(MEAN).div_(STD)


@torch.inference_mode()
def accuracy(model: nn.Module, pixels: np.ndarray, targets: Tensor, size: int) -> float:
    """Top-1 in percent."""
    model.eval()
    correct = 0
    for start in range(0, len(pixels), 250):
        batch = torch.from_numpy(pixels[start : start + 250]).permute(0, 3, 1, 2).float()
        images = resize(batch, size).sub_(MEAN).div_(STD)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        correct += int((logits.argmax(1) == targets[start : start + 250]).sum())
    model.train()
    return 100 * correct / len(pixels)


class Run:
    """One pretraining run: what it trains, where it stands, and how to save that."""

    def __init__(self, model_name: str, recipe: Recipe, data: Path, output: Path, subset: int) -> None:
        self.recipe, self.output = recipe, output
        pixels, targets, self.classes = decode_cached(data, "train", output.parent / "cache")
        self.pixels, self.targets = pixels, targets
        self.train, self.held = hold_out(targets, per_class=25)
        if subset:
            self.train = self.train[targets[self.train] < subset]
            self.held = self.held[targets[self.held] < subset]
        torch.manual_seed(recipe.seed)
        self.model = timm.create_model(model_name, num_classes=len(self.classes)).train()
        self.optimizer = make_optimizer(self.model, recipe)
        self.steps_per_epoch = len(self.train) // recipe.batch_size
        self.total = self.steps_per_epoch * recipe.epochs
        self.step = 0
        self.seconds = 0.0

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        save_checkpoint(self.output, self.step, state)

    def resume(self) -> None:
        loaded = load_checkpoint(self.output)
        if loaded is None:
            return
        state, _ = loaded
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def batches(self, epoch: int) -> Any:
        """The batches of ``epoch`` from the current step on."""
        size = self.recipe.size_at(epoch)
        order = epoch_order(self.recipe.seed, epoch, len(self.train))
        uniforms = epoch_uniforms(self.recipe.seed, epoch, len(self.train), CROP_DRAWS)
        for index in range(self.step % self.steps_per_epoch, self.steps_per_epoch):
            chosen = order[index * self.recipe.batch_size :][: self.recipe.batch_size]
            photos = self.train[chosen]
            images = normalise(self.pixels[np.sort(photos)])
            rank = np.argsort(photos)
            draws = torch.from_numpy(uniforms[chosen[rank]])
            crops = random_resized_crops(images, draws, size, scale=self.recipe.crop_scale)
            yield crops, self.targets[photos[rank]]

    def take_step(self, images: Tensor, targets: Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.recipe.rate_at((self.step + 1) / (self.total + 1))
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(images)
        loss = F.cross_entropy(
            logits.float(), targets, label_smoothing=self.recipe.label_smoothing
        )
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss.item()


def train(run: Run, *, save_minutes: float) -> None:
    log = run.output / "metrics.jsonl"
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: stopped.append(n))
    saved = time.monotonic()
    while run.step < run.total:
        epoch = run.step // run.steps_per_epoch
        losses: list[float] = []
        for images, targets in run.batches(epoch):
            started = time.monotonic()
            losses.append(run.take_step(images, targets))
            run.seconds += time.monotonic() - started
            if run.step % 20 == 0:
                print(f"{run.step}/{run.total} epoch {epoch} loss {np.mean(losses[-20:]):.3f} "
                      f"{run.seconds:.0f}s", flush=True)
            if stopped or time.monotonic() - saved > 60 * save_minutes:
                run.save()
                saved = time.monotonic()
            if stopped:
                sys.exit(4)
        row = {
            "epoch": epoch + 1,
            "step": run.step,
            "size": run.recipe.size_at(epoch),
            "loss": float(np.mean(losses)),
            "held_out_top1": accuracy(run.model, run.pixels[run.held], run.targets[run.held], run.recipe.test_size),
            "seconds": round(run.seconds, 1),
        }
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
    run.save()


@click.command()
@click.option("--model", default="resnet18_gn_ws")
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--output-dir", type=click.Path(path_type=Path), required=True)
@click.option("--save-minutes", default=5.0)
@click.option("--subset", default=0)
def main(model: str, recipe: str, data: Path, output_dir: Path, save_minutes: float, subset: int) -> None:
    """Train MODEL by RECIPE on the photos under DATA."""
    output_dir.mkdir(parents=True, exist_ok=True)
    run = Run(model, RECIPES[recipe], data, output_dir, subset)
    (output_dir / "recipe.json").write_text(json.dumps(asdict(run.recipe)))
    run.resume()
    train(run, save_minutes=save_minutes)


if __name__ == "__main__":
    main()
