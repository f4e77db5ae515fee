"""RandAugment for a whole batch at once, each image with its own operations and strengths.

Source: Cubuk et al., "RandAugment", https://arxiv.org/abs/1909.13719. The operations and their
ranges are those of timm's ``rand-m9-mstd0.5-inc1``, whose strength rises with the magnitude; grey
levels come out as Pillow computes them. Where timm may take bicubic, the geometric operations
always interpolate bilinearly.
"""

import math
import re
from collections.abc import Callable
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS_PER_OP = 4  # random numbers that one operation on one image needs
FILL = (124, 116, 104)  # where a photo was moved away: the mean colour of ImageNet, as in timm
_MOST = 10.0  # magnitude
_TRUNCATION = 1 / 512  # added before cutting off decimals, as much as float32 loses on the way


class Strength(TypedDict):
    """What ``random_augment`` does, in its keywords."""

    num_ops: int
    magnitude: float
    magnitude_std: float
    prob: float


def parse_randaugment(text: str) -> Strength:
    """What timm's string asks for, such as ``"rand-m9-mstd0.5-inc1"``.

    Sections: ``m`` magnitude (10), ``n`` operations per image (2), ``p`` probability of each
    (0.5), ``mstd`` standard deviation of the magnitude (0), and ``inc1``, without which timm's
    operations are others.

    Raises:
        ValueError: It asks for anything else.

    Example:
        >>> parse_randaugment("rand-m9-mstd0.5-inc1")
        {'num_ops': 2, 'magnitude': 9.0, 'magnitude_std': 0.5, 'prob': 0.5}
    """
    name, *sections = text.split("-")
    parts = [re.fullmatch(r"(m|n|p|mstd|inc)(\d+(?:\.\d+)?)", section) for section in sections]
    given = {part[1]: float(part[2]) for part in parts if part}
    known = name == "rand" and len(given) == len(sections) and given.get("mstd", 0) <= 100
    if not known or given.get("inc") != 1:
        raise ValueError(
            f"cannot augment a batch by {text!r}; "
            f"write rand-m<magnitude>[-n<operations>][-p<probability>][-mstd<deviation>]-inc1"
        )
    return Strength(
        num_ops=int(given.get("n", 2)),
        magnitude=given.get("m", _MOST),
        magnitude_std=given.get("mstd", 0.0),
        prob=given.get("p", 0.5),
    )


def random_augment(
    images: Tensor,
    uniforms: Tensor,
    *,
    num_ops: int = 2,
    magnitude: float = 9.0,
    magnitude_std: float = 0.5,
    prob: float = 0.5,
) -> Tensor:
    """Change every image by operations drawn for it alone.

    Args:
        images: RGB, ``(N, 3, H, W)``, float32 in 0..255; rounded to whole grey levels first.
        uniforms: ``(N, num_ops * DRAWS_PER_OP)`` in [0, 1); best on the CPU, where it is decided
            what is done with which image.
        num_ops: Operations in turn; one may be drawn twice.
        magnitude: 0 changes little, 10 most.
        magnitude_std: Standard deviation of the magnitude of each operation.
        prob: Of each operation.

    Returns:
        ``(N, 3, H, W)``, whole grey levels.

    Raises:
        ValueError: The shape of ``uniforms`` is another.
    """
    if uniforms.shape != (len(images), num_ops * DRAWS_PER_OP):
        raise ValueError(
            f"{len(images)} images and {num_ops} operations need uniforms of shape "
            f"{(len(images), num_ops * DRAWS_PER_OP)}, got {tuple(uniforms.shape)}"
        )
    images = images.round()
    # Double, as timm computes strengths before it cuts them to whole levels.
    for draws in uniforms.cpu().double().split(DRAWS_PER_OP, dim=1):
        kind, applied, deviation, sign = draws.unbind(1)
        # The least number keeps the quantile finite, which times a deviation of 0 would be nan.
        level = magnitude + magnitude_std * torch.special.ndtri(deviation.clamp(min=1e-9))
        level = level.clamp(0, _MOST) / _MOST
        chosen = torch.where(applied < prob, (kind * len(OPERATIONS)).long(), -1)
        for number, operation in enumerate(OPERATIONS.values()):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                signed = torch.where(sign[rows] < 0.5, level[rows], -level[rows])
                places = rows.to(images.device)
                images[places] = operation(images[places], level[rows], signed)
    return images


# An operation takes images, their strengths in 0..1, and the same with a random sign.
Operation = Callable[[Tensor, Tensor, Tensor], Tensor]


def _by_table(make_table: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    """An operation that maps each grey level to another, by ``(N, 3 or 1, 256)`` tables."""

    def apply(images: Tensor, level: Tensor, _signed: Tensor) -> Tensor:
        values = images.flatten(2).long()
        table = make_table(values, level.to(images.device)).to(images.dtype)
        return table.expand(*values.shape[:2], 256).gather(2, values).view_as(images)

    return apply


def _greys(values: Tensor) -> Tensor:
    return torch.arange(256, device=values.device).view(1, 1, 256)


def _auto_contrast(values: Tensor, _level: Tensor) -> Tensor:
    low = values.amin(2, keepdim=True)
    span = values.amax(2, keepdim=True) - low
    # A number over a tensor would be multiplied by the reciprocal, and so rounded twice.
    scale = torch.full_like(span, 255, dtype=torch.float64) / span.clamp(min=1)
    stretched = (_greys(values) * scale - low * scale).trunc().clamp(0, 255)
    return torch.where(span > 0, stretched, _greys(values))


def _equalize(values: Tensor, _level: Tensor) -> Tensor:
    counts = values.new_zeros(*values.shape[:2], 256)
    counts.scatter_add_(2, values, torch.ones_like(values))
    brightest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - brightest) // 255
    below = counts.cumsum(2) - counts
    spread = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, spread, _greys(values))


def _invert(values: Tensor, _level: Tensor) -> Tensor:
    return 255 - _greys(values)


def _posterize(values: Tensor, level: Tensor) -> Tensor:
    bits = 4 - (level * 4).long()
    coarse = (2 ** (8 - bits)).view(-1, 1, 1)
    return _greys(values) // coarse * coarse


def _solarize(values: Tensor, level: Tensor) -> Tensor:
    threshold = (256 - (level * 256).long()).view(-1, 1, 1)
    greys = _greys(values)
    return torch.where(greys < threshold, greys, 255 - greys)


def _solarize_add(values: Tensor, level: Tensor) -> Tensor:
    added = (level * 110).long().view(-1, 1, 1)
    greys = _greys(values)
    return torch.where(greys < 128, (greys + added).clamp(max=255), greys)


def _by_blending(make_dull: Callable[[Tensor], Tensor]) -> Operation:
    """An operation that moves an image away from, or towards, a duller version of it."""

    def apply(images: Tensor, _level: Tensor, signed: Tensor) -> Tensor:
        factor = (1 + signed * 0.9).clamp(min=0.1).to(images).view(-1, 1, 1, 1)
        dull = make_dull(images)
        return (dull + factor * (images - dull)).clamp(0, 255).floor()

    return apply


def _black(images: Tensor) -> Tensor:
    return torch.zeros_like(images)


def _grey(images: Tensor) -> Tensor:
    """Luma as Pillow rounds it; the sums stay below 2**24, so float32 holds them exactly."""
    red, green, blue = images.unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) / 65536).floor().unsqueeze(1)


def _mean_grey(images: Tensor) -> Tensor:
    mean = _grey(images).mean((1, 2, 3), keepdim=True, dtype=torch.float64)
    return (mean + 0.5).floor().to(images.dtype)


def _blurred(images: Tensor) -> Tensor:
    """Pillow's ``SMOOTH``, which leaves the outermost pixels as they are."""
    sums = F.avg_pool2d(images, 3, stride=1, divisor_override=1)
    blurred = images.clone()
    inside = blurred[:, :, 1:-1, 1:-1]
    inside.copy_(((sums + 4 * inside) / 13).round())
    return blurred


def _by_moving(make_matrix: Callable[[Tensor, int, int], list[Tensor]]) -> Operation:
    """An operation that takes each pixel from where a 2x3 matrix says, in pixels."""

    def apply(images: Tensor, _level: Tensor, signed: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        matrix = torch.stack(make_matrix(signed, height, width)).to(images).view(6, -1, 1, 1)
        x = torch.arange(width, device=images.device) + 0.5
        y = torch.arange(height, device=images.device)[:, None] + 0.5
        from_x = matrix[0] * x + matrix[1] * y + matrix[2]
        from_y = matrix[3] * x + matrix[4] * y + matrix[5]
        grid = torch.stack((from_x * (2 / width) - 1, from_y * (2 / height) - 1), dim=-1)
        moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
        empty = images.new_tensor(FILL).view(3, 1, 1)
        return torch.where(inside[:, None], (moved + _TRUNCATION).floor(), empty)

    return apply


def _rotate(signed: Tensor, height: int, width: int) -> list[Tensor]:
    angle = signed * math.radians(-30)
    cos, sin = angle.cos(), angle.sin()
    x, y = width / 2, height / 2
    return [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y]


def _shear_x(signed: Tensor, _height: int, _width: int) -> list[Tensor]:
    zero, one = torch.zeros_like(signed), torch.ones_like(signed)
    return [one, signed * 0.3, zero, zero, one, zero]


def _shear_y(signed: Tensor, _height: int, _width: int) -> list[Tensor]:
    zero, one = torch.zeros_like(signed), torch.ones_like(signed)
    return [one, zero, zero, signed * 0.3, one, zero]


def _translate_x(signed: Tensor, _height: int, width: int) -> list[Tensor]:
    zero, one = torch.zeros_like(signed), torch.ones_like(signed)
    return [one, zero, signed * 0.45 * width, zero, one, zero]


def _translate_y(signed: Tensor, height: int, _width: int) -> list[Tensor]:
    zero, one = torch.zeros_like(signed), torch.ones_like(signed)
    return [one, zero, zero, zero, one, signed * 0.45 * height]


# Under timm's names. The order belongs to the random numbers: never change it.
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": _by_table(_auto_contrast),
    "Equalize": _by_table(_equalize),
    "Invert": _by_table(_invert),
    "Rotate": _by_moving(_rotate),
    "PosterizeIncreasing": _by_table(_posterize),
    "SolarizeIncreasing": _by_table(_solarize),
    "SolarizeAdd": _by_table(_solarize_add),
    "ColorIncreasing": _by_blending(_grey),
    "ContrastIncreasing": _by_blending(_mean_grey),
    "BrightnessIncreasing": _by_blending(_black),
    "SharpnessIncreasing": _by_blending(_blurred),
    "ShearX": _by_moving(_shear_x),
    "ShearY": _by_moving(_shear_y),
    "TranslateXRel": _by_moving(_translate_x),
    "TranslateYRel": _by_moving(_translate_y),
}
