"""Detection as a task of the loop: its batches, its loss and its figures."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wszoo.datasets.detection import DetectionImages
from wszoo.datasets.instance_masks import RunLengths
from wszoo.finetune.box_metrics import Item, average_precision, pack_masks, unpack_masks
from wszoo.finetune.geometry import augment_objects, to_floats, to_pixels
from wszoo.finetune.photos_task import PhotosTask
from wszoo.finetune.settings import FineTuning
from wszoo.training.batches import BatchPlan
from wszoo.training.distributed import Ranks
from wszoo.training.engine import Learner
from wszoo.training.runlog import RunLog

_LEARNED = ("boxes", "labels", "masks")  # the rest of a target is for evaluation


class Scene(NamedTuple):
    """A photo ``(3, H, W)``, uint8 or in 0..1, and its objects."""

    image: Tensor
    target: Item


class Found(NamedTuple):
    """What a detector found in one photo.

    Attributes:
        boxes: ``boxes``, ``scores`` and ``labels``.
        masks: Of the boxes, packed; empty where they are not judged.
    """

    boxes: Item
    masks: tuple[RunLengths, ...] = ()


class _MakeScene:
    """Index to scene; travels to worker processes."""

    def __init__(self, images: DetectionImages, settings: FineTuning) -> None:
        self._images, self._settings = images, settings

    def __call__(self, index: int, generator: np.random.Generator | None) -> Scene:
        image = self._images.image(index)
        if image.size != (told := self._images.objects[index].size):
            raise ValueError(
                f"{self._images.names[index]} has {image.width} x {image.height} pixels, its "
                f"annotations say {told[0]} x {told[1]}; mend them or leave it out"
            )
        if generator is None:
            return Scene(to_pixels(image), {})
        target = self._images.target(index, crowd=False)
        image, target = augment_objects(
            image,
            {key: target[key] for key in _LEARNED if key in target},
            generator,
            scale=self._settings.scale,
            hflip=self._settings.hflip,
        )
        return Scene(to_pixels(image), target)


class Detection(PhotosTask[Scene, list[Scene]]):
    """Trains a detector of torchvision's kind; see ``wszoo.training.run.Task``.

    Crowd regions and difficult objects are not learned, and boxes on them count neither for nor
    against a detector. Masks are learned and judged with the head ``mask_rcnn``.

    Args:
        train: To learn from.
        held_out: To judge by.
        settings: Of the run.
        plan: How a batch is shared out.
        ranks: This process among those that train together.
        workers: Processes that read each of the two.
        log: Where photos that cannot be read are told.

    Attributes:
        details: Figures of each class at the latest evaluation: ``box_ap/NAME``, ``mask_ap/NAME``.

    Raises:
        ValueError: The two sets differ in their classes or are too small, there is nothing to find
            in the held-out photos, or masks are to be learned and there are none.
    """

    judged_by = "box_ap"

    def __init__(
        self,
        train: DetectionImages,
        held_out: DetectionImages,
        settings: FineTuning,
        plan: BatchPlan,
        ranks: Ranks,
        *,
        workers: int,
        log: RunLog,
    ) -> None:
        has_masks = settings.head == "mask_rcnn"
        if has_masks and not (train.has_masks and held_out.has_masks):
            raise ValueError("mask_rcnn needs a mask of every object; take --head faster_rcnn")
        if not any((~objects.iscrowd).any() for objects in held_out.objects):
            raise ValueError("the photos to judge by show no object; hold out others")
        if not has_masks:  # they are not even decoded
            train, held_out = replace(train, has_masks=False), replace(held_out, has_masks=False)
        make = (_MakeScene(train, settings), _MakeScene(held_out, settings))
        super().__init__(train, held_out, make, settings, plan, ranks, workers=workers, log=log)
        self._held_out = held_out
        self.details: dict[str, float] = {}

    def _batch(self, samples: list[Scene]) -> list[Scene]:
        return [self._to_device(*scene) for scene in samples]

    def _to_device(self, pixels: Tensor, target: Item) -> Scene:
        device = self.ranks.device
        return Scene(
            to_floats(pixels.to(device)), {key: part.to(device) for key, part in target.items()}
        )

    def loss(self, model: nn.Module, batch: list[Scene]) -> Tensor:
        """Sum of the detector's losses.

        Some are means over the boxes of the micro-batch, not of its photos (of Faster and Mask
        R-CNN, and of FCOS), so how a batch is shared out changes a little how much each box counts.
        """
        images, targets = zip(*batch, strict=True)
        losses: dict[str, Tensor] = model([*images], [*targets])
        return torch.stack([*losses.values()]).sum()

    def evaluate(self, learner: Learner, pause: Callable[[], None]) -> dict[str, float]:
        """Average precision in percent over all ranks; see ``details`` for that of each class."""
        model = learner.best_model()
        figures = self.figures(self.predict(model, pause))
        model.train(model is learner.model)
        self.details = {key: value for key, value in figures.items() if "/" in key}
        return {key: value for key, value in figures.items() if "/" not in key}

    @torch.no_grad()
    def predict(
        self, model: nn.Module, pause: Callable[[], None] = lambda: None
    ) -> dict[int, Found]:
        """What ``model`` finds in each held-out photo, by its number; the same on every rank.

        In a photo that cannot be read nothing is found.
        """
        model.eval()
        found: dict[int, Found] = {}
        for index, scene in self._each_held_out(pause):
            answer: Item = {
                "boxes": torch.zeros(0, 4),
                "scores": torch.zeros(0),
                "labels": torch.zeros(0, dtype=torch.long),
            }
            masks: tuple[RunLengths, ...] = ()
            if scene is not None:
                given = model([self._to_device(*scene).image])[0]
                objects = given["labels"] > 0  # one-stage heads may answer "background"
                answer = {key: given[key][objects].cpu() for key in answer}
                if self._held_out.has_masks:
                    masks = pack_masks(given["masks"][objects, 0] > 0.5)  # (n, 1, H, W) of 0..1
            found[index] = Found(answer, masks)
        return dict(sorted(self.ranks.gather(found).items()))

    def figures(self, found: Mapping[int, Found]) -> dict[str, float]:
        """Average precision in percent, over all classes and of each; see ``average_precision``."""
        images = self._held_out
        pairs = ((self._with_masks(*each), images.target(each[0])) for each in found.items())
        return average_precision(pairs, images.classes, masks=images.has_masks)

    def _with_masks(self, index: int, found: Found) -> Item:
        if not self._held_out.has_masks:
            return found.boxes
        width, height = self._held_out.objects[index].size
        return found.boxes | {"masks": unpack_masks(found.masks, height, width)}
