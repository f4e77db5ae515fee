"""From a decoded photo to pixels of one size, for training and for evaluation.

One photo at a time, as worker processes do it. What a transform does follows from the generator it
is given, and from nothing else.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance
from timm.data.auto_augment import (
    AugmentOp,
    augment_and_mix_transform,
    auto_augment_transform,
    posterize,
    rand_augment_transform,
)

from wszoo.training.randaugment import FILL

_ATTEMPTS = 10  # at a crop that lies inside the photo, as in torchvision and timm
_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
_RANDOM = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


class TrainTransform:
    """Crops, resizes, flips and distorts one photo at random, as timm's training transform does.

    Args:
        size: Height and width of the result, in pixels.
        scale: Least and largest share of the photo's area that the crop covers.
        ratio: Least and largest width of the crop over its height.
        hflip: Probability that left and right are swapped.
        color_jitter: Brightness, contrast and saturation are each multiplied by up to this much
            more or less than 1, in random order; None or 0 leaves them.
        auto_augment: timm's string, such as ``"rand-m9-mstd0.5-inc1"``, ``"augmix-m5-w4-d2"``,
            ``"v0"`` or ``"3a"``.
        interpolation: ``"bilinear"``, ``"bicubic"`` and others of Pillow, or ``"random"`` for one
            of these two, drawn for each photo.

    Raises:
        ValueError: A range is empty or an argument is outside its own.
    """

    def __init__(
        self,
        size: int,
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        color_jitter: float | None = None,
        auto_augment: str | None = None,
        interpolation: str = "random",
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale must be two rising shares of the area, got {scale}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio must be two rising aspect ratios, got {ratio}")
        if not 0 <= hflip <= 1:
            raise ValueError(f"hflip must be a probability, got {hflip}")
        if not 0 <= (color_jitter or 0) <= 1:
            raise ValueError(f"color_jitter must be within 0..1, got {color_jitter}")
        self._size, self._scale, self._hflip = size, scale, hflip
        self._log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
        self._jitter = color_jitter or 0.0
        self._interpolations = _interpolations(interpolation)
        self._auto_augment = None
        if auto_augment is not None:
            self._auto_augment = _make_auto_augment(auto_augment, size, self._interpolations)

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> np.ndarray:
        """Pixels ``(3, size, size)`` of an RGB photo, uint8."""
        box = self._draw_crop(image.width, image.height, generator)
        flip, kind = generator.random(2)
        resampling = self._interpolations[int(kind * len(self._interpolations))]
        image = image.crop(box).resize((self._size, self._size), resampling)
        if flip < self._hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._auto_augment is not None:
            with _global_random_state(generator):
                image = self._auto_augment(image)
        if self._jitter:
            for place in generator.permutation(len(_ENHANCERS)):
                factor = generator.uniform(1 - self._jitter, 1 + self._jitter)
                image = _ENHANCERS[place](image).enhance(factor)
        return _to_array(image)

    def _draw_crop(
        self, width: int, height: int, generator: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a crop, drawn as torchvision and timm do."""
        least, most = self._log_ratio
        for _ in range(_ATTEMPTS):
            share, stretch, x, y = generator.random(4).tolist()
            area = width * height * (self._scale[0] + (self._scale[1] - self._scale[0]) * share)
            ratio = math.exp(least + (most - least) * stretch)
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                left, top = int(x * (width - wide + 1)), int(y * (height - high + 1))
                return left, top, left + wide, top + high
        # The largest part in the middle whose aspect ratio is allowed.
        wide = min(width, max(1, round(height * math.exp(most))))
        high = min(height, max(1, round(width / math.exp(least))))
        left, top = (width - wide) // 2, (height - high) // 2
        return left, top, left + wide, top + high


class EvalTransform:
    """Resizes the short side of a photo and crops its centre, as timm's evaluation does.

    Args:
        size: Height and width of the result, in pixels.
        crop_pct: Share of the resized short side that the crop covers.
        interpolation: ``"bilinear"``, ``"bicubic"`` and others of Pillow.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(self, size: int, crop_pct: float, interpolation: str = "bicubic") -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}")
        if not 0 < crop_pct <= 1:
            raise ValueError(f"crop_pct must be above 0 and at most 1, got {crop_pct}")
        if interpolation == "random":
            raise ValueError("evaluation is never random; name one interpolation")
        self._size = size
        self._short_side = math.floor(size / crop_pct)
        (self._interpolation,) = _interpolations(interpolation)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Pixels ``(3, size, size)`` of an RGB photo, uint8."""
        short = min(image.size)
        width, height = (int(self._short_side * side / short) for side in image.size)
        image = image.resize((width, height), self._interpolation)
        left, top = round((width - self._size) / 2), round((height - self._size) / 2)
        return _to_array(image.crop((left, top, left + self._size, top + self._size)))


def _interpolations(name: str) -> tuple[Image.Resampling, ...]:
    if name == "random":
        return _RANDOM
    if name not in _INTERPOLATIONS:
        known = ", ".join((*_INTERPOLATIONS, "random"))
        raise ValueError(f"there is no interpolation {name!r}; known: {known}")
    return (_INTERPOLATIONS[name],)


def _to_array(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


@contextmanager
def _global_random_state(generator: np.random.Generator) -> Iterator[None]:
    """Let code that draws from the global states of Python and numpy follow ``generator``.

    Only one thread of a process may be in here.
    """
    python, legacy = random.getstate(), np.random.get_state()
    seed = int(generator.integers(2**32))
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


def _make_auto_augment(config: str, size: int, interpolations: tuple[Image.Resampling, ...]) -> Any:
    """Operations as timm's ``create_transform`` makes them."""
    settings: dict[str, Any] = {
        "translate_const": int(size * 0.45),
        "img_mean": FILL,
        "interpolation": interpolations if len(interpolations) > 1 else interpolations[0],
    }
    make = auto_augment_transform
    if config.startswith("rand"):
        make = rand_augment_transform
    elif config.startswith("augmix"):
        make = augment_and_mix_transform
        settings["translate_pct"] = 0.3
    try:
        transform = make(config, settings)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"timm knows no augmentation {config!r}; "
            f"write for example rand-m9-mstd0.5-inc1, augmix-m5-w4-d2, v0 or 3a"
        ) from error
    for operation in _operations(transform):
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterize
    return transform


def _operations(transform: Any) -> list[AugmentOp]:
    if hasattr(transform, "policy"):
        return [operation for policy in transform.policy for operation in policy]
    return list(transform.ops)


def _posterize(image: Image.Image, bits: int, **kwargs: Any) -> Image.Image:
    """Posterize as timm does, also to the 0 bits that it may ask for and Pillow 13 refuses."""
    if bits == 0:
        return Image.new(image.mode, image.size)
    return posterize(image, bits, **kwargs)
