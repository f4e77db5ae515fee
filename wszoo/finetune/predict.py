"""A fine-tuned detector or segmenter put to use: on single photos, and on a data set."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from wszoo.datasets import open_image
from wszoo.datasets.detection import DetectionImages
from wszoo.datasets.segmentation import SegmentationImages
from wszoo.finetune.box_metrics import Item
from wszoo.finetune.data import DataSource, read_images, with_classes
from wszoo.finetune.outputs import Facts
from wszoo.finetune.report import draw_detected, draw_segmented
from wszoo.finetune.results import (
    Progress,
    detect_photos,
    find_objects,
    label_image,
    quietly,
    segment_photos,
)
from wszoo.visualize.boxes import draw_boxes
from wszoo.visualize.masks import draw_masks

Found = Item | np.ndarray  # boxes, scores, labels and perhaps masks; or the class of each pixel


def find_in(model: nn.Module, facts: Facts, path: Path, min_score: float | None = None) -> Found:
    """What a net, in eval mode, finds in one photo.

    Args:
        model: As ``load_finetuned`` gives it.
        facts: Likewise.
        path: Of the photo.
        min_score: Of a detector, what is scored less is left out; None takes that of ``facts``.

    Raises:
        FileNotFoundError: There is no such photo.
        ValueError: It cannot be decoded.
    """
    image = open_image(path)
    if facts.net.task == "segment":
        return label_image(model, image, facts.settings.max_size).numpy()
    found = find_objects(model, image)
    sure = found["scores"] >= _least(facts, min_score)
    return {key: value[sure] for key, value in found.items()}


def _least(facts: Facts, min_score: float | None) -> float:
    return (facts.min_score if min_score is None else min_score) or 0.0


def describe_found(found: Found, facts: Facts) -> dict[str, Any]:
    """Names and figures, as JSON takes them.

    Returns:
        ``objects`` with ``class``, ``score`` and ``box`` (x1, y1, x2, y2 in pixels), the surest
        first; or ``pixels`` with ``class`` and ``share``, the most frequent first.
    """
    if isinstance(found, np.ndarray):
        counts = np.bincount(found.ravel(), minlength=len(facts.classes)) / found.size
        order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
        return {
            "pixels": [
                {"class": facts.classes[label], "share": round(float(counts[label]), 4)}
                for label in order
            ]
        }
    rows = zip(
        found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True
    )
    objects = [
        {
            "class": facts.classes[label - 1],
            "score": round(score, 4),
            "box": [round(side, 1) for side in box],
        }
        for label, score, box in rows
    ]
    return {"objects": sorted(objects, key=lambda each: -each["score"])}


def draw_found(
    path: Path, found: Found, facts: Facts, picture: Path, min_score: float | None = None
) -> None:
    """Draw what ``find_in`` has found in a photo; ``min_score`` as there."""
    image = open_image(path)
    classes = list(facts.classes)
    if isinstance(found, np.ndarray):
        draw_masks([image], None, [found], classes, picture, title=path.name)
    else:
        least = _least(facts, min_score)
        draw_boxes([image], None, [found], classes, picture, title=path.name, min_score=least)


def measure(
    model: nn.Module,
    facts: Facts,
    data: Path | str,
    *,
    split: str | None = None,
    quarantine: Path | None = None,
    save: Path | None = None,
    progress: Progress = quietly,
) -> dict[str, float]:
    """Figures in percent of a detector or segmenter, in eval mode, on a data set.

    Args:
        model: As ``load_finetuned`` gives it.
        facts: Likewise.
        data: As for a run.
        split: The one to measure on; ``val`` by default.
        quarantine: File of photos to leave out.
        save: Folder for pictures and ``report.md``.
        progress: Wraps the numbers of the photos.

    Raises:
        FileNotFoundError: ``data`` or the split does not exist.
        ValueError: A photo cannot be read, or there are classes that the net does not know.
    """
    task = facts.net.task
    source = DataSource(
        task=task,
        path=data,
        classes=facts.classes if task == "detect" else None,
        ignore=facts.ignored,
        quarantine=quarantine,
    )
    images = with_classes(read_images(source, split, "val"), facts.classes, str(data))
    title = f"{facts.net.head} over {facts.settings.model}"
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
    if isinstance(images, DetectionImages):
        masks = images.has_masks and facts.net.head == "mask_rcnn"
        detected = detect_photos(model, images, progress, masks=masks)
        if save is not None:
            least = facts.min_score if facts.min_score is not None else detected.min_score()
            _write(save, title, draw_detected(detected, model, least, save, title))
        return {"photos": len(images), **detected.metrics}
    assert isinstance(images, SegmentationImages)
    max_size = facts.settings.max_size
    segmented = segment_photos(model, images, max_size, progress)
    if save is not None:
        _write(save, title, draw_segmented(segmented, model, max_size, save, title))
    return {"photos": len(images), **segmented.metrics}


def _write(folder: Path, title: str, text: str) -> None:
    (folder / "report.md").write_text(f"# {title}\n\n{text}\n", encoding="utf-8")
