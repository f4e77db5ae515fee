"""Photos with boxes, classes and masks: COCO, Pascal VOC and tar shards as one type."""

import os
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wszoo.datasets.annotations import (
    AnnotatedImage,
    AnnotatedSet,
    ClassId,
    Layout,
)
from wszoo.datasets.box_checks import Size, check_objects, clip
from wszoo.datasets.box_shards import BoxShards
from wszoo.datasets.classification import open_image
from wszoo.datasets.coco import CocoFiles
from wszoo.datasets.detection_photos import known_sizes
from wszoo.datasets.detection_problems import KINDS, Problem
from wszoo.datasets.file_tree import FileTree, open_tree
from wszoo.datasets.instance_masks import Segmentation, decode_mask
from wszoo.datasets.listing import choose_split
from wszoo.datasets.shard_files import is_url
from wszoo.datasets.voc import VocFiles


@dataclass(frozen=True, kw_only=True)
class Objects:
    """What is to be found in one photo, of n objects.

    Attributes:
        size: Width and height in pixels of the upright photo.
        boxes: ``(n, 4)`` float32, x1, y1, x2, y2 in pixels, clipped to the photo.
        labels: ``(n,)`` int64, counted from 1.
        iscrowd: ``(n,)`` bool, crowd regions of COCO and difficult objects of VOC.
        areas: ``(n,)`` float32, in pixels: of the mask where the source tells it, else of the box.
        segmentations: The masks, not decoded; empty where the set has none.
    """

    size: Size
    boxes: np.ndarray
    labels: np.ndarray
    iscrowd: np.ndarray
    areas: np.ndarray
    segmentations: tuple[Segmentation, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class DetectionImages:
    """A detection set, decoded on demand.

    Attributes:
        names: Path of each photo, or ``archive:member``.
        sources: Where its bytes are: a path, or the bytes themselves.
        classes: Without a background; label k is ``classes[k - 1]``.
        class_ids: What the source calls them: COCO's category ids, else the names.
        objects: Of each photo; those without any are kept.
        has_masks: Whether every object has a mask.
    """

    names: tuple[str, ...]
    sources: tuple[Path | bytes, ...]
    classes: tuple[str, ...]
    class_ids: tuple[ClassId, ...]
    objects: tuple[Objects, ...]
    has_masks: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Image.Image:
        """Photo ``index`` as upright RGB."""
        return open_image(self.sources[index], self.names[index])

    def target(self, index: int, *, crowd: bool = True) -> dict[str, Tensor]:
        """Objects of photo ``index``, as torchvision's detectors and torchmetrics take them.

        Args:
            index: Of the photo.
            crowd: Keep objects with ``iscrowd``. Evaluation needs them, to count what is found
                there neither for nor against a detector; training must not see them.

        Returns:
            ``boxes`` (n, 4) float32, x1, y1, x2, y2 in pixels of the upright photo; ``labels``,
            ``iscrowd`` (n,) int64; ``area`` (n,) float32 in pixels; where the set has masks,
            ``masks`` (n, H, W) bool.

        Raises:
            ImportError: Masks are polygons, and the package ``faster-coco-eval`` is missing.
        """
        objects = self.objects[index]
        kept = np.flatnonzero(np.ones_like(objects.iscrowd) if crowd else ~objects.iscrowd)
        target = {
            "boxes": torch.from_numpy(objects.boxes[kept]),
            "labels": torch.from_numpy(objects.labels[kept]),
            "iscrowd": torch.from_numpy(objects.iscrowd[kept].astype(np.int64)),
            "area": torch.from_numpy(objects.areas[kept]),
        }
        if self.has_masks:
            width, height = objects.size
            masks = np.zeros((len(kept), height, width), dtype=bool)
            for mask, number in zip(masks, kept, strict=True):
                mask[:] = decode_mask(objects.segmentations[number], width, height)
            target["masks"] = torch.from_numpy(masks)
        return target

    def select(self, indices: Sequence[int]) -> "DetectionImages":
        """Some of the photos, with all classes."""
        return replace(
            self,
            names=tuple(self.names[index] for index in indices),
            sources=tuple(self.sources[index] for index in indices),
            objects=tuple(self.objects[index] for index in indices),
        )

    def without(self, names: Collection[str]) -> "DetectionImages":
        """All but the photos of these names; how their paths are written makes no difference."""
        left_out = {os.path.abspath(name) for name in names}
        kept = [i for i, name in enumerate(self.names) if os.path.abspath(name) not in left_out]
        return self.select(kept)


def read_detection(
    path: Path | str,
    split: str | None = None,
    *,
    default: str | None = None,
    classes: Sequence[str] | None = None,
    quarantine: Collection[str] = (),
) -> DetectionImages:
    """Find the photos and their objects under ``path``.

    Files and boxes are checked here, the photos themselves only when they are decoded: sizes are
    taken from the annotations where they tell them. ``inspect_detection`` checks all. Boxes are
    taken as drawn on the upright photo, and clipped to it.

    Args:
        path: A folder or a tar archive with COCO json files, Pascal VOC xml files, or a json beside
            each photo (see ``CocoFiles``, ``VocFiles`` and ``BoxShards``); or a folder of archives.
        split: ``"train"``, ``"val"`` or ``"test"``; needed where ``path`` holds several.
        default: The split to take if ``path`` has it and none is named.
        classes: Names in the order of their labels, such as those of a checkpoint; those of the set
            by default.
        quarantine: Names of photos to leave out, whatever is wrong with them.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: No annotations, several splits and none named, or something is wrong with a
            file or an object.
    """
    require_local(path)
    path = Path(path)
    found, problems = read_annotations(path, split, default=default, classes=classes)
    left_out = {os.path.abspath(name) for name in quarantine}
    images = [image for image in found.images if os.path.abspath(image.name) not in left_out]
    sizes, unreadable = known_sizes(images)
    problems += [*unreadable, *check_objects(images, sizes, found.box_format)]
    _require_sound(path, problems, left_out)
    if not images:
        raise ValueError(f"{path}: all {len(found.images)} images are quarantined; mend some")
    has_masks = _have_masks(images)
    return DetectionImages(
        names=tuple(image.name for image in images),
        sources=tuple(image.source for image in images if image.source is not None),
        classes=found.classes,
        class_ids=found.class_ids,
        objects=tuple(
            _objects(image, size, has_masks)
            for image, size in zip(images, sizes, strict=True)
            if size is not None
        ),
        has_masks=has_masks,
    )


def require_local(path: Path | str) -> None:
    """See that a path is not the address of a server.

    Raises:
        ValueError: It is.
    """
    if is_url(path):
        raise ValueError(
            f"{path} is an address, but photos with boxes are read from a folder or an archive on "
            f"a disk; fetch them first"
        )


def read_annotations(
    path: Path,
    split: str | None,
    *,
    default: str | None = None,
    classes: Sequence[str] | None = None,
    all_splits: bool = False,
) -> tuple[AnnotatedSet, list[Problem]]:
    """What annotation files say, and what is wrong with the files.

    Args:
        path: As in ``read_detection``.
        split: One split.
        default: The split to take if ``path`` has it and none is named.
        classes: Names in the order of their labels.
        all_splits: Take all where none is named.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: No annotations, or several splits and none named.
    """
    tree = open_tree(path)
    damaged = [Problem("archive-damaged", f"{k}: {v}") for k, v in tree.damaged.items()]
    layout = _find_layout(tree)
    if layout is None:
        if damaged:
            return AnnotatedSet(classes=(), class_ids=(), box_format="xyxy"), damaged
        raise ValueError(
            f"no annotations of boxes in {path}: expected COCO json files (annotations/*.json), "
            f"Pascal VOC xml files (Annotations/*.xml) or a json with boxes beside each photo"
        )
    known = [name for name in layout.splits if name is not None]
    if all_splits and split is None:
        chosen = layout.splits
    else:
        chosen = (choose_split(path, known, split, default),)
    found = layout.parse(chosen, classes)
    if not found.problems:  # else the reason is among them
        filled = {image.split for image in found.images}
        for name in (name for name in chosen if name not in filled):
            found.report("images-none", f"{path}: {name or 'the set'} has no images")
    return found, [*damaged, *found.problems]


def _find_layout(tree: FileTree) -> Layout | None:
    return BoxShards.find(tree) or CocoFiles.find(tree) or VocFiles.find(tree)


def _require_sound(path: Path, problems: Sequence[Problem], left_out: Collection[str]) -> None:
    """Refuse the first error that concerns a photo which is not left out."""
    errors = [
        problem
        for problem in problems
        if KINDS[problem.code].level == "error"
        and not (problem.image and os.path.abspath(problem.image) in left_out)
    ]
    if errors:
        kind = KINDS[errors[0].code]
        raise ValueError(
            f"{errors[0].where}: {kind.message}; {kind.fix}; "
            f"`wszoo check-data --task detect --data {shlex.quote(str(path))}` lists all errors"
        )


def _have_masks(images: Sequence[AnnotatedImage]) -> bool:
    masks = [one.segmentation is not None for image in images for one in image.annotations]
    return bool(masks) and all(masks)


def _objects(image: AnnotatedImage, size: Size, has_masks: bool) -> Objects:
    annotations = image.annotations
    boxes = clip([one.box for one in annotations], size)
    sides = boxes[:, 2:] - boxes[:, :2]
    told = [one.area for one in annotations]
    areas = [box if area is None else area for area, box in zip(told, sides.prod(1), strict=True)]
    masks = (one.segmentation for one in annotations if has_masks)
    return Objects(
        size=size,
        boxes=boxes,
        labels=np.array([one.label for one in annotations], dtype=np.int64),
        iscrowd=np.array([one.ignored for one in annotations], dtype=bool),
        areas=np.array(areas, dtype=np.float32),
        segmentations=tuple(mask for mask in masks if mask is not None),
    )
