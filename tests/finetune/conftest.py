"""Small sets of drawn photos: red and blue rectangles on dark noise."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wszoo.datasets.detection import DetectionImages, Objects
from wszoo.datasets.instance_masks import RunLengths
from wszoo.datasets.segmentation import SegmentationImages
from wszoo.finetune.box_metrics import pack_masks
from wszoo.finetune.settings import FineTuning
from wszoo.training.runlog import RunLog

WIDTH, HEIGHT = 96, 80
COLOURS = {1: (230, 30, 20), 2: (20, 60, 230)}  # by class
SETTINGS = FineTuning(
    task="detect",
    model="test_resnet_gn_ws",
    head="faster_rcnn",
    pretrained=False,
    epochs=2,
    batch_size=4,
    image_size=64,
    max_size=128,
    lr=1e-3,
    scale=(0.7, 1.5),
)


@pytest.fixture
def settings() -> Callable[..., FineTuning]:
    """Settings for tiny nets, with changes."""
    return lambda **changes: replace(SETTINGS, **changes)


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(tmp_path / "run", title="test")


def draw(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of photo ``number`` (its first pixel says so), boxes, and labels.

    Of every three photos the first has a red, the second a blue, and the third both rectangles.
    """
    random = np.random.default_rng(number)
    pixels = random.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    labels = [(1,), (2,), (1, 2)][number % 3]
    boxes = np.zeros((len(labels), 4), dtype=np.float32)
    for place, label in enumerate(labels):
        width, height = random.integers(20, 40, 2).tolist()
        left = 48 * place + int(random.integers(2, 50 - width))  # one in each half, never both
        top = int(random.integers(2, HEIGHT - height))
        pixels[top : top + height, left : left + width] = COLOURS[label]
        boxes[place] = left, top, left + width, top + height
    pixels[0, 0] = number
    return pixels, boxes, np.array(labels)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def to_masks(boxes: np.ndarray) -> tuple[RunLengths, ...]:
    masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int).tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return pack_masks(masks)


def objects(boxes: np.ndarray, labels: np.ndarray) -> Objects:
    sides = boxes[:, 2:] - boxes[:, :2]
    return Objects(
        size=(WIDTH, HEIGHT),
        boxes=boxes,
        labels=labels,
        iscrowd=np.zeros(len(labels), dtype=bool),
        areas=sides.prod(1),
        segmentations=to_masks(boxes),
    )


@pytest.fixture
def detection_set() -> Callable[..., DetectionImages]:
    """``count`` photos with boxes and masks; there is no object of the third class."""

    def build(count: int = 6) -> DetectionImages:
        drawn = [draw(number) for number in range(count)]
        return DetectionImages(
            names=tuple(f"photos/{number}.png" for number in range(count)),
            sources=tuple(png(pixels) for pixels, _, _ in drawn),
            classes=("red", "blue", "green"),
            class_ids=(1, 2, 3),
            objects=tuple(objects(boxes, labels) for _, boxes, labels in drawn),
            has_masks=True,
        )

    return build


@pytest.fixture
def segmentation_set() -> Callable[..., SegmentationImages]:
    """The same photos with a mask: 0 around, 1 red, 2 blue; the top row has no label."""

    def mask(boxes: np.ndarray, labels: np.ndarray) -> bytes:
        pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        for (left, top, right, bottom), label in zip(boxes.astype(int), labels, strict=True):
            pixels[top:bottom, left:right] = label
        pixels[0] = 255
        return png(pixels)

    def build(count: int = 6) -> SegmentationImages:
        drawn = [draw(number) for number in range(count)]
        return SegmentationImages(
            names=tuple(f"photos/{number}.png" for number in range(count)),
            sources=tuple(png(pixels) for pixels, _, _ in drawn),
            mask_sources=tuple(mask(boxes, labels) for _, boxes, labels in drawn),
            classes=("around", "red", "blue", "green"),
        )

    return build


@pytest.fixture
def seen_by() -> Callable[..., list[list[bytes]]]:
    """What tasks are given in each step of an epoch, sorted, whoever takes it in whatever pass."""

    def samples(batch: Any) -> list[bytes]:
        if isinstance(batch, list):  # scenes
            return [
                b"".join(part.numpy().tobytes() for part in (image, *target.values()))
                for image, target in batch
            ]
        return [a.numpy().tobytes() + b.numpy().tobytes() for a, b in zip(*batch, strict=True)]

    def seen(tasks: list[Any], epoch: int = 0, first_step: int = 0) -> list[list[bytes]]:
        steps = zip(*(task.batches(epoch, first_step) for task in tasks), strict=True)
        return [
            sorted(one for batches in step for batch in batches for one in samples(batch))
            for step in steps
        ]

    return seen
