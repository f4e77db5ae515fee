from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wszoo.finetune.geometry import augment_objects, crop_pixels, to_floats, to_pixels

WIDTH, HEIGHT = 90, 64
RED = (240, 10, 20)
BOX = (30, 20, 62, 45)  # left, top, right, bottom


def scene() -> tuple[Image.Image, dict[str, Tensor]]:
    """A red rectangle on black, its box, label and mask."""
    image = Image.new("RGB", (WIDTH, HEIGHT))
    image.paste(RED, BOX)
    masks = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    boxes = torch.tensor([BOX]).float()
    return image, {"boxes": boxes, "labels": torch.tensor([7]), "masks": masks}


def is_red(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image).astype(int)
    return (pixels[..., 0] > 150) & (pixels[..., 1] < 60)


def extent(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


class Drawn:
    """Chance that has been decided: factor, left, top and flip."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = np.array(numbers)

    def random(self, count: int) -> np.ndarray:
        assert count == len(self.numbers)
        return self.numbers


@pytest.mark.parametrize(
    ("scale", "hflip"),
    [((1, 1), 1), ((1.2, 2.5), 0), ((0.3, 0.8), 0), ((0.4, 2), 0.5)],
    ids=["flip", "enlarge", "reduce", "all"],
)
def test_box_mask_and_photo_move_together(scale: tuple[float, float], hflip: float) -> None:
    places = set()
    for seed in range(40):
        image, target = augment_objects(
            *scene(), np.random.default_rng(seed), scale=scale, hflip=hflip
        )

        seen = is_red(image)
        assert target["masks"].shape[1:] == (image.height, image.width)
        if not len(target["boxes"]):
            assert seen.mean() < 0.5, "its centre is out of sight"
            continue
        box = target["boxes"][0]
        assert np.abs(box.numpy() - extent(seen)).max() <= 1.01
        assert np.abs(np.array(extent(target["masks"][0].numpy())) - extent(seen)).max() <= 1
        assert (target["masks"][0].numpy() != seen).mean() < 0.03
        assert target["labels"].tolist() == [7]
        assert (box >= 0).all() and box[2] <= image.width and box[3] <= image.height
        places.add(tuple(box.tolist()))
    assert len(places) > (20 if scale != (1, 1) else 0)


def test_a_flip_is_exact() -> None:
    image, target = augment_objects(*scene(), np.random.default_rng(0), scale=(1, 1), hflip=1)

    assert target["boxes"].tolist() == [[WIDTH - 62, 20, WIDTH - 30, 45]]
    assert extent(is_red(image)) == extent(target["masks"][0].numpy()) == [28, 20, 60, 45]


def test_a_factor_of_one_without_a_flip_changes_nothing() -> None:
    image, target = scene()

    same, kept = augment_objects(image, target, np.random.default_rng(0), scale=(1, 1), hflip=0)

    assert same.tobytes() == image.tobytes()
    assert all(kept[key].equal(target[key]) for key in target)


def test_objects_are_clipped_to_what_is_seen_or_left_out() -> None:
    boxes = torch.tensor(
        [[40, 10, 70, 30], [20, 0, 60, 20], [99.2, 0, 100, 30], [60, 30, 100, 49], [60, 30, 99, 52]]
    )
    target = {"boxes": boxes, "labels": torch.arange(5)}
    chance: Any = Drawn(0.5, 1, 0, 0.9)  # twice as large, from the right end and the top

    image, seen = augment_objects(
        Image.new("RGB", (100, 80)), target, chance, scale=(1, 3), hflip=0.5
    )

    assert image.size == (50, 40)
    assert seen["labels"].tolist() == [0, 3], "a centre on the left, a strip, a centre below"
    assert seen["boxes"].tolist() == [[0, 10, 20, 30], [10, 30, 50, 40]]


def test_a_photo_made_smaller_lies_somewhere_on_a_ground_as_large_as_it_was() -> None:
    chance: Any = Drawn(0, 1, 0, 0.9)  # half as large, at the right end and the top

    image, target = augment_objects(
        Image.new("RGB", (100, 80), RED),
        {"boxes": torch.tensor([BOX]).float()},
        chance,
        scale=(0.5, 1),
        hflip=0.5,
    )

    assert image.size == (100, 80)
    assert extent(is_red(image)) == [50, 0, 100, 40]
    assert image.getpixel((10, 60)) == (124, 116, 104)
    assert target["boxes"].tolist() == [[65, 10, 81, 22.5]]


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_photos_without_objects_are_augmented_too(factor: float) -> None:
    image, _ = scene()
    nothing = {"boxes": torch.zeros(0, 4), "masks": torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool)}

    image, target = augment_objects(
        image, nothing, np.random.default_rng(0), scale=(factor, factor), hflip=1
    )

    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, image.height, image.width)


def test_a_photo_of_one_pixel_survives() -> None:
    nothing = {"boxes": torch.zeros(0, 4)}
    for factor in (0.3, 3.0):
        image, _ = augment_objects(
            Image.new("RGB", (1, 1)),
            nothing,
            np.random.default_rng(0),
            scale=(factor, factor),
            hflip=0,
        )
        assert image.size == (1, 1)


def labelled(width: int = WIDTH, height: int = HEIGHT) -> tuple[Image.Image, np.ndarray]:
    """A red triangle on black, which is class 1."""
    rows, columns = np.mgrid[:height, :width]
    mask = (rows * width < columns * height).astype(np.uint8)
    pixels = mask[..., None] * np.array(RED, dtype=np.uint8)
    return Image.fromarray(pixels), mask


@pytest.mark.parametrize("scale", [(0.4, 0.8), (1.0, 1.0), (1.3, 2.5)], ids=str)
def test_labels_stay_on_their_pixels(scale: tuple[float, float]) -> None:
    for seed in range(20):
        square, mask = crop_pixels(
            *labelled(), np.random.default_rng(seed), size=64, scale=scale, hflip=0.5
        )

        assert square.size == (64, 64) and mask.shape == (64, 64)
        assert mask.dtype == np.uint8
        inside = mask != 255
        assert (is_red(square)[inside] != (mask[inside] == 1)).mean() < 0.03
        assert (np.asarray(square)[~inside] == (124, 116, 104)).all()
        assert inside.all() == (min(square.size) <= HEIGHT * scale[0])


def test_a_square_as_large_as_the_photo_is_the_photo() -> None:
    image, mask = labelled(64, 64)

    square, same = crop_pixels(
        image, mask, np.random.default_rng(0), size=64, scale=(1, 1), hflip=0
    )

    assert square.tobytes() == image.tobytes()
    assert (same == mask).all()


@pytest.mark.parametrize(("left", "first"), [(0, 0), (1, 90 - 40)])
def test_squares_come_from_all_of_the_photo(left: float, first: int) -> None:
    mask = np.tile(np.arange(90, dtype=np.uint8), (64, 1))
    chance: Any = Drawn(0, left, 0, 0.9)

    _, seen = crop_pixels(
        Image.new("RGB", (90, 64)), mask, chance, size=40, scale=(1, 1), hflip=0.5
    )

    assert seen[0].tolist() == [*range(first, first + 40)]


def test_pixels_become_floats_from_0_to_1() -> None:
    image = Image.new("RGB", (3, 2), (0, 51, 255))

    floats = to_floats(to_pixels(image))

    assert floats.shape == (3, 2, 3)
    assert floats.dtype == torch.float32
    assert floats[:, 1, 2].tolist() == pytest.approx([0, 0.2, 1])
