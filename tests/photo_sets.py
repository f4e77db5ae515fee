"""Small sets of drawn photos on disk, one per task: red and blue things on dark noise."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 80
COLOURS = {"red": (230, 30, 20), "blue": (20, 60, 230), "green": (30, 200, 40)}
SPLITS = {"train": 6, "val": 3}


def draw(seed: int, colour: tuple[int, int, int]) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Pixels ``(80, 96, 3)`` with a rectangle, and its x, y, width and height."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    width, height = (int(side) for side in random.integers(24, 40, 2))
    x, y = int(random.integers(0, WIDTH - width)), int(random.integers(0, HEIGHT - height))
    pixels[y : y + height, x : x + width] = colour
    return pixels, (x, y, width, height)


def write_classes(
    root: Path, classes: tuple[str, ...] = ("blue", "red"), splits: Mapping[str, int] = SPLITS
) -> Path:
    """Class folders with as many photos of each class as ``splits`` says."""
    for number, (split, count) in enumerate(splits.items()):
        for row, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels, _ = draw(1000 * number + 100 * row + index, COLOURS[name])
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def write_coco(
    root: Path, classes: tuple[str, ...] = ("red", "blue"), splits: Mapping[str, int] = SPLITS
) -> Path:
    """COCO json files, one object per photo; category ids are 7, 14, ..."""
    (root / "annotations").mkdir(parents=True)
    for number, (split, count) in enumerate(splits.items()):
        (root / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            row = index % len(classes)
            pixels, box = draw(1000 * number + index, COLOURS[classes[row]])
            Image.fromarray(pixels).save(root / split / f"{index}.png")
            size = {"width": WIDTH, "height": HEIGHT}
            images.append({"id": index, "file_name": f"{index}.png", **size})
            annotation = {"id": index + 1, "image_id": index, "category_id": 7 * (row + 1)}
            annotations.append(
                {**annotation, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0}
            )
        categories = [{"id": 7 * (row + 1), "name": name} for row, name in enumerate(classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def write_masks(
    root: Path, classes: tuple[str, ...] = ("ground", "red"), splits: Mapping[str, int] = SPLITS
) -> Path:
    """Photos and masks: value 0 around the rectangle, 1 in it; ``classes.txt`` names them."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(classes))
    for number, (split, count) in enumerate(splits.items()):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            pixels, (x, y, width, height) = draw(1000 * number + index, COLOURS[classes[1]])
            mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
            mask[y : y + height, x : x + width] = 1
            Image.fromarray(pixels).save(root / split / "images" / f"{index}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{index}.png")
    return root
