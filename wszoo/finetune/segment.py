"""Segmentation as a task of the loop: its batches, its loss and its figures."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.datasets.segmentation import SegmentationImages
from wszoo.finetune.geometry import crop_pixels, to_floats, to_pixels
from wszoo.finetune.mask_metrics import count_pixels, summary
from wszoo.finetune.photos_task import PhotosTask
from wszoo.finetune.settings import FineTuning
from wszoo.segmentation.loss import segmentation_loss
from wszoo.segmentation.segmenter import MIN_SIZE
from wszoo.training.batches import BatchPlan
from wszoo.training.distributed import Ranks
from wszoo.training.engine import Learner
from wszoo.training.runlog import RunLog


class Labelled(NamedTuple):
    """Photos ``(N, 3, H, W)`` in 0..1 and labels ``(N, H, W)`` long, 255 where there is none."""

    images: Tensor
    masks: Tensor


class _MakeLabelled:
    """Index to photo ``(3, H, W)`` uint8 and mask ``(H, W)``; travels to worker processes."""

    def __init__(self, images: SegmentationImages, settings: FineTuning) -> None:
        self._images, self._settings = images, settings

    def __call__(self, index: int, generator: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        image, mask = self._images.image(index), self._images.mask(index)
        if generator is not None:
            settings = self._settings
            shrink = min(1.0, settings.max_size / max(image.size))  # as it will be labelled
            image, mask = crop_pixels(
                image,
                mask,
                generator,
                size=settings.image_size,
                scale=(shrink * settings.scale[0], shrink * settings.scale[1]),
                hflip=settings.hflip,
            )
        return to_pixels(image), torch.from_numpy(mask)


class Segmentation(PhotosTask[tuple[Tensor, Tensor], Labelled]):
    """Trains a segmenter; see ``wszoo.training.run.Task``.

    It learns from random squares of photos, resized by a random factor, and is judged on whole
    photos at their own size. One whose long side exceeds ``max_size`` is taken at that size, in
    both; its scores are resized back, so that every pixel of the mask counts once.

    Args:
        train: To learn from.
        held_out: To judge by.
        settings: Of the run.
        plan: How a batch is shared out.
        ranks: This process among those that train together.
        workers: Processes that read each of the two.
        log: Where photos that cannot be read are told.

    Attributes:
        details: Figures of each class at the latest evaluation: ``iou/NAME`` and ``dice/NAME``.

    Raises:
        ValueError: The two sets differ in their classes, or are too small.
    """

    judged_by = "miou"

    def __init__(
        self,
        train: SegmentationImages,
        held_out: SegmentationImages,
        settings: FineTuning,
        plan: BatchPlan,
        ranks: Ranks,
        *,
        workers: int,
        log: RunLog,
    ) -> None:
        make = (_MakeLabelled(train, settings), _MakeLabelled(held_out, settings))
        super().__init__(train, held_out, make, settings, plan, ranks, workers=workers, log=log)
        self._train, self._classes = train, held_out.classes
        self.details: dict[str, float] = {}

    def _order(self, epoch: int) -> np.ndarray:
        """From a server, a few shards at a time."""
        return self._train.order(self.settings.seed, epoch)

    def _batch(self, samples: list[tuple[Tensor, Tensor]]) -> Labelled:
        pixels, masks = (torch.stack(part) for part in zip(*samples, strict=True))
        device = self.ranks.device
        return Labelled(to_floats(pixels.to(device)), masks.to(device).long())

    def loss(self, model: nn.Module, batch: Labelled) -> Tensor:
        """Sum of the cross entropies of pixels that have a class, over the number of all pixels.

        Not over those that have one, which differ from micro-batch to micro-batch: how a batch is
        shared out would then decide how much a photo counts.
        """
        return segmentation_loss(model(batch.images), batch.masks, normalizer=batch.masks.numel())

    @torch.no_grad()
    def evaluate(self, learner: Learner, pause: Callable[[], None]) -> dict[str, float]:
        """``miou``, ``dice`` and ``pixel_accuracy`` in percent over all ranks; see ``details``.

        Raises:
            ValueError: No pixel of the held-out photos is labelled.
        """
        model = learner.best_model()
        figures = summary(self.count(model, pause), self._classes)
        model.train(model is learner.model)
        if not figures:
            raise ValueError("no pixel of the photos to judge by has a class; look at their masks")
        self.details = {key: value for key, value in figures.items() if "/" in key}
        return {key: value for key, value in figures.items() if "/" not in key}

    @torch.no_grad()
    def count(self, model: nn.Module, pause: Callable[[], None] = lambda: None) -> Tensor:
        """Confusion counts of the held-out photos, over all ranks; see ``count_pixels``.

        A photo that cannot be read counts nowhere; it is named in ``quarantine.tsv`` of the run.
        """
        model.eval()
        classes, device = len(self._classes), self.ranks.device
        total = torch.zeros(classes, classes, dtype=torch.long, device=device)
        for _, sample in self._each_held_out(pause):
            if sample is not None:
                pixels, mask = (part.to(device) for part in sample)
                labels = label_photo(model, to_floats(pixels), self.settings.max_size)
                total += count_pixels(labels, mask, classes)
        return self.ranks.sum(total).cpu()


@torch.no_grad()
def label_photo(model: nn.Module, image: Tensor, max_size: int) -> Tensor:
    """Class of each pixel, ``(H, W)`` long, of a photo ``(3, H, W)`` in 0..1.

    A photo whose long side exceeds ``max_size`` pixels is labelled at that size, one whose short
    side is below what segmenters take is enlarged; the scores are resized to the photo's own size.
    """
    height, width = image.shape[-2:]
    factor = max(min(1.0, max_size / max(height, width)), MIN_SIZE / min(height, width))
    if factor == 1:
        return model(image[None])[0].argmax(0)
    size = [max(MIN_SIZE, round(side * factor)) for side in (height, width)]
    resized = F.interpolate(image[None], size, mode="bilinear", antialias=True)
    scores = F.interpolate(model(resized), (height, width), mode="bilinear")
    return scores[0].argmax(0)
