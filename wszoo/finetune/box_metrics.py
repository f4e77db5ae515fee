"""How well a detector finds objects: COCO's average precision, and precision against recall."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from wszoo.datasets.instance_masks import RunLengths, decode_mask

# Of one photo, found: boxes (n, 4), scores, labels. Wanted: boxes, labels, iscrowd, area.
Item = dict[str, Tensor]


class Curve(NamedTuple):
    """Precision and recall of one class at an overlap (IoU) of 0.5, from the surest box on.

    Attributes:
        recall: Share of the objects found so far, rising.
        precision: Share of the boxes so far that found one.
        scores: Of the box that was added last.
    """

    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray

    @property
    def best_score(self) -> float:
        """The least score to keep for the best F1; 0.5 where nothing was found."""
        both = self.precision + self.recall
        f1 = 2 * self.precision * self.recall / np.where(both > 0, both, 1)
        return float(self.scores[f1.argmax()]) if len(f1) and f1.max() > 0 else 0.5

    def precision_at(self, recall: np.ndarray) -> np.ndarray:
        """Precision at each recall in 0..1, or the best beyond it; 0 where it is not reached."""
        best_beyond = np.maximum.accumulate(self.precision[::-1])[::-1]
        return np.append(best_beyond, 0.0)[np.searchsorted(self.recall, recall)]

    @property
    def average_precision(self) -> float:
        """COCO's AP50 of the class, in 0..1: mean precision at 101 steps of recall."""
        recall = torch.linspace(0, 1, 101).double().numpy()  # rounded as torchmetrics' are
        return float(self.precision_at(recall).mean())


def average_precision(
    pairs: Iterable[tuple[Item, Item]], classes: Sequence[str], *, masks: bool = False
) -> dict[str, float]:
    """COCO's figures in percent: ``box_ap`` (IoU 0.5 to 0.95), ``box_ap50``, ``box_ap75``.

    With ``masks`` also ``mask_ap``, ``mask_ap50``, ``mask_ap75``; per class ``box_ap/NAME``. A
    class without objects in the targets has no figure, and none counts for it; where no class has
    any, there are no figures. What is found in crowd regions counts neither for nor against.

    Args:
        pairs: What was found in each photo and what is there. They are taken one by one and only
            packed masks are kept, so a generator of them may decode theirs late.
        classes: Names; label k is ``classes[k - 1]``.
        masks: Judge ``masks`` (n, H, W) bool too, which both items then have.

    Raises:
        ModuleNotFoundError: torchmetrics or faster-coco-eval is missing (the extra ``train``).
    """
    from torchmetrics.detection import MeanAveragePrecision

    kinds: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm") if masks else ("bbox",)
    metric = MeanAveragePrecision(
        iou_type=kinds,
        class_metrics=True,
        backend="faster_coco_eval",
        sync_on_compute=False,  # every rank is given all photos
    )
    metric.warn_on_many_detections = False
    for found, wanted in pairs:
        metric.update([found], [wanted])
    computed = metric.compute()
    result: dict[str, float] = {}
    for kind, name in zip(kinds, ("box", "mask"), strict=False):
        prefix = f"{kind}_" if masks else ""
        figures = {
            f"{name}_{short}": computed[f"{prefix}{key}"]
            for key, short in (("map", "ap"), ("map_50", "ap50"), ("map_75", "ap75"))
        }
        labels = computed["classes"].reshape(-1).tolist()
        per_class = computed[f"{prefix}map_per_class"].reshape(-1)
        for label, value in zip(labels, per_class, strict=True):
            figures[f"{name}_ap/{classes[label - 1]}"] = value
        # -1 stands for nothing to find
        result |= {key: 100 * float(value) for key, value in figures.items() if value >= 0}
    return result


def precision_recall(
    pairs: Iterable[tuple[Item, Item]], classes: Sequence[str]
) -> dict[str, Curve]:
    """Precision against recall of each class that occurs in the targets, at an IoU of 0.5.

    Args:
        pairs: What was found in each photo and what is there.
        classes: Names; label k is ``classes[k - 1]``.
    """
    pairs = list(pairs)
    curves = {}
    for label, name in enumerate(classes, 1):
        scores, hits, objects = [], [], 0
        for pair in pairs:
            found, wanted = (_of_class(item, label) for item in pair)
            objects += int((wanted["iscrowd"] == 0).sum())
            for score, hit in zip(found["scores"].tolist(), match(found, wanted), strict=True):
                if hit is not None:
                    scores.append(score)
                    hits.append(hit)
        if objects:
            curves[name] = _curve(np.array(scores), np.array(hits, dtype=float), objects)
    return curves


def _curve(scores: np.ndarray, hits: np.ndarray, objects: int) -> Curve:
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(hits[order])
    return Curve(right / objects, right / np.arange(1, len(order) + 1), scores[order])


def _of_class(item: Item, label: int) -> Item:
    chosen = item["labels"] == label
    return {key: value[chosen] for key, value in item.items()}


def match(found: Item, wanted: Item, *, iou: float = 0.5) -> list[bool | None]:
    """Whether each box finds an object, in the order of the boxes; None: in a crowd region.

    As COCO does it: the surest box chooses first, the object that it overlaps most of those left;
    else it may lie in a crowd region, to a share ``iou`` of its own area.

    Args:
        found: Boxes of one class.
        wanted: Objects of that class.
        iou: Least overlap.
    """
    verdicts: list[bool | None] = [False] * len(found["boxes"])
    if not len(wanted["boxes"]) or not len(verdicts):
        return verdicts
    crowd = wanted["iscrowd"] > 0
    overlaps = box_iou(found["boxes"], wanted["boxes"]).masked_fill(crowd, -1)
    in_crowd = (_covered(found["boxes"], wanted["boxes"][crowd]) >= iou).any(1)
    for row in found["scores"].argsort(descending=True, stable=True).tolist():
        best = int(overlaps[row].argmax())
        if overlaps[row, best] >= iou:
            verdicts[row] = True
            overlaps[:, best] = -1
        elif in_crowd[row]:
            verdicts[row] = None
    return verdicts


def _covered(boxes: Tensor, regions: Tensor) -> Tensor:
    """Share of each of ``(n, 4)`` boxes that lies in each of ``(m, 4)`` regions, ``(n, m)``."""
    least = torch.maximum(boxes[:, None, :2], regions[:, :2])
    most = torch.minimum(boxes[:, None, 2:], regions[:, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return (most - least).clamp_min(0).prod(2) / area[:, None]


def photo_scores(pairs: Iterable[tuple[Item, Item]], least: float) -> list[float]:
    """F1 of each photo over all classes, of boxes scored at least ``least``; to rank photos by.

    A photo without objects in which none is found scores 1.
    """
    result = []
    for found, wanted in pairs:
        sure = found["scores"] >= least
        kept = {key: value[sure] for key, value in found.items()}
        hits = false = 0
        for label in kept["labels"].unique().tolist():
            verdicts = match(_of_class(kept, label), _of_class(wanted, label))
            hits += verdicts.count(True)
            false += verdicts.count(False)
        total = hits + false + int((wanted["iscrowd"] == 0).sum())
        result.append(2 * hits / total if total else 1.0)
    return result


def pack_masks(masks: Tensor) -> tuple[RunLengths, ...]:
    """Masks ``(n, H, W)`` bool as run lengths: of a whole set, they would not fit into memory."""
    size = (masks.shape[1], masks.shape[2])
    packed = []
    for mask in masks.cpu().numpy():
        flat = mask.T.ravel()
        edges = np.flatnonzero(np.diff(flat, prepend=False))
        packed.append(RunLengths(size=size, counts=np.diff(edges, prepend=0, append=flat.size)))
    return tuple(packed)


def unpack_masks(packed: Sequence[RunLengths], height: int, width: int) -> Tensor:
    """What ``pack_masks`` was given, also where there are none."""
    masks = np.zeros((len(packed), height, width), dtype=bool)
    for mask, runs in zip(masks, packed, strict=True):
        mask[:] = decode_mask(runs, width, height)
    return torch.from_numpy(masks)
