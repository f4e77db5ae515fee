"""The loss of a segmenter: cross entropy over the pixels that count, and dice if wanted."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    class_weights: Sequence[float] | Tensor | None = None,
    dice_weight: float = 0.0,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """Mean cross entropy of the valid pixels, plus ``dice_weight`` times the dice loss.

    A batch without valid pixels has loss 0 and gradient 0. Statistics are float32 at least.

    Args:
        logits: ``(N, K, H, W)`` scores.
        target: ``(N, H, W)`` labels ``0..K-1``, or ``ignore_index`` where there is none.
        ignore_index: Label of pixels that do not count.
        class_weights: How much a pixel of each class counts, ``K`` of them; torch's weighted mean.
        dice_weight: Share of ``dice_loss`` added.
        normalizer: What the sum of cross entropies is divided by in place of the (weighted) number
            of valid pixels. With that number taken over all micro-batches of a step, their
            gradients add up to exactly that of the whole batch.

    Returns:
        A scalar.

    Raises:
        ValueError: The target has another shape, is no integer, or holds a value that is neither
            a class nor ``ignore_index``; or the class weights are not ``K`` finite numbers >= 0.
    """
    target = _checked(target, logits, ignore_index)
    exact = logits if logits.dtype == torch.float64 else logits.float()
    weights = _checked_weights(class_weights, exact)
    # Summed here and not by the kernel, whose sums on CUDA differ from run to run.
    per_pixel = F.cross_entropy(
        exact, target, weight=weights, ignore_index=ignore_index, reduction="none"
    )
    if normalizer is None:
        valid = target != ignore_index
        counted = valid if weights is None else weights[target.where(valid, 0)] * valid
        normalizer = counted.sum()
    total = per_pixel.sum() / torch.as_tensor(normalizer, device=exact.device).clamp_min(1e-6)
    if dice_weight:
        total = total + dice_weight * dice_loss(exact, target, ignore_index=ignore_index)
    return total


def dice_loss(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """One minus the soft dice coefficient, averaged over the classes present in each image.

    Per image, so that no image's loss depends on its batch. Source: Milletari et al., "V-Net",
    https://arxiv.org/abs/1606.04797, with plain sums in the denominator.

    Args:
        logits, target: As for ``segmentation_loss``.
        ignore_index: Label of pixels that do not count.

    Returns:
        A scalar in 0..1; 0 where no pixel is valid.
    """
    valid = target != ignore_index
    classes = torch.arange(logits.shape[1], device=target.device).view(1, -1, 1, 1)
    is_class = (target[:, None] == classes) & valid[:, None]
    shares = logits.softmax(dim=1) * valid[:, None]
    overlap = (shares * is_class).sum(dim=(2, 3))
    area = is_class.sum(dim=(2, 3))
    dice = 2 * overlap / (shares.sum(dim=(2, 3)) + area).clamp_min(1e-6)
    present = area > 0
    return ((1 - dice) * present).sum() / present.sum().clamp_min(1)


def _checked(target: Tensor, logits: Tensor, ignore_index: int) -> Tensor:
    """The target as int64, once every value in it is known to be a class or ignored."""
    wanted = (logits.shape[0], *logits.shape[2:])
    if target.shape != wanted:
        raise ValueError(
            f"target has shape {tuple(target.shape)}, logits {tuple(logits.shape)} "
            f"want {tuple(wanted)}"
        )
    if target.is_floating_point() or target.is_complex():
        raise ValueError(f"target is {target.dtype}; give labels as integers, not scaled to 0..1")
    target = target.long()
    num_classes = logits.shape[1]
    strange = (target != ignore_index) & ((target < 0) | (target >= num_classes))
    if strange.any():
        image = int(strange.flatten(1).any(dim=1).nonzero()[0])
        value = int(target[image][strange[image]][0])
        raise ValueError(
            f"the target of image {image} of the batch holds {value}, but there are "
            f"{num_classes} classes, 0..{num_classes - 1}; raise num_classes, mend the mask, or "
            f"pass ignore_index={value} if it means void (ignored now: {ignore_index})"
        )
    return target


def _checked_weights(
    class_weights: Sequence[float] | Tensor | None, logits: Tensor
) -> Tensor | None:
    if class_weights is None:
        return None
    weights = torch.as_tensor(class_weights, dtype=logits.dtype, device=logits.device)
    if weights.shape != (logits.shape[1],):
        raise ValueError(
            f"class_weights has shape {tuple(weights.shape)}, give one for each of "
            f"{logits.shape[1]} classes"
        )
    # Of a tensor on a device, the check would cost a synchronization at every step.
    if not isinstance(class_weights, Tensor):
        wrong = [weight for weight in class_weights if not 0 <= weight < math.inf]
        if wrong:
            raise ValueError(f"class_weights must be finite and not negative, got {wrong[0]}")
    return weights
