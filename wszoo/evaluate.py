"""Accuracy of a classifier on photos in class folders, and its predictions on single photos."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from wszoo.datasets import LabelledImages
from wszoo.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a classifier did on a set of photos.

    Attributes:
        top1: Percent of photos whose class was rated highest.
        top5: Percent of photos whose class was among the five rated highest.
        count: Photos.
        confusion: ``(classes, classes)`` counts, true class by predicted class.
    """

    top1: float
    top5: float
    count: int
    confusion: Tensor

    def summary(self) -> dict[str, float]:
        """The figures to report, rounded."""
        return {
            "top1": round(self.top1, 2),
            "top5": round(self.top5, 2),
            "standard_error": round(self.standard_error, 2),
            "photos": self.count,
        }

    def __str__(self) -> str:
        error = f"± {self.standard_error:.2f}"
        return f"top-1 {self.top1:.2f} % {error}, top-5 {self.top5:.2f} % of {self.count} photos"

    @property
    def standard_error(self) -> float:
        """Binomial standard error of ``top1``, in percent."""
        share = self.top1 / 100
        return 100 * float((share * (1 - share) / self.count) ** 0.5)


def class_count(model: nn.Module) -> int:
    """Rows of the classifier of a timm model."""
    count = model.num_classes
    assert isinstance(count, int)
    return count


def class_labels(model: nn.Module) -> list[str] | None:
    """What timm's configuration says that the folder of each class is called.

    Returns:
        None where it names no classes.
    """
    labels = getattr(model, "pretrained_cfg", {}).get("label_names")
    if not isinstance(labels, (list, tuple)) or len(labels) != class_count(model):
        return None
    return [*map(str, labels)]


def class_names(model: nn.Module, weights: Weights | None) -> list[str] | None:
    """What to call each row of the classifier, by the record or timm's configuration.

    Returns:
        None where neither names the classes.
    """
    if weights is not None:
        return weights.label_names()
    if (labels := class_labels(model)) is None:
        return None
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    described = cfg.get("label_descriptions") or {}
    return [str(described.get(label, label)) for label in labels]


def preprocessing(model: nn.Module) -> Callable[[Image.Image], Tensor]:
    """The transform that the weights of ``model`` were measured with: photo to ``(C, H, W)``."""
    transform: Callable[[Image.Image], Tensor] = create_transform(
        **resolve_model_data_config(model), is_training=False
    )
    return transform


def targets_for(
    images: LabelledImages,
    weights: Weights | None,
    num_classes: int,
    labels: Sequence[str] | None = None,
) -> list[int]:
    """Rows of the classifier that the photos belong to.

    Class folders are matched by name where the weights know their classes, by position otherwise.

    Args:
        images: The photos.
        weights: The record, where there is one.
        num_classes: Rows of the classifier.
        labels: Names of the rows, where the net's own configuration has them.

    Raises:
        ValueError: The folders do not fit the classes of the model.
    """
    name = "the model"
    if weights is not None and weights.labels is not None:
        name, labels = weights.name, weights.label_ids()
    if labels is not None:
        rows = {label: row for row, label in enumerate(labels)}
        unknown = [label for label in images.classes if label not in rows]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(images.classes)} class folders are not classes of "
                f"{name}, e.g. {unknown[0]!r}; its classes look like {next(iter(rows))!r}"
            )
        return [rows[images.classes[target]] for target in images.targets]
    if len(images.classes) != num_classes:
        raise ValueError(
            f"the data has {len(images.classes)} class folders, the model has {num_classes} "
            f"classes; evaluate on the classes it was trained on"
        )
    return list(images.targets)


def published_top1(record: Weights | None, data: LabelledImages) -> tuple[str, float] | None:
    """The accuracy that the record of a classifier states, where ``data`` can confirm it.

    Args:
        record: The weights' record, if there is one.
        data: Photos to be measured on; of exactly the classes that the weights know, or the
            stated figure would be compared with an easier or harder task.

    Returns:
        What the figure was stated for, and percent; None where there is nothing to compare with.
    """
    if record is None or len(data.classes) != record.num_classes:
        return None
    if record.labels is not None and set(data.classes) != set(record.label_ids()):
        return None
    stated = ((name, scores["top1"]) for name, scores in record.metrics.items() if "top1" in scores)
    return next(stated, None)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: LabelledImages,
    targets: Sequence[int],
    *,
    batch_size: int = 64,
    progress: Callable[[Any], Any] = lambda batches: batches,
) -> Evaluation:
    """Classify every photo once.

    Args:
        model: A classifier; left in eval mode.
        images: Photos, decoded batch by batch.
        targets: Row of the classifier for each photo.
        batch_size: Photos per forward pass.
        progress: Wraps the list of batches, as ``tqdm`` does.
    """
    model.eval()
    device = next(model.parameters()).device
    transform = preprocessing(model)
    ranked = []
    for batch in progress([*_chunks(range(len(images)), batch_size)]):
        photos = torch.stack([transform(images.image(index)) for index in batch]).to(device)
        logits = model(photos)
        ranked.append(logits.topk(min(5, logits.shape[1])).indices.cpu())
        classes = logits.shape[1]
    best = torch.cat(ranked)
    truth = torch.tensor(targets)
    hits = best == truth[:, None]
    confusion = torch.zeros(classes * classes, dtype=torch.long)
    confusion.index_add_(0, truth * classes + best[:, 0], torch.ones_like(truth))
    return Evaluation(
        top1=100 * hits[:, 0].float().mean().item(),
        top5=100 * hits.any(1).float().mean().item(),
        count=len(images),
        confusion=confusion.view(classes, classes),
    )


@torch.inference_mode()
def predict(
    model: nn.Module, photos: Iterable[Image.Image], top: int = 5
) -> list[list[tuple[int, float]]]:
    """The ``top`` classes of each photo with their probabilities, best first."""
    model.eval()
    transform = preprocessing(model)
    device = next(model.parameters()).device
    results = []
    for photo in photos:  # one at a time: no norm here depends on the batch
        probabilities = model(transform(photo)[None].to(device)).softmax(1)[0]
        best = probabilities.topk(min(top, len(probabilities)))
        results.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
    return results


def _chunks(indices: range, size: int) -> Iterator[range]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
