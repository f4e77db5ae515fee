"""The main job on packaged data: classify photos, then fine-tune two and one at a time.

A pretrained net and the same net from random weights learn kinds of clothing from a few hundred
photos with batches of two, where BatchNorm would break down; a detector over the pretrained net
learns to find blood cells with one photo per step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from wszoo.datasets import LabelledImages, read_labelled_images
from wszoo.demo_detection import CellsFound, Progress, find_cells
from wszoo.evaluate import Evaluation, evaluate, predict
from wszoo.training import engine
from wszoo.training.augment import CROP_DRAWS, random_resized_crops
from wszoo.training.sampler import epoch_order, epoch_uniforms
from wszoo.verify import make_folder
from wszoo.visualize import draw_confusion, draw_curves, draw_predictions
from wszoo.weights import ASSETS, find

MODEL = "resnet18_gn_ws"
BATCH_SIZE = 2
EPOCHS = 3
LEARNING_RATE = 4e-4
CROP_PIXELS = 80
SHOWN = 24  # photos on each contact sheet


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """A net while it learns: held-out accuracy in percent after each epoch."""

    name: str
    model: nn.Module
    curve: list[tuple[float, float]]
    result: Evaluation


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo found.

    Attributes:
        pretrained: Held-out top-1 of the pretrained net, in percent.
        random: The same from random weights.
        photos: Held-out photos.
        margin: Twice the binomial standard error of the difference, in points.
        cells: What the detector found.
    """

    pretrained: float
    random: float
    photos: int
    margin: float
    cells: CellsFound

    @property
    def helped(self) -> bool:
        """Whether pretraining helped beyond chance."""
        return self.pretrained - self.random > self.margin

    @property
    def passed(self) -> bool:
        """Whether pretraining helped beyond chance, and cells were found."""
        return self.helped and self.cells.passed

    def __str__(self) -> str:
        verdict = "helps" if self.helped else "does not help beyond chance"
        lead = f"{self.pretrained - self.random:+.1f} points, two standard errors {self.margin:.1f}"
        return f"pretraining {verdict}: {lead}\n{self.cells}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cells": self.cells.to_json(), "passed": self.passed}


def run_demo(output: Path, *, echo: Callable[[str], None], progress: Progress) -> DemoResult:
    """Do the whole of it and leave pictures in ``output``.

    Args:
        output: Folder for the pictures; made if missing.
        echo: Takes one line of report at a time.
        progress: Shows how far an iterable has come.

    Raises:
        OSError: ``output`` cannot be made.
    """
    make_folder(output)
    held_out = read_labelled_images(ASSETS / "clothing", "val")
    weights = find(MODEL)
    classify_photos(held_out, output, echo)
    photos = read_labelled_images(ASSETS / "clothing", "train")
    task = f"{len(photos)} photos of {len(photos.classes)} kinds of clothing"
    echo(f"fine-tuning {weights.name} on {task}, batch size {BATCH_SIZE}")
    learners = [
        fine_tune(name, pretrained, photos, held_out, progress)
        for name, pretrained in (("pretrained", True), ("random weights", False))
    ]
    for learner in learners:
        accuracy, error = learner.result.top1, learner.result.standard_error
        echo(f"{learner.name:<15} {accuracy:5.1f} % ± {error:.1f} of {learner.result.count} photos")
    draw(learners, held_out, len(photos), output)
    cells = find_cells(MODEL, output, echo=echo, progress=progress)
    echo(f"pictures: {', '.join(str(path) for path in sorted(output.glob('*.png')))}")
    first, second = (learner.result for learner in learners)
    return DemoResult(
        pretrained=first.top1,
        random=second.top1,
        photos=first.count,
        margin=2 * float(np.hypot(first.standard_error, second.standard_error)),
        cells=cells,
    )


def classify_photos(photos: LabelledImages, output: Path, echo: Callable[[str], None]) -> None:
    """Say and draw what the published classifier sees in some of the photos."""
    weights = find(MODEL)
    model = timm.create_model(weights.name, pretrained=True)
    names = weights.label_names()
    images = [photos.image(i) for i in _spread(photos)]
    seen = [
        [(names[row].split(",")[0], share) for row, share in ranked]
        for ranked in predict(model, images, top=2)
    ]
    echo(f"{weights.name} sees in packaged photos:")
    for index, ranked in zip(_spread(photos)[:6], seen, strict=False):
        kind = photos.classes[photos.targets[index]]
        echo(f"  {kind:<11} " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in ranked))
    draw_predictions(
        images,
        [f"{ranked[0][0]} {100 * ranked[0][1]:.0f} %" for ranked in seen],
        [None] * len(images),
        output / "classified.png",
        title=f"{weights.name}: best of {len(names)} classes",
    )


def fine_tune(
    name: str,
    pretrained: bool,
    photos: LabelledImages,
    held_out: LabelledImages,
    progress: Progress,
) -> FineTuned:
    """Train with batches of two, judging by the held-out photos after each epoch."""
    torch.manual_seed(0)
    model = timm.create_model(MODEL, pretrained=pretrained, num_classes=len(photos.classes))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=0.02, fused=True
    )
    pixels = torch.from_numpy(photos.decode(CROP_PIXELS))
    targets = torch.tensor(photos.targets)
    steps = len(photos) // BATCH_SIZE
    curve: list[tuple[float, float]] = [(0, evaluate(model, held_out, held_out.targets).top1)]
    learner = engine.Learner(model, optimizer)
    for epoch in range(EPOCHS):
        batches = _batches(pixels, targets, model, epoch)
        model.train()
        for batch in progress(batches, steps, f"{name}, epoch {epoch + 1}/{EPOCHS}"):
            step = learner.step_count
            rate = min(1.0, (step + 1) / 50) * (1 - step / (steps * EPOCHS))
            learner.step([batch], _loss, rate=rate)
        result = evaluate(model, held_out, held_out.targets)
        curve.append((epoch + 1, result.top1))
    return FineTuned(name=name, model=model, curve=curve, result=result)


def _batches(
    pixels: Tensor, targets: Tensor, model: nn.Module, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    cfg = resolve_model_data_config(model)
    mean = 255 * torch.tensor(cfg["mean"]).view(3, 1, 1)
    std = 255 * torch.tensor(cfg["std"]).view(3, 1, 1)
    order = epoch_order(0, epoch, len(pixels))
    draws = epoch_uniforms(0, epoch, len(pixels), CROP_DRAWS)
    for chosen in order[: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE):
        images = (pixels[chosen].permute(0, 3, 1, 2).float() - mean) / std
        crops = random_resized_crops(
            images, torch.from_numpy(draws[chosen]), CROP_PIXELS, scale=(0.5, 1.0)
        )
        yield crops, targets[chosen]


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, targets = batch
    return F.cross_entropy(model(images), targets, label_smoothing=0.1)


def draw(
    learners: list[FineTuned], held_out: LabelledImages, train_photos: int, output: Path
) -> None:
    """Curves of both, predictions and confusions of the first."""
    best = learners[0]
    draw_curves(
        {learner.name: learner.curve for learner in learners},
        output / "learning_curves.png",
        x_label=f"epochs of {train_photos} photos, batch size {BATCH_SIZE}",
        y_label="held-out top-1 (%)",
        title=f"{MODEL} on {len(held_out.classes)} kinds of clothing",
        hlines={"chance": 100 / len(held_out.classes)},
    )
    shown = _spread(held_out)
    images = [held_out.image(i) for i in shown]
    ranked = predict(best.model, images, top=1)
    draw_predictions(
        images,
        [
            caption_of(held_out.classes, row, share, held_out.targets[i])
            for i, ((row, share),) in zip(shown, ranked, strict=True)
        ],
        [row == held_out.targets[i] for i, ((row, _),) in zip(shown, ranked, strict=True)],
        output / "predictions.png",
        title=f"after fine-tuning: {best.result.top1:.1f} % of held-out photos right",
    )
    draw_confusion(
        best.result.confusion.numpy(),
        held_out.classes,
        output / "confusion.png",
        title=f"{best.name}, held-out photos",
    )


def caption_of(classes: Sequence[str], row: int, share: float, target: int) -> str:
    """What is said below a photo: the class that is predicted, and the true one if it is another.

    Args:
        classes: Names.
        row: Predicted class.
        share: Its probability, in 0..1.
        target: True class.
    """
    said = f"{classes[row]} {100 * share:.0f} %"
    return said if row == target else f"{said}\ntruth: {classes[target]}"


def _spread(photos: LabelledImages) -> list[int]:
    """Photos from all over the set, so that every class is shown."""
    return np.linspace(0, len(photos) - 1, SHOWN).round().astype(int).tolist()
