"""Augmentation of a whole batch at once, from random numbers that are handed in."""

import math
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CROP_DRAWS = 5  # random numbers that one image needs
ERASING_DRAWS = 7


def random_resized_crops(
    images: Tensor, uniforms: Tensor, size: int, *, scale: tuple[float, float]
) -> Tensor:
    """Crop, resize and flip every image by its own random numbers.

    The crop covers a share of the area drawn from ``scale``, with an aspect ratio between 3:4
    and 4:3, as torchvision's ``RandomResizedCrop`` draws it; a crop that would stick out of the
    image is cut to it.

    Args:
        images: ``(N, C, H, W)``, floating point.
        uniforms: ``(N, CROP_DRAWS)`` in [0, 1).
        size: Height and width of the result, in pixels.
        scale: Least and largest share of the area.

    Returns:
        ``(N, C, size, size)``.
    """
    area = scale[0] + (scale[1] - scale[0]) * uniforms[:, 0]
    stretch = torch.exp((uniforms[:, 1] * 2 - 1) * (math.log(4 / 3) / 2))
    width = (area.sqrt() * stretch).clamp(max=1)
    height = (area.sqrt() / stretch).clamp(max=1)
    centre_x = (uniforms[:, 2] * 2 - 1) * (1 - width)
    centre_y = (uniforms[:, 3] * 2 - 1) * (1 - height)
    flip = torch.where(uniforms[:, 4] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    rows = [width * flip, zero, centre_x, zero, height, centre_y]
    affine = torch.stack(rows, dim=1).view(-1, 2, 3).to(images.dtype)
    grid = F.affine_grid(affine, [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def resize(images: Tensor, size: int) -> Tensor:
    """``(N, C, H, W)`` to ``(N, C, size, size)``, as the evaluation of timm resizes a photo.

    Values are those of pixels, 0 to 255, and stay in that range.
    """
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(
        images, size=(size, size), mode="bicubic", align_corners=False, antialias=True
    ).clamp(0, 255)


def random_erasing(
    images: Tensor,
    uniforms: Tensor,
    *,
    prob: float,
    mode: Literal["pixel", "const"] = "pixel",
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    mean: Tensor | float = 0.0,
    std: Tensor | float = 1.0,
) -> Tensor:
    """Erase a box in some of the images, as timm does it.

    A box that would be higher or wider than the image is cut to it, where timm draws again.

    Source: Zhong et al., "Random Erasing Data Augmentation", https://arxiv.org/abs/1708.04896

    Args:
        images: ``(N, C, H, W)``, floating point.
        uniforms: ``(N, ERASING_DRAWS)`` in [0, 1); best on the CPU, where it is decided which
            images are erased.
        prob: That an image is erased.
        mode: What fills the box: ``"pixel"``, normal noise that is a function of the image's own
            random numbers; ``"const"``, the mean alone.
        area: Least and largest share of the image.
        aspect: Least and largest height of the box over its width.
        mean: Of the noise: 0 where the images are normalised already, else of shape ``(C, 1, 1)``.
        std: Likewise its deviation.

    Raises:
        ValueError: There is no such mode.
    """
    if mode not in ("pixel", "const"):
        raise ValueError(f"mode must be 'pixel' or 'const', got {mode!r}")
    uniforms = uniforms.cpu()
    rows = (uniforms[:, 0] < prob).nonzero()[:, 0]
    places = rows.to(images.device)
    chosen = images[places]
    filling = torch.zeros_like(chosen)
    if mode == "pixel":
        high, low = (uniforms[rows, 5:] * 2**16).long().unbind(1)
        filling = _noise((high << 16 | low).to(images.device), chosen)
    erased = images.clone()
    inside = _inside_boxes(uniforms[rows], chosen, area, aspect)
    erased[places] = torch.where(inside, (mean + std * filling).to(chosen.dtype), chosen)
    return erased


def _inside_boxes(
    uniforms: Tensor, images: Tensor, area: tuple[float, float], aspect: tuple[float, float]
) -> Tensor:
    """Which pixels to erase, ``(N, 1, H, W)``."""
    height, width = images.shape[-2:]
    pixels = (area[0] + (area[1] - area[0]) * uniforms[:, 1]) * height * width
    least, most = math.log(aspect[0]), math.log(aspect[1])
    ratio = torch.exp(least + (most - least) * uniforms[:, 2])
    high = (pixels * ratio).sqrt().round()
    wide = (pixels / ratio).sqrt().round()
    # A box that is higher or wider than the image begins above or left of it and ends beyond.
    top = (uniforms[:, 3] * (height - high + 1)).floor()
    left = (uniforms[:, 4] * (width - wide + 1)).floor()
    edges = torch.stack((top, top + high, left, left + wide)).long().to(images.device)
    top, bottom, left, right = edges[..., None]
    y, x = (torch.arange(side, device=images.device) for side in (height, width))
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return rows[:, None, :, None] & columns[:, None, None, :]


def _noise(keys: Tensor, like: Tensor) -> Tensor:
    """Normal noise of the shape of ``like``; that of each image follows from its 32-bit key."""
    places = torch.arange(math.prod(like.shape[1:]), device=like.device)
    bits = _scramble(_scramble(places) ^ keys[:, None])
    return _normal_quantiles(like.device)[bits >> 16].to(like.dtype).view(like.shape)


def _scramble(numbers: Tensor) -> Tensor:
    """A permutation of the 32-bit numbers that sends neighbours far apart.

    Source: Wellons, "Hash Function Prospector", https://github.com/skeeto/hash-prospector
    """
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        numbers = numbers ^ (numbers >> shift)
        numbers.mul_(factor).bitwise_and_(0xFFFFFFFF)  # in place, for new memory takes longer
    return numbers ^ (numbers >> 15)


@cache
def _normal_quantiles(device: torch.device) -> Tensor:
    """Normal numbers at 2**16 even steps of probability: the same on every device."""
    steps = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    return torch.special.ndtri(steps).float().to(device)
