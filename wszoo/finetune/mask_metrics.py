"""How well a segmenter labels pixels, from exact counts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wszoo.datasets.masks import IGNORED


def count_pixels(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Confusion counts ``(classes, classes)`` int64, true class by predicted class.

    Args:
        predicted: ``(H, W)`` labels, int64.
        target: ``(H, W)`` labels, 255 where there is none.
        num_classes: Of both.
    """
    valid = target != IGNORED
    pairs = target[valid].long() * num_classes + predicted[valid]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def summary(confusion: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Figures in percent: ``miou``, ``dice``, ``pixel_accuracy``, ``iou/NAME`` and ``dice/NAME``.

    Means are over the classes that occur in the targets; a class that does not has no figure.
    Nothing has one where no pixel is labelled.

    Args:
        confusion: Counts, see ``count_pixels``.
        classes: Names.
    """
    counts = confusion.double()
    right, wanted, given = counts.diagonal(), counts.sum(1), counts.sum(0)
    present = wanted.nonzero()[:, 0].tolist()
    if not present:
        return {}
    iou = 100 * right / (wanted + given - right)
    dice = 200 * right / (wanted + given)
    return {
        "miou": float(iou[present].mean()),
        "dice": float(dice[present].mean()),
        "pixel_accuracy": float(100 * right.sum() / counts.sum()),
        **{f"iou/{classes[row]}": float(iou[row]) for row in present},
        **{f"dice/{classes[row]}": float(dice[row]) for row in present},
    }
