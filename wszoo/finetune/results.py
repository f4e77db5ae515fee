"""What a fine-tuned net makes of photos whose answers are known: figures, and what to draw."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor, nn

from wszoo.datasets import LabelledImages
from wszoo.datasets.detection import DetectionImages
from wszoo.datasets.instance_masks import RunLengths
from wszoo.datasets.segmentation import SegmentationImages
from wszoo.evaluate import preprocessing
from wszoo.finetune.box_metrics import (
    Curve,
    Item,
    average_precision,
    pack_masks,
    photo_scores,
    precision_recall,
    unpack_masks,
)
from wszoo.finetune.geometry import to_floats, to_pixels
from wszoo.finetune.mask_metrics import count_pixels, summary
from wszoo.finetune.segment import label_photo

Progress = Callable[[Iterable[int], int], Iterable[int]]  # wraps numbers of photos, as tqdm does


def quietly(numbers: Iterable[int], total: int) -> Iterable[int]:
    """No progress is shown."""
    return numbers


def device_of(model: nn.Module) -> torch.device:
    """Where a net computes."""
    return next(model.parameters()).device


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Answers of a classifier.

    Attributes:
        images: The photos.
        probabilities: ``(photos, classes)``.
        confusion: ``(classes, classes)`` counts, true class by predicted class.
    """

    images: LabelledImages
    probabilities: Tensor
    confusion: Tensor

    @property
    def metrics(self) -> dict[str, float]:
        """``top1`` and ``top5`` in percent."""
        truth = torch.tensor(self.images.targets)
        best = self.probabilities.topk(min(5, self.probabilities.shape[1])).indices
        hits = best == truth[:, None]
        return {
            "top1": 100 * hits[:, 0].double().mean().item(),
            "top5": 100 * hits.any(1).double().mean().item(),
        }

    def scores(self) -> dict[int, float]:
        """Probability of the true class of each photo, by which they are ranked."""
        truth = torch.tensor(self.images.targets)
        return dict(enumerate(self.probabilities.gather(1, truth[:, None])[:, 0].tolist()))


@torch.inference_mode()
def classify_photos(
    model: nn.Module, images: LabelledImages, progress: Progress = quietly
) -> Classified:
    """Ask a classifier, in eval mode, about each photo alone."""
    transform, device = preprocessing(model), device_of(model)
    rows = [
        model(transform(images.image(index))[None].to(device)).float().softmax(1)[0].cpu()
        for index in progress(range(len(images)), len(images))
    ]
    probabilities = torch.stack(rows)
    classes = probabilities.shape[1]
    pairs = torch.tensor(images.targets) * classes + probabilities.argmax(1)
    confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    return Classified(images=images, probabilities=probabilities, confusion=confusion)


@dataclass(frozen=True, kw_only=True)
class Detected:
    """Answers of a detector.

    Attributes:
        images: The photos.
        pairs: What was found in each and what is there, without masks.
        masks: Of what was found, packed; None where masks are not judged.
    """

    images: DetectionImages
    pairs: list[tuple[Item, Item]]
    masks: list[tuple[RunLengths, ...]] | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """COCO's figures, see ``average_precision``."""
        if self.masks is None:
            return average_precision(self.pairs, self.images.classes)
        return average_precision(self._with_masks(), self.images.classes, masks=True)

    def _with_masks(self) -> Iterator[tuple[Item, Item]]:
        assert self.masks is not None
        for index, ((found, _), packed) in enumerate(zip(self.pairs, self.masks, strict=True)):
            width, height = self.images.objects[index].size
            masks = unpack_masks(packed, height, width)
            yield found | {"masks": masks}, self.images.target(index)

    def curves(self) -> dict[str, Curve]:
        """Precision against recall of each class that is there."""
        return precision_recall(self.pairs, self.images.classes)

    def min_score(self) -> float:
        """Below which boxes are better left out: the mean over classes found of the best by F1."""
        curves = self.curves().values()
        best = [curve.best_score for curve in curves if curve.average_precision > 0]
        return sum(best) / len(best) if best else 0.5

    def scores(self, least: float) -> dict[int, float]:
        """F1 of each photo, by which they are ranked."""
        return dict(enumerate(photo_scores(self.pairs, least)))


def detect_photos(
    model: nn.Module, images: DetectionImages, progress: Progress = quietly, *, masks: bool = False
) -> Detected:
    """Ask a detector, in eval mode, about each photo alone; ``masks`` are judged too."""
    without = replace(images, has_masks=False)
    pairs: list[tuple[Item, Item]] = []
    packed: list[tuple[RunLengths, ...]] = []
    for index in progress(range(len(images)), len(images)):
        found = find_objects(model, images.image(index))
        if "masks" in found:
            shapes = found.pop("masks")
            packed.append(pack_masks(shapes) if masks else ())
        pairs.append((found, without.target(index)))
    return Detected(images=images, pairs=pairs, masks=packed if masks else None)


@torch.inference_mode()
def find_objects(model: nn.Module, image: Image.Image) -> Item:
    """What a detector finds in an RGB photo: ``boxes``, ``scores``, ``labels``, bool ``masks``.

    One-stage detectors of torchvision score the background like a class; it is left out.
    """
    pixels = to_floats(to_pixels(image).to(device_of(model)))
    answer = model([pixels])[0]
    found: Item = {key: value[answer["labels"] > 0].cpu() for key, value in answer.items()}
    if "masks" in found:
        found["masks"] = found["masks"][:, 0] > 0.5  # (n, 1, H, W) of 0..1
    return found


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """Answers of a segmenter.

    Attributes:
        images: The photos.
        counts: Confusion of each photo, true class by predicted class, in pixels.
    """

    images: SegmentationImages
    counts: list[Tensor]

    @property
    def confusion(self) -> Tensor:
        """Of all photos together."""
        return torch.stack(self.counts).sum(0)

    @property
    def metrics(self) -> dict[str, float]:
        """Means and figures of each class, see ``summary``."""
        return summary(self.confusion, self.images.classes)

    def scores(self) -> dict[int, float]:
        """Mean IoU of each photo over the classes in it, by which they are ranked.

        A photo without labelled pixels has none.
        """
        figures = (summary(each, self.images.classes) for each in self.counts)
        return {index: each["miou"] for index, each in enumerate(figures) if each}


@torch.inference_mode()
def segment_photos(
    model: nn.Module, images: SegmentationImages, max_size: int, progress: Progress = quietly
) -> Segmented:
    """Ask a segmenter, in eval mode, about each photo alone; see ``label_photo``."""
    classes = len(images.classes)
    counts = []
    for index in progress(range(len(images)), len(images)):
        labels = label_image(model, images.image(index), max_size)
        counts.append(count_pixels(labels, torch.from_numpy(images.mask(index)), classes))
    return Segmented(images=images, counts=counts)


@torch.inference_mode()
def label_image(model: nn.Module, image: Image.Image, max_size: int) -> Tensor:
    """Class of each pixel ``(H, W)`` of an RGB photo."""
    return label_photo(model, to_floats(to_pixels(image).to(device_of(model))), max_size).cpu()
