"""Photos turned and resized at random, together with their boxes or masks.

All chance comes from the generator given, so a sample follows from seed, epoch and index.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wszoo.datasets.masks import IGNORED

_FILL = (124, 116, 104)  # ImageNet's mean colour; what lies around a photo that was made smaller
_LEAST_SIDE = 1.0  # pixels: narrower boxes, after clipping, hold nothing to learn from


def to_pixels(image: Image.Image) -> Tensor:
    """``(3, H, W)`` uint8 of an RGB photo."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # a copy: Pillow's is read-only


def to_floats(pixels: Tensor) -> Tensor:
    """Float32 in 0..1 of uint8."""
    return pixels.float().div_(255)


def augment_objects(
    image: Image.Image,
    target: dict[str, Tensor],
    generator: np.random.Generator,
    *,
    scale: tuple[float, float],
    hflip: float,
) -> tuple[Image.Image, dict[str, Tensor]]:
    """Resize and flip a photo at random with what is in it.

    Detectors resize every photo to their own size, so only what fills more or less of the photo
    looks larger or smaller to them. A factor above 1 therefore takes a part of the photo, one below
    1 puts the whole of it, made smaller, on a plain ground as large as the photo was.
    Objects whose centre lies outside that part are left out, the others are clipped to it.

    Args:
        image: RGB.
        target: ``boxes`` (n, 4) in pixels, and of each object what else is known, such as
            ``labels``; ``masks`` (n, H, W), if any, move along.
        generator: Where chance comes from.
        scale: Least and largest factor.
        hflip: Probability that left and right are swapped.
    """
    factor, left, top, flip = generator.random(4).tolist()
    factor = scale[0] + (scale[1] - scale[0]) * factor
    if factor > 1:
        image, target = _enlarged(image, target, factor, left, top)
    elif factor < 1:
        image, target = _reduced(image, target, factor, left, top)
    if flip < hflip:
        image, target = _flipped(image, target)
    return image, target


def _enlarged(
    image: Image.Image, target: dict[str, Tensor], factor: float, left: float, top: float
) -> tuple[Image.Image, dict[str, Tensor]]:
    width, height = _size(image, 1 / factor)
    x, y = round(left * (image.width - width)), round(top * (image.height - height))
    moved = target["boxes"] - torch.tensor((x, y, x, y))
    extent = torch.tensor((width, height))
    centre = (moved[:, :2] + moved[:, 2:]) / 2
    clipped = torch.minimum(moved.clamp_min(0), extent.repeat(2))
    is_wide = clipped[:, 2:] - clipped[:, :2] >= _LEAST_SIDE
    inside = ((centre >= 0) & (centre < extent) & is_wide).all(1)
    kept = {key: value[inside] for key, value in (target | {"boxes": clipped}).items()}
    if "masks" in kept:
        kept["masks"] = kept["masks"][:, y : y + height, x : x + width]
    return image.crop((x, y, x + width, y + height)), kept


def _reduced(
    image: Image.Image, target: dict[str, Tensor], factor: float, left: float, top: float
) -> tuple[Image.Image, dict[str, Tensor]]:
    width, height = _size(image, factor)
    x, y = round(left * (image.width - width)), round(top * (image.height - height))
    ground = Image.new("RGB", image.size, _FILL)
    ground.paste(image.resize((width, height), Image.Resampling.BILINEAR), (x, y))
    across, down = width / image.width, height / image.height
    boxes = target["boxes"] * torch.tensor((across, down, across, down))
    moved = target | {"boxes": boxes + torch.tensor((x, y, x, y))}
    if "masks" in target:
        rows, columns = _nearest(image.height, height), _nearest(image.width, width)
        moved["masks"] = torch.zeros_like(target["masks"])
        moved["masks"][:, y : y + height, x : x + width] = target["masks"][:, rows][:, :, columns]
    return ground, moved


def _size(image: Image.Image, factor: float) -> tuple[int, int]:
    """Width and height in whole pixels, at least one."""
    return max(1, round(image.width * factor)), max(1, round(image.height * factor))


def _nearest(before: int, after: int) -> Tensor:
    """Which of ``before`` pixels in a row lies under the centre of each of ``after``."""
    return ((torch.arange(after) + 0.5) * (before / after)).long()


def _flipped(
    image: Image.Image, target: dict[str, Tensor]
) -> tuple[Image.Image, dict[str, Tensor]]:
    left, top, right, bottom = target["boxes"].unbind(1)
    boxes = torch.stack((image.width - right, top, image.width - left, bottom), dim=1)
    moved = target | {"boxes": boxes}
    if "masks" in target:
        moved["masks"] = target["masks"].flip(-1)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), moved


def crop_pixels(
    image: Image.Image,
    mask: np.ndarray,
    generator: np.random.Generator,
    *,
    size: int,
    scale: tuple[float, float],
    hflip: float,
) -> tuple[Image.Image, np.ndarray]:
    """Resize a photo with its mask at random, and take a square of it.

    Args:
        image: RGB.
        mask: ``(H, W)`` uint8 of the same size.
        generator: Where chance comes from.
        size: Side of the square in pixels. Where the resized photo is smaller, there is a plain
            ground around it, which no loss looks at.
        scale: Least and largest factor of the photo's own size.
        hflip: Probability that left and right are swapped.

    Returns:
        Square and mask ``(size, size)``, 255 where there is no photo.
    """
    factor, left, top, flip = generator.random(4).tolist()
    width, height = _size(image, scale[0] + (scale[1] - scale[0]) * factor)
    x, y = round(left * (size - width)), round(top * (size - height))  # negative: a part is seen
    square = Image.new("RGB", (size, size), _FILL)
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), (x, y))
    labels = Image.new("L", (size, size), IGNORED)
    labels.paste(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST), (x, y))
    if flip < hflip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        labels = labels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return square, np.array(labels)
