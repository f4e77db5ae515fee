"""Classification as a task of the loop: a recipe made from the settings, over files."""

from collections.abc import Sequence

import numpy as np

from wszoo.datasets.classification import LabelledImages
from wszoo.finetune.photos_task import require_alike
from wszoo.finetune.settings import FineTuning
from wszoo.training.batches import BatchPlan
from wszoo.training.classify import Classification
from wszoo.training.distributed import Ranks
from wszoo.training.file_source import FileSource
from wszoo.training.recipe import Recipe
from wszoo.training.runlog import RunLog


def classification(
    train: LabelledImages,
    held_out: LabelledImages,
    settings: FineTuning,
    plan: BatchPlan,
    ranks: Ranks,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    workers: int,
    log: RunLog,
) -> Classification:
    """The task that trains a classifier on ``train`` and judges it on ``held_out``.

    It learns from crops of random size and is judged on the whole height or width of a photo, both
    at ``image_size`` pixels.

    Args:
        train: To learn from.
        held_out: To judge by.
        settings: Of the run.
        plan: How a batch is shared out.
        ranks: This process among those that train together.
        mean: Of each colour, in 0..1, as the backbone was trained.
        std: Likewise.
        workers: Processes that read each of the two.
        log: Where photos that cannot be read are told.

    Raises:
        ValueError: The net does not take three channels, the two sets differ in their classes, or
            are too small.
    """
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(
            f"photos are read as RGB, the net takes {len(mean)} channels; make it with in_chans=3"
        )
    require_alike(train, held_out)
    recipe = to_recipe(settings)
    everything = np.arange(len(train))
    judged = (held_out, np.arange(len(held_out)))
    source = FileSource(train, everything, judged, recipe, ranks.device, workers=workers, log=log)
    return Classification(source, recipe, plan, ranks, mean=mean, std=std)


def to_recipe(settings: FineTuning) -> Recipe:
    """The recipe that says the same as ``settings``."""
    return Recipe(
        phases=((settings.epochs, settings.image_size),),
        batch_size=settings.batch_size,
        test_size=settings.image_size,
        optimizer="adamw",
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        schedule="cosine",
        warmup_steps=settings.warmup_steps,
        crop_scale=settings.scale,
        label_smoothing=settings.label_smoothing,
        ema=settings.ema,
        clip_grad=settings.clip_grad,
        precision=settings.precision,
        patience=settings.patience,
        seed=settings.seed,
    )
