"""Mixup and cutmix whose every choice belongs to one image, and the losses for mixed targets.

Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization",
https://arxiv.org/abs/1710.09412; Yun et al., "CutMix: Regularization Strategy to Train Strong
Classifiers with Localizable Features", https://arxiv.org/abs/1905.04899. As timm does it in mode
``elem``, but for the partner (timm takes the opposite image of the batch, which depends on the
number of ranks) and the edges of boxes (timm moves them to whole pixels).
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wszoo.training.sampler import Purpose, sample_uniforms

_DRAWS = 7  # random numbers that one image needs


class Mixing(NamedTuple):
    """How the images of a batch are mixed.

    Attributes:
        partner: ``(N,)`` int64, index in the data set of the image that is mixed in; an image that
            stays as it is has itself.
        lam: ``(N,)`` float32, the share of the image itself; 1 for one that stays as it is.
        box: ``(N, 4)`` float32, where cutmix pastes the partner: left, top, right and bottom as
            shares of width and height; empty for mixup.
    """

    partner: np.ndarray
    lam: np.ndarray
    box: np.ndarray


def draw_mixing(
    seed: int,
    epoch: int,
    indices: np.ndarray,
    length: int,
    *,
    stretches: np.ndarray | None = None,
    mixup_alpha: float,
    cutmix_alpha: float,
    prob: float = 1.0,
    switch_prob: float = 0.5,
) -> Mixing:
    """Choose for each image a partner, and how it is mixed in.

    Args:
        indices: Of the images in the data set, ``(N,)``.
        length: Of the data set.
        stretches: First image of each part of the set that is fetched as one, from 0 upwards;
            partners come from the same part. From the whole set where None.
        mixup_alpha: The share is drawn from Beta(alpha, alpha); 0 turns mixup off.
        cutmix_alpha: Likewise for cutmix.
        prob: Share of the images that are mixed.
        switch_prob: Share of these that take cutmix, where both are on.

    Raises:
        ValueError: A probability is outside 0..1, an alpha is negative, or an index is not in
            the data set.
    """
    _check_chances(mixup_alpha, cutmix_alpha, prob, switch_prob)
    indices = np.asarray(indices, dtype=np.int64)
    for index in indices[(indices < 0) | (indices >= length)]:
        raise ValueError(f"there is no image {index} in a data set of {length}")
    draws = sample_uniforms(seed, epoch, indices, _DRAWS, Purpose.MIXING)
    mixed, kind, other, first, second, x, y = draws.T

    if mixup_alpha > 0 and cutmix_alpha > 0:
        cutmix = kind < switch_prob
    else:
        cutmix = np.full(len(indices), cutmix_alpha > 0)
    alpha = np.where(cutmix, cutmix_alpha, mixup_alpha)
    active = (mixed < prob) & (alpha > 0)
    share = np.where(active, _symmetric_beta(np.where(active, alpha, 1), first, second), 1)

    box = _boxes(np.where(cutmix, share, 1), x, y)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    lam = np.where(cutmix, 1 - area, share).astype(np.float32)
    starts = np.zeros(1, np.int64) if stretches is None else stretches
    place = np.searchsorted(starts, indices, side="right") - 1
    start, size = starts[place], np.diff(starts, append=length)[place]
    # Any image but itself, unless there is no other.
    partner = start + (indices - start + 1 + (other * (size - 1)).astype(np.int64)) % size
    return Mixing(np.where(lam < 1, partner, indices), lam, box)


def _check_chances(
    mixup_alpha: float, cutmix_alpha: float, prob: float, switch_prob: float
) -> None:
    for name, value in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must be 0 or a positive number, got {value}")
    for name, value in (("prob", prob), ("switch_prob", switch_prob)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be within 0..1, got {value}")


def _symmetric_beta(alpha: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Draws of Beta(alpha, alpha), one from every two numbers in [0, 1).

    Student's t with ``2 alpha`` degrees of freedom comes from two numbers without rejection, and
    ``t / sqrt(2 alpha + t**2)`` is the wanted draw, stretched to -1..1.

    Source: Bailey, "Polar Generation of Random Variates with the t-Distribution", Mathematics of
    Computation 62, 1994.
    """
    with np.errstate(divide="ignore", over="ignore"):  # infinite t gives 0 or 1, as it should
        radius = np.sqrt((1 - first) ** (-1 / alpha) - 1)
    return (1 + np.sin(np.arctan(radius * np.cos(2 * np.pi * second)))) / 2


def _boxes(share: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squares of area ``1 - share`` around points of the image, cut off at its edges."""
    half = np.sqrt(1 - share) / 2
    corners = np.stack((x - half, y - half, x + half, y + half), axis=1)
    return corners.clip(0, 1).astype(np.float32)


def mix(images: Tensor, partners: Tensor, mixing: Mixing) -> Tensor:
    """Mix every image with its partner.

    A pixel on the edge of a pasted box is blended by the share of it that the box covers, so the
    pasted area is ``1 - lam`` at any size of the images.

    Args:
        images: ``(N, C, H, W)``, floating point.
        partners: Of the same shape; row ``i`` is image ``mixing.partner[i]`` of the data set,
            augmented by its own random numbers, as if it stood in the batch.
        mixing: How, for each of the images.
    """
    height, width = images.shape[-2:]
    box = torch.as_tensor(mixing.box, device=images.device)
    lam = torch.as_tensor(mixing.lam, device=images.device).view(-1, 1, 1, 1)
    left, top, right, bottom = box.unbind(1)
    pasted = _covered(top, bottom, height)[:, None, :, None]
    pasted = pasted * _covered(left, right, width)[:, None, None, :]
    is_cutmix = ((right > left) & (bottom > top)).view(-1, 1, 1, 1)
    share = torch.where(is_cutmix, 1 - pasted, lam)
    return torch.lerp(partners, images, share.to(images.dtype))


def _covered(start: Tensor, end: Tensor, pixels: int) -> Tensor:
    """Share of each of ``pixels`` in a row that lies between ``start`` and ``end``, both 0..1."""
    edges = torch.arange(pixels, device=start.device)
    before, after = (start * pixels)[:, None], (end * pixels)[:, None]
    return (torch.minimum(after, edges + 1) - torch.maximum(before, edges)).clamp(min=0)


def soft_targets(
    targets: Tensor,
    partner_targets: Tensor,
    lam: Tensor | np.ndarray,
    num_classes: int,
    smoothing: float,
) -> Tensor:
    """Targets of mixed images.

    Args:
        targets: Classes ``(N,)`` of the images, int64.
        partner_targets: Those of their partners.
        lam: Share of the image itself, ``(N,)``.
        num_classes: Columns of the result.
        smoothing: Share of the target that is spread over all classes.

    Returns:
        ``(N, num_classes)`` in the dtype of ``lam``; each row adds up to 1.
    """
    share = torch.as_tensor(lam, device=targets.device)[:, None]
    empty = share.new_zeros(len(targets), num_classes)
    own = empty.scatter(1, targets[:, None], 1.0)
    other = empty.scatter(1, partner_targets[:, None], 1.0)
    return smoothing / num_classes + (1 - smoothing) * (share * own + (1 - share) * other)


def soft_cross_entropy(logits: Tensor, soft: Tensor) -> Tensor:
    """Mean over the batch of the cross entropy with soft targets, both ``(N, num_classes)``.

    Computed in the dtype of ``soft``, whatever that of the logits.
    """
    return F.cross_entropy(logits.to(soft.dtype), soft)


def binary_cross_entropy(
    logits: Tensor, soft: Tensor, target_threshold: float | None = None
) -> Tensor:
    """Mean over images and classes of one yes-or-no loss per class.

    Args:
        logits: ``(N, num_classes)``.
        soft: Targets of that shape; the loss is computed in their dtype.
        target_threshold: Targets above it count as 1 and the others as 0.

    Source: Wightman et al., "ResNet strikes back", https://arxiv.org/abs/2110.00476
    """
    if target_threshold is not None:
        soft = (soft > target_threshold).to(soft.dtype)
    return F.binary_cross_entropy_with_logits(logits.to(soft.dtype), soft)
