"""Augmentation of a whole batch at once, from random numbers that are handed in."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CROP_DRAWS = 5  # random numbers that one image needs


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
