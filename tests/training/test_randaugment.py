from typing import Any

import numpy as np
import pytest
import timm.data.auto_augment
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp, rand_augment_choices, rand_augment_transform
from torch import Tensor

from wszoo.datasets import read_labelled_images
from wszoo.training.randaugment import (
    DRAWS_PER_OP,
    FILL,
    OPERATIONS,
    parse_randaugment,
    random_augment,
)
from wszoo.weights import ASSETS

COUNT, WIDTH, HEIGHT = 16, 60, 44
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
SIGNED = (
    *MOVES,
    *(name for name in OPERATIONS if name[:5] in ("Color", "Contr", "Brigh", "Sharp")),
)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    images = read_labelled_images(ASSETS / "clothing", "val")
    return [images.image(index * 11).resize((WIDTH, HEIGHT)) for index in range(COUNT)]


def pixels(photos: list[Image.Image]) -> Tensor:
    return (
        torch.stack([torch.from_numpy(np.array(photo)) for photo in photos]).movedim(3, 1).float()
    )


def draws(name: str, count: int = COUNT, *, sign: float = 0.0) -> Tensor:
    """Draws of one operation, applied at exactly the magnitude asked for."""
    kind = (list(OPERATIONS).index(name) + 0.5) / len(OPERATIONS)
    return torch.tensor([kind, 0.0, 0.5, sign]).repeat(count, 1)


def by_timm(
    photos: list[Image.Image],
    name: str,
    magnitude: float,
    negative: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> Tensor:
    """What timm's operation makes of the photos, with a sign that is not drawn."""
    settings: dict[str, Any] = {"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR}
    operation = AugmentOp(name, prob=1, magnitude=magnitude, hparams=settings)
    sign = -1 if negative else 1
    monkeypatch.setattr(timm.data.auto_augment, "_randomly_negate", lambda value: sign * value)
    return pixels([operation(photo) for photo in photos])


def test_the_operations_are_those_of_timm_in_its_order() -> None:
    assert list(OPERATIONS) == rand_augment_choices("", increasing=True)


@pytest.mark.parametrize("negative", [False, True], ids=["", "negative"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_computes_what_timm_does_on_photos(
    name: str, negative: bool, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    for magnitude in (0, 2.5, 5, 7.3, 9, 9.9):
        expected = by_timm(photos, name, magnitude, negative, monkeypatch)

        changed = random_augment(
            pixels(photos),
            draws(name, sign=0.9 if negative else 0.0),
            num_ops=1,
            magnitude=magnitude,
            magnitude_std=0,
            prob=1,
        )

        difference = (changed - expected).abs()
        if name in MOVES:  # rounding errors may fall on the other side of a whole grey level
            assert difference.max() <= 1, magnitude
            assert difference.mean() < 0.02, magnitude
        else:
            assert difference.max() == 0, magnitude


def test_colours_of_flat_photos_come_out_as_those_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nothing to stretch, equalize or blur, and levels are at the ends."""
    flat = [
        Image.new("RGB", (9, 7), colour) for colour in ((0, 0, 0), (255, 255, 255), (1, 90, 254))
    ]
    half = Image.new("RGB", (9, 7), (5, 100, 255))
    half.paste((250, 101, 255), (0, 0, 5, 7))
    for name in [name for name in OPERATIONS if name not in MOVES]:
        changed = random_augment(pixels([*flat, half]), draws(name, 4), num_ops=1, prob=1)
        expected = by_timm([*flat, half], name, 9, False, monkeypatch)
        assert torch.equal(changed, expected), name


def test_posterize_at_full_strength_leaves_no_bit(photos: list[Image.Image]) -> None:
    changed = random_augment(
        pixels(photos),
        draws("PosterizeIncreasing"),
        num_ops=1,
        magnitude=10,
        magnitude_std=0,
        prob=1,
    )

    assert (changed == 0).all()


def test_operations_are_drawn_evenly_and_as_often_as_asked_for() -> None:
    numbers = torch.rand(3000, DRAWS_PER_OP)
    images = torch.randint(200, (1, 3, 20, 20)).float().repeat(3000, 1, 1, 1)

    changed = random_augment(images, numbers, num_ops=1, magnitude=8, magnitude_std=0, prob=0.4)

    applied = (changed != images).any(dim=(1, 2, 3))
    chosen = (numbers[:, 0] * 15).long()
    for number, name in enumerate(OPERATIONS):
        assert applied[chosen == number].double().mean() == pytest.approx(0.4, abs=0.12), name
    distinct = torch.unique(changed[applied], dim=0)
    assert 15 < len(distinct) < 30  # two signs each of at most nine operations


@pytest.mark.parametrize("deviation", [0.0, 0.5, 2.0])
def test_magnitudes_are_spread_as_asked_for(deviation: float) -> None:
    """Brightness of a photo of grey 100 tells the magnitude: 10 + 9 * magnitude more."""
    uniforms = draws("BrightnessIncreasing", 4000)
    uniforms[:, 2] = torch.rand(4000)

    changed = random_augment(
        torch.full((4000, 3, 3, 3), 100.0),
        uniforms,
        num_ops=1,
        magnitude=6,
        magnitude_std=deviation,
        prob=1,
    )

    magnitudes = (changed[:, 0, 0, 0] + 0.5 - 100) / 9
    assert magnitudes.mean() == pytest.approx(6, abs=0.1)
    assert magnitudes.std() == pytest.approx(deviation, abs=0.1)
    assert magnitudes.max() < 10.1


@pytest.mark.parametrize("name", OPERATIONS)
def test_extreme_draws_stay_within_the_range_of_magnitudes(
    name: str, photos: list[Image.Image]
) -> None:
    """The magnitude itself where it does not deviate, the least and the greatest where it does."""

    def changed(deviation: float, draw: float, magnitude: float) -> Tensor:
        uniforms = draws(name)
        uniforms[:, 2] = draw
        settings = {"magnitude": magnitude, "magnitude_std": deviation}
        return random_augment(pixels(photos), uniforms, num_ops=1, prob=1, **settings)

    assert torch.equal(changed(0, 0.0, 9), changed(0, 0.5, 9))
    assert torch.equal(changed(9, 0.0, 9), changed(0, 0.5, 0))
    assert torch.equal(changed(9, 1 - 2**-24, 9), changed(0, 0.5, 10))


def test_an_image_that_nothing_is_done_to_is_rounded_only() -> None:
    images = 255 * torch.rand(4, 3, 8, 8)
    before = images.clone()

    changed = random_augment(images, torch.rand(4, 8), prob=0)

    assert torch.equal(changed, before.round())
    assert torch.equal(images, before), "the images that were given stay as they are"


def test_operations_follow_each_other(photos: list[Image.Image]) -> None:
    both = torch.cat((draws("Invert"), draws("Rotate")), dim=1)

    together = random_augment(pixels(photos), both, num_ops=2, prob=1)

    first = random_augment(pixels(photos), draws("Invert"), num_ops=1, prob=1)
    second = random_augment(first, draws("Rotate"), num_ops=1, prob=1)
    assert torch.equal(together, second)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_done_to_an_image_depends_on_its_own_draws_alone(
    layout: torch.memory_format, photos: list[Image.Image]
) -> None:
    images = pixels(photos * 8).contiguous(memory_format=layout)
    uniforms = torch.rand(len(images), 2 * DRAWS_PER_OP)
    order = torch.randperm(len(images))[:7]

    together = random_augment(images, uniforms, prob=0.9)

    assert torch.equal(random_augment(images[order], uniforms[order], prob=0.9), together[order])
    for index in range(10):
        alone = random_augment(images[index : index + 1], uniforms[index : index + 1], prob=0.9)
        assert torch.equal(alone[0], together[index])


def test_uniforms_of_another_shape_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"5 images and 2 operations need .* \(5, 8\), got \(5, 4\)"
    ):
        random_augment(torch.rand(5, 3, 8, 8), torch.rand(5, 4), num_ops=2)


@pytest.mark.parametrize(
    "text", ["rand-m9-mstd0.5-inc1", "rand-inc1", "rand-n3-p0.9-m6-inc1", "rand-mstd1-inc1-m7"]
)
def test_a_string_is_read_as_timm_reads_it(text: str) -> None:
    theirs = rand_augment_transform(text)

    ours = parse_randaugment(text)

    assert ours["num_ops"] == theirs.num_layers
    for operation, name in zip(theirs.ops, OPERATIONS, strict=True):
        assert operation.name == name
        assert ours["magnitude"] == operation.magnitude
        assert ours["magnitude_std"] == operation.magnitude_std
        assert ours["prob"] == operation.prob


@pytest.mark.parametrize(
    "text",
    [
        *("rand-m9", "rand-m9-inc0", "rand-m9-inc1-t3a", "rand-m9-inc1-mmax11"),
        *("rand-mstd101-inc1", "rand-mx-inc1", "augmix-m5-inc1", "v0", ""),
    ],
)
def test_a_string_that_asks_for_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"cannot augment a batch by {text!r}; write rand-m"):
        parse_randaugment(text)
