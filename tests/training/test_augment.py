import random
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from wszoo.training.augment import (
    CROP_DRAWS,
    ERASING_DRAWS,
    random_erasing,
    random_resized_crops,
    resize,
)


def photos(count: int = 4, height: int = 20, width: int = 20) -> Tensor:
    return 255 * torch.rand(count, 3, height, width, dtype=torch.float64)


def draws(count: int, **fixed: float) -> Tensor:
    """Random draws with some of them fixed, by what they decide."""
    uniforms = torch.rand(count, CROP_DRAWS, dtype=torch.float64)
    for index, name in enumerate(("area", "aspect", "x", "y", "flip")):
        if name in fixed:
            uniforms[:, index] = fixed[name]
    return uniforms


@pytest.mark.parametrize("size", [1, 8, 20, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_crops_have_the_size_asked_for(size: int, dtype: torch.dtype) -> None:
    crops = random_resized_crops(
        photos(5, 24, 18).to(dtype), draws(5).float(), size, scale=(0.3, 1.0)
    )

    assert crops.shape == (5, 3, size, size)
    assert crops.dtype == dtype


@pytest.mark.parametrize("size", [20, 13, 40])
def test_the_whole_area_without_stretch_is_the_resized_photo(size: int) -> None:
    images = photos()

    crops = random_resized_crops(images, draws(4, aspect=0.5, flip=0.9), size, scale=(1, 1))

    resized = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(crops, resized, rtol=0, atol=1e-4)


def test_a_flip_mirrors_the_very_same_crop() -> None:
    images = photos()
    uniforms = draws(4, flip=0.9)
    flipped = uniforms.clone()
    flipped[:, 4] = 0.1

    plain = random_resized_crops(images, uniforms, 16, scale=(0.3, 0.8))
    mirrored = random_resized_crops(images, flipped, 16, scale=(0.3, 0.8))

    torch.testing.assert_close(mirrored, plain.flip(3), rtol=0, atol=1e-6)
    assert (mirrored - plain).abs().mean() > 1


def test_half_of_the_crops_are_flipped() -> None:
    ramp = torch.linspace(0, 1, 16, dtype=torch.float64).expand(1000, 1, 16, 16)

    crops = random_resized_crops(ramp, draws(1000), 8, scale=(0.5, 1.0))

    falls = (crops[:, 0, 0, 0] > crops[:, 0, 0, -1]).double().mean()
    assert falls == pytest.approx(0.5, abs=0.06)


def test_values_of_crops_stay_in_the_range_of_their_photo() -> None:
    images = photos(200, 17, 23)

    crops = random_resized_crops(images, draws(200), 19, scale=(0.05, 1.0))

    low, high = images.amin(dim=(2, 3)), images.amax(dim=(2, 3))
    assert (crops.amin(dim=(2, 3)) >= low - 1e-9).all()
    assert (crops.amax(dim=(2, 3)) <= high + 1e-9).all()


def test_crops_lie_inside_the_photo_and_cover_the_share_asked_for() -> None:
    """Photos that hold their own coordinates tell where each crop was taken."""
    rows, columns = torch.meshgrid(
        *[torch.arange(200, dtype=torch.float64) + 0.5] * 2, indexing="ij"
    )
    where = torch.stack([rows, columns]).expand(500, 2, 200, 200)

    crops = random_resized_crops(where, draws(500, flip=0.9), 50, scale=(0.2, 0.5))

    height = (crops[:, 0, -1, 0] - crops[:, 0, 0, 0]) * 50 / 49 / 200
    width = (crops[:, 1, 0, -1] - crops[:, 1, 0, 0]) * 50 / 49 / 200
    share = height * width
    assert 0.19 < share.min() < 0.22
    assert 0.48 < share.max() < 0.51
    aspect = width / height
    assert 0.74 < aspect.min() < 0.80
    assert 1.25 < aspect.max() < 1.35
    assert crops.min() > 0
    assert crops.max() < 200
    assert crops[:, :, 0, 0].min() < 5, "some crops begin at the edge"
    assert crops[:, :, -1, -1].max() > 195, "some crops end at the edge"


def test_the_crop_of_an_image_depends_on_its_own_draws_alone() -> None:
    images, uniforms = photos(6), draws(6)
    order = torch.tensor([4, 0, 5])

    together = random_resized_crops(images, uniforms, 12, scale=(0.3, 1.0))
    others = random_resized_crops(images[order], uniforms[order], 12, scale=(0.3, 1.0))
    alone = random_resized_crops(images[3:4], uniforms[3:4], 12, scale=(0.3, 1.0))

    torch.testing.assert_close(others, together[order], rtol=0, atol=1e-9)
    torch.testing.assert_close(alone, together[3:4], rtol=0, atol=1e-9)


def test_resize_leaves_a_photo_of_the_right_size_as_it_is() -> None:
    images = photos()

    assert resize(images, 20) is images


@pytest.mark.parametrize("size", [7, 31])
def test_resize_keeps_pixels_within_their_range_and_flat_photos_flat(size: int) -> None:
    sharp = (photos() > 128) * 255.0
    flat = torch.full((1, 3, 20, 20), 93.0)

    resized = resize(sharp, size)

    assert resized.shape == (4, 3, size, size)
    assert resized.min() >= 0
    assert resized.max() <= 255
    torch.testing.assert_close(resize(flat, size), torch.full((1, 3, size, size), 93.0))


def erasing_draws(count: int, **fixed: float) -> Tensor:
    """Random draws with some of them fixed, by what they decide."""
    uniforms = torch.rand(count, ERASING_DRAWS, dtype=torch.float64)
    for index, name in enumerate(("erased", "area", "aspect", "y", "x")):
        if name in fixed:
            uniforms[:, index] = fixed[name]
    return uniforms


def boxes_of(erased: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of what was erased from images of ones."""
    inside = erased[:, 0] != 1
    rows, columns = inside.any(2), inside.any(1)
    height, width = rows.sum(1), columns.sum(1)
    assert torch.equal(inside.sum((1, 2)), height * width), "what is erased is one box"
    assert (erased.eq(1).all(1) == ~inside).all(), "of all channels"
    return rows.double().argmax(1), columns.double().argmax(1), height, width


def test_as_many_images_are_erased_as_asked_for() -> None:
    images = torch.ones(4000, 1, 8, 8)

    erased = random_erasing(images, erasing_draws(4000, area=0.9), prob=0.3, mode="const")

    assert (erased != 1).any(dim=(1, 2, 3)).double().mean() == pytest.approx(0.3, abs=0.03)
    assert (images == 1).all(), "the images that were given stay as they are"
    assert torch.equal(random_erasing(images, erasing_draws(4000), prob=0), images)


def test_boxes_have_the_area_and_aspect_asked_for_and_lie_anywhere() -> None:
    images = torch.ones(1000, 2, 100, 80)

    erased = random_erasing(
        images, erasing_draws(1000), prob=1, mode="const", area=(0.1, 0.2), aspect=(0.5, 2)
    )

    top, left, height, width = boxes_of(erased)
    share, aspect = height * width / 8000, height / width
    assert 0.095 < share.min() < 0.105
    assert 0.195 < share.max() < 0.205
    assert share.mean() == pytest.approx(0.15, abs=0.004)
    assert 0.48 < aspect.min() < 0.55
    assert 1.85 < aspect.max() < 2.08
    assert aspect.log().mean() == pytest.approx(0, abs=0.05)
    assert top.min() == left.min() == 0
    assert (top + height).max() == 100
    assert (left + width).max() == 80
    spread = top / (100 - height)
    assert spread.mean() == pytest.approx(0.5, abs=0.04)


def test_erased_boxes_are_spread_as_those_of_timm() -> None:
    images = torch.ones(3000, 1, 60, 60)
    random.seed(0)
    theirs = RandomErasing(probability=1, mode="const", device="cpu")(images.clone())

    ours = random_erasing(images, erasing_draws(3000), prob=1, mode="const")

    for mine, other in zip(boxes_of(ours), boxes_of(theirs), strict=True):
        quantiles = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
        torch.testing.assert_close(
            mine.double().quantile(quantiles), other.double().quantile(quantiles), rtol=0, atol=2.5
        )


def test_a_box_larger_than_the_image_is_cut_to_it() -> None:
    images = torch.ones(1, 1, 10, 10)

    erased = random_erasing(
        images, erasing_draws(1, area=1, aspect=1, y=0.5), prob=1, mode="const", area=(0, 0.9)
    )

    _, _, height, width = boxes_of(erased)
    assert (height.item(), width.item()) == (10, 5)


def test_noise_is_normal_and_other_for_every_image_channel_and_pixel() -> None:
    images = torch.full((300, 3, 20, 20), torch.nan, dtype=torch.float64)

    everything = erasing_draws(300, erased=0, area=1, aspect=0.5)
    noise = random_erasing(images, everything, prob=1, area=(0, 1)).flatten(1)

    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert (noise**4).mean() == pytest.approx(3, abs=0.05)
    likeness = torch.corrcoef(noise) - torch.eye(300)
    assert likeness.abs().max() < 6 / 1200**0.5
    for step in (1, 20, 400):  # to the next column, row and channel
        assert abs((noise[:, step:] * noise[:, :-step]).mean()) < 0.01


@pytest.mark.parametrize("mode", ["pixel", "const"])
def test_erasing_before_and_after_normalising_is_the_same(mode: Literal["pixel", "const"]) -> None:
    images, uniforms = photos(8), erasing_draws(8)
    mean = torch.tensor([120.0, 110, 100]).view(3, 1, 1)
    std = torch.tensor([60.0, 55, 50]).view(3, 1, 1)

    before = random_erasing(images, uniforms, prob=1, mode=mode, mean=mean, std=std)
    after = random_erasing((images - mean) / std, uniforms, prob=1, mode=mode)

    torch.testing.assert_close((before - mean) / std, after)
    assert before.dtype == torch.float64


@pytest.mark.parametrize("mode", ["pixel", "const"])
def test_what_is_erased_of_an_image_depends_on_its_own_draws_alone(
    mode: Literal["pixel", "const"],
) -> None:
    images, uniforms = torch.randn(33, 3, 17, 19), erasing_draws(33).float()
    order = torch.randperm(33)[:5]

    together = random_erasing(images, uniforms, prob=0.7, mode=mode)

    others = random_erasing(images[order], uniforms[order], prob=0.7, mode=mode)
    alone = random_erasing(images[3:4], uniforms[3:4], prob=0.7, mode=mode)
    assert torch.equal(others, together[order])
    assert torch.equal(alone, together[3:4])
    assert not torch.equal(together, images)


def test_an_unknown_way_of_erasing_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be 'pixel' or 'const', got 'rand'"):
        random_erasing(photos(), erasing_draws(4), prob=1, mode="rand")  # type: ignore[arg-type]
