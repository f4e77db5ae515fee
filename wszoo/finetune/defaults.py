"""Settings that are right for one to four photos per step, where a person names none.

Sizes of detectors are torchvision's, AdamW's decay and the shape of the schedule those of the
package's demo. The learning rates are per photo, so they scale linearly with the batch (Goyal et
al., https://arxiv.org/abs/1706.02677) up to where AdamW becomes unstable; that of classifiers is
the demo's.
"""

from dataclasses import dataclass
from typing import Any

from wszoo.finetune.settings import FineTuning, TaskName

HEADS: dict[TaskName, tuple[str, ...]] = {
    "classify": ("linear",),
    "detect": ("faster_rcnn", "mask_rcnn", "retinanet", "fcos"),
    "segment": ("semantic_fpn", "deeplab_v3_plus", "upernet", "unet"),
}
MOST_LR = 1e-3  # of AdamW, whatever the batch


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Of one task; names as in ``FineTuning``.

    Attributes:
        lr_per_photo: Learning rate for a batch of one.
    """

    head: str
    epochs: int
    batch_size: int
    image_size: int
    max_size: int
    lr_per_photo: float
    scale: tuple[float, float]
    label_smoothing: float = 0.0


DEFAULTS: dict[TaskName, Defaults] = {
    "classify": Defaults(
        head="linear",
        epochs=20,
        batch_size=4,
        image_size=224,
        max_size=1333,
        lr_per_photo=2e-4,
        scale=(0.35, 1.0),
        label_smoothing=0.1,
    ),
    "detect": Defaults(
        head="faster_rcnn",
        epochs=20,
        batch_size=2,
        image_size=800,
        max_size=1333,
        lr_per_photo=1e-4,
        scale=(0.8, 1.25),
    ),
    "segment": Defaults(
        head="semantic_fpn",
        epochs=40,
        batch_size=2,
        image_size=512,
        max_size=2048,
        lr_per_photo=1e-4,
        scale=(0.5, 2.0),
    ),
}


def settings_for(task: TaskName, **asked: Any) -> FineTuning:
    """Settings with the task's defaults in the place of what is None.

    Args:
        task: What the net is to do.
        asked: Fields of ``FineTuning``.
    """
    defaults = DEFAULTS[task]
    given = {key: value for key, value in asked.items() if value is not None}
    batch_size = given.get("batch_size", defaults.batch_size)
    filled = {
        "head": defaults.head,
        "epochs": defaults.epochs,
        "batch_size": batch_size,
        "image_size": defaults.image_size,
        "max_size": defaults.max_size,
        "lr": scaled_lr(task, batch_size),
        "scale": defaults.scale,
        "label_smoothing": defaults.label_smoothing,
    }
    return FineTuning(task=task, **filled | given)


def scaled_lr(task: TaskName, batch_size: int) -> float:
    """The learning rate for a batch, linear in its size up to a bound."""
    return min(MOST_LR, batch_size * DEFAULTS[task].lr_per_photo)


def lr_text(settings: FineTuning) -> str:
    """The learning rate and where it comes from, for people."""
    per_photo, size = DEFAULTS[settings.task].lr_per_photo, settings.batch_size
    if settings.lr != scaled_lr(settings.task, size):
        return f"{settings.lr:g}, as asked for"
    product = f"{per_photo:g} x {size} photo{'s' * (size > 1)} per step"
    if per_photo * size > MOST_LR:
        return f"{settings.lr:g}, the most for AdamW; {product} would be more"
    return f"{settings.lr:g} = {product}"
