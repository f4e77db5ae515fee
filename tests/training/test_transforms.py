import multiprocessing
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import functional

from wszoo.datasets import read_labelled_images
from wszoo.training.sampler import Purpose, sample_generator
from wszoo.training.transforms import EvalTransform, TrainTransform
from wszoo.weights import ASSETS

RAND = "rand-m9-mstd0.5-inc1"
WHOLE: dict[str, Any] = {"scale": (1, 1), "ratio": (1, 1), "hflip": 0}  # leaves a square as it is


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    images = read_labelled_images(ASSETS / "clothing", "val")
    return [images.image(index * 11) for index in range(16)]


def generator(index: int = 0) -> np.random.Generator:
    return sample_generator(0, 0, index, Purpose.AUGMENT)


def coordinates(width: int, height: int) -> Image.Image:
    """A photo whose red tells the column and green the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("jitter", [0, 0.4])
@pytest.mark.parametrize("auto_augment", [None, RAND, "augmix-m5-w4-d2", "v0", "original", "3a"])
def test_a_photo_and_a_stream_decide_on_the_pixels(
    auto_augment: str | None, jitter: float, photos: list[Image.Image]
) -> None:
    transform = TrainTransform(48, auto_augment=auto_augment, color_jitter=jitter)
    another = TrainTransform(48, auto_augment=auto_augment, color_jitter=jitter)

    first = [transform(photo, generator(index)) for index, photo in enumerate(photos)]
    random.random()
    np.random.random()
    again = [another(photos[index], generator(index)) for index in range(16)[::-1]][::-1]

    for one, other in zip(first, again, strict=True):
        assert one.shape == (3, 48, 48)
        assert one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)
    differ = [
        not np.array_equal(one, transform(photo, generator(99)))
        for one, photo in zip(first, photos, strict=True)
    ]
    assert all(differ)


def test_the_caller_keeps_the_random_state_it_had(photos: list[Image.Image]) -> None:
    def numbers() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.random(), torch.rand(1).item()]

    def start() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        random.gauss(0, 1)  # keeps a second number for later
        np.random.normal()

    start()
    undisturbed = numbers()
    start()
    transform = TrainTransform(32, auto_augment=RAND, color_jitter=0.4)
    for index, photo in enumerate(photos):
        transform(photo, generator(index))

    assert numbers() == undisturbed


def test_the_random_state_comes_back_after_an_error() -> None:
    transform = TrainTransform(8, auto_augment="rand-n20-p1-inc1")
    random.seed(1)
    expected = random.random()
    random.seed(1)

    with pytest.raises(TypeError):  # a moved photo in floats cannot be filled with a colour
        transform(Image.new("F", (9, 9)), generator())

    assert random.random() == expected


def _transformed(transform: TrainTransform, photo: Image.Image, index: int) -> np.ndarray:
    return transform(photo, generator(index))


@pytest.mark.slow
def test_a_spawned_process_makes_the_same_pixels(photos: list[Image.Image]) -> None:
    transform = TrainTransform(32, auto_augment=RAND, color_jitter=0.4)
    asked = [(transform, photo, index) for index, photo in enumerate(photos)]

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.starmap(_transformed, asked)

    for made, (_, photo, index) in zip(there, asked, strict=True):
        np.testing.assert_array_equal(made, transform(photo, generator(index)))


@pytest.mark.parametrize("auto_augment", [None, RAND, "augmix-m5-w4-d2", "v0"])
def test_transforms_can_be_sent_to_another_process(
    auto_augment: str | None, photos: list[Image.Image]
) -> None:
    train, evaluate = TrainTransform(32, auto_augment=auto_augment), EvalTransform(32, 0.9)

    copies = pickle.loads(pickle.dumps((train, evaluate)))

    np.testing.assert_array_equal(copies[0](photos[0], generator()), train(photos[0], generator()))
    np.testing.assert_array_equal(copies[1](photos[0]), evaluate(photos[0]))


def test_a_whole_photo_of_the_right_size_stays_as_it_is(photos: list[Image.Image]) -> None:
    photo = photos[0].resize((40, 40))

    pixels = TrainTransform(40, **WHOLE)(photo, generator())

    np.testing.assert_array_equal(pixels, np.asarray(photo).transpose(2, 0, 1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_as_many_photos_are_flipped_as_asked_for(share: float) -> None:
    photo = coordinates(20, 20)
    transform = TrainTransform(20, **WHOLE | {"hflip": share})

    flipped = [transform(photo, generator(index))[0, 0, 0] == 19 for index in range(400)]

    assert np.mean(flipped) == pytest.approx(share, abs=0.08 * (0 < share < 1))


def crops(width: int, height: int, count: int, **settings: Any) -> np.ndarray:
    """Left, top, width and height of crops, as the pixels at their corners tell."""
    transform = TrainTransform(200, hflip=0, interpolation="nearest", **settings)
    made = (transform(coordinates(width, height), generator(index)) for index in range(count))
    corners = [(p[0, 0, 0], p[1, 0, 0], p[0, -1, -1], p[1, -1, -1]) for p in made]
    left, top, right, bottom = np.array(corners, dtype=int).T
    return np.stack((left, top, right - left + 1, bottom - top + 1))


def test_crops_are_distributed_as_those_of_timm() -> None:
    random.seed(0)
    photo, scale, ratio = coordinates(150, 120), (0.1, 0.9), (0.7, 1.8)
    params = [
        RandomResizedCropAndInterpolation.get_params(photo, scale, ratio) for _ in range(3000)
    ]
    top, left, high, wide = np.array(params).T

    ours = crops(150, 120, 800, scale=scale, ratio=ratio)

    steps = np.linspace(0.02, 0.98, 13)
    for mine, theirs in zip(ours, (left, top, wide, high), strict=True):
        np.testing.assert_allclose(np.quantile(mine, steps), np.quantile(theirs, steps), atol=8)
    for start, length, side in ((ours[0], ours[2], 150), (ours[1], ours[3], 120)):
        smaller = length < side
        assert start[smaller].min() == 0, "some begin at the edge"
        assert (start + length)[smaller].max() == side, "some end at the edge"


@pytest.mark.parametrize(("width", "height"), [(200, 10), (10, 200), (3, 250), (1, 1)])
def test_a_photo_that_no_crop_fits_into_is_cropped_at_the_centre_as_by_timm(
    width: int, height: int
) -> None:
    ratio = (3 / 4, 4 / 3)
    top, left, high, wide = RandomResizedCropAndInterpolation.get_params(
        coordinates(width, height), (1, 1), ratio
    )

    ours = crops(width, height, 3, scale=(1, 1), ratio=ratio)

    for mine in ours.T:
        assert mine.tolist() == [left, top, wide, high]


def test_the_narrowest_photo_gives_at_least_one_pixel() -> None:
    pixels = TrainTransform(4, scale=(1, 1), ratio=(0.1, 0.2))(coordinates(200, 1), generator())

    assert np.unique(pixels.reshape(3, -1), axis=1).T.tolist() == [[99, 0, 0]]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_crop_is_resized_as_by_timm(interpolation: str, photos: list[Image.Image]) -> None:
    transform = TrainTransform(37, scale=(0.2, 0.6), hflip=0, interpolation=interpolation)
    mode = functional.InterpolationMode(interpolation)
    for index, photo in enumerate(photos):
        left, top, wide, high = crops(*photo.size, 16, scale=(0.2, 0.6))[:, index]

        pixels = transform(photo, generator(index))

        expected = functional.resized_crop(photo, top, left, high, wide, [37, 37], mode)
        np.testing.assert_array_equal(pixels, np.asarray(expected).transpose(2, 0, 1))


def test_random_interpolation_is_bilinear_or_bicubic(photos: list[Image.Image]) -> None:
    def made(interpolation: str, index: int) -> bytes:
        transform = TrainTransform(30, interpolation=interpolation)
        return transform(photos[0], generator(index)).tobytes()

    taken = [
        [made("random", index) == made(name, index) for name in ("bilinear", "bicubic")]
        for index in range(100)
    ]

    assert all(bilinear != bicubic for bilinear, bicubic in taken)
    assert 30 < sum(bilinear for bilinear, _ in taken) < 70


@pytest.mark.parametrize("name", [RAND, "rand-m5-n3", "v0", "originalr", "3a", "augmix-m3"])
@pytest.mark.parametrize("interpolation", ["bilinear", "random"])
def test_automatic_augmentation_is_that_of_timm(
    name: str, interpolation: str, photos: list[Image.Image]
) -> None:
    theirs: Any = create_transform(
        40,
        is_training=True,
        auto_augment=name,
        color_jitter=0,
        interpolation=interpolation,
        separate=True,
    )[1].transforms[0]
    ours = TrainTransform(40, auto_augment=name, interpolation=interpolation, **WHOLE)
    for index, photo in enumerate(photos):
        square = photo.resize((40, 40))
        stream = generator(index)
        stream.random(4 + 2)  # crop, flip and interpolation
        seed = int(stream.integers(2**32))
        random.seed(seed)
        np.random.seed(seed)
        expected = theirs(square)

        pixels = ours(square, generator(index))

        np.testing.assert_array_equal(pixels, np.asarray(expected).transpose(2, 0, 1))


def test_posterizing_to_no_bits_gives_black(photos: list[Image.Image]) -> None:
    """Which timm asks for at full strength, and Pillow 13 refuses."""
    transform = TrainTransform(8, auto_augment="rand-m10-n1-p1-inc1")

    made = [transform(photos[0], generator(index)) for index in range(100)]

    assert 1 <= sum(not pixels.any() for pixels in made) <= 20


def test_colours_are_changed_by_factors_around_one_in_any_order() -> None:
    photo = Image.new("RGB", (6, 6), (140, 150, 160))
    photo.paste((130, 155, 165), (0, 0, 3, 6))
    transform = TrainTransform(6, color_jitter=0.4, **WHOLE)

    made = [transform(photo, generator(index)) for index in range(800)]

    red, green, blue = np.stack(made).mean((2, 3)).T
    brightness = (0.299 * red + 0.587 * green + 0.114 * blue) / 149.8
    assert brightness.min() == pytest.approx(0.6, abs=0.03)
    assert brightness.max() == pytest.approx(1.4, abs=0.03)
    assert brightness.mean() == pytest.approx(0.98, abs=0.03)  # Pillow cuts decimals off
    assert brightness.std() == pytest.approx(0.4 / 3**0.5, abs=0.02)
    colour = (blue - red) / 27.5 / brightness
    assert colour.min() == pytest.approx(0.36, abs=0.1), "times contrast and saturation"
    assert colour.max() == pytest.approx(1.96, abs=0.2)


def test_without_jitter_colours_stay() -> None:
    photo = Image.new("RGB", (6, 6), (60, 90, 120))

    for jitter in (None, 0.0):
        pixels = TrainTransform(5, color_jitter=jitter)(photo, generator())
        assert np.unique(pixels.reshape(3, -1), axis=1).T.tolist() == [[60, 90, 120]]


@pytest.mark.parametrize("size", [32, 96, 224])
@pytest.mark.parametrize("crop_pct", [0.5, 0.875, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_is_that_of_timm(
    size: int, crop_pct: float, interpolation: str, photos: list[Image.Image]
) -> None:
    theirs: Any = create_transform(
        size, crop_pct=crop_pct, interpolation=interpolation, use_prefetcher=True
    )
    shapes = [photos[0], photos[1].resize((200, 71)), photos[2].resize((33, 300))]
    for photo in [*shapes, photos[3].resize((size, size)), Image.new("RGB", (1, 1))]:
        pixels = EvalTransform(size, crop_pct, interpolation)(photo)

        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, theirs(photo).numpy())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 0}, "size must be at least 1 pixel, got 0"),
        ({"scale": (0.5, 0.2)}, r"scale must be two rising shares of the area, got \(0.5, 0.2\)"),
        ({"scale": (0.5, 1.2)}, r"scale must be two rising shares of the area, got \(0.5, 1.2\)"),
        ({"ratio": (0, 1)}, r"ratio must be two rising aspect ratios, got \(0, 1\)"),
        ({"hflip": 2}, "hflip must be a probability, got 2"),
        ({"color_jitter": -1}, "color_jitter must be within 0..1, got -1"),
        ({"interpolation": "cubic"}, "there is no interpolation 'cubic'; known: nearest, bilinear"),
        ({"auto_augment": "v9"}, "timm knows no augmentation 'v9'; write for example rand-m9"),
        ({"auto_augment": "random"}, "timm knows no augmentation 'random'; write for example"),
        ({"auto_augment": "rand-m9.5"}, "timm knows no augmentation 'rand-m9.5'; write"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainTransform(**{"size": 8} | settings)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, 1.0), "size must be at least 1 pixel, got 0"),
        ((8, 1.1), "crop_pct must be above 0 and at most 1, got 1.1"),
        ((8, 1.0, "random"), "evaluation is never random; name one interpolation"),
        ((8, 1.0, "cubic"), "there is no interpolation 'cubic'"),
    ],
)
def test_an_impossible_evaluation_is_refused(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EvalTransform(*arguments)
