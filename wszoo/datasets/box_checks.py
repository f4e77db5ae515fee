"""Boxes, masks and labels that training could not use, found without decoding a photo."""

from collections.abc import Iterator, Sequence

import numpy as np

from wszoo.datasets.annotations import AnnotatedImage, Annotation, Box, BoxFormat
from wszoo.datasets.detection_problems import Problem
from wszoo.datasets.instance_masks import RunLengths

Size = tuple[int, int]  # width, height
_ROUNDING = 1.0  # pixels beyond the edge that are clipped without a word
_MISREAD = 0.25  # share of impossible boxes from which on the other way to write them is tried
_FITTING = 0.99  # share of boxes that the other way must make possible


def check_objects(
    images: Sequence[AnnotatedImage], sizes: Sequence[Size | None], box_format: BoxFormat
) -> list[Problem]:
    """All problems of boxes and masks; of labels the readers tell.

    Args:
        images: Photos and their objects.
        sizes: Width and height of each upright photo, where known.
        box_format: How the source writes boxes.
    """
    pairs = [*zip(images, sizes, strict=True)]
    objects = [(image, size, one) for image, size in pairs for one in image.annotations]
    if not objects:
        return []
    owners = np.repeat(np.arange(len(images)), [len(image.annotations) for image in images])
    boxes = np.array([one.box for _, _, one in objects], dtype=np.float64)
    limits = np.array([size or (np.inf, np.inf) for size in sizes], dtype=np.float64)[owners]
    problems = [
        Problem(code, _tell_box(*objects[index]), objects[index][0].name)
        for code, faulty in _box_faults(boxes, limits, owners, images, box_format)
        for index in np.flatnonzero(faulty)
    ]
    for image, size, one in objects:
        mask = one.segmentation
        if isinstance(mask, RunLengths) and size is not None and mask.size[::-1] != size:
            where = f"{image.file}: {one.where}: {mask.size[1]} x {mask.size[0]} in a photo of "
            problems.append(Problem("mask-size", f"{where}{size[0]} x {size[1]}", image.name))
    return problems


def _tell_box(image: AnnotatedImage, size: Size | None, one: Annotation) -> str:
    edges = ", ".join(f"{edge:.10g}" for edge in one.box)
    extent = f" in a photo of {size[0]} x {size[1]}" if size else ""
    return f"{image.file}: {one.where}: x1, y1, x2, y2 = {edges}{extent}"


def _box_faults(
    boxes: np.ndarray,
    limits: np.ndarray,
    owners: np.ndarray,
    images: Sequence[AnnotatedImage],
    box_format: BoxFormat,
) -> Iterator[tuple[str, np.ndarray]]:
    """Code, and which of all boxes have this fault; none has two of them, but for tiny ones."""
    nan = ~np.isfinite(boxes).all(axis=1)
    boxes = np.where(nan[:, None], 0, boxes)
    left_over = ~nan
    yield "box-nan", nan
    for code, faulty in (
        ("box-relative", _are_relative(boxes, owners, len(images))),
        ("box-order", _are_misread(boxes, limits, owners, images, box_format)),
        ("box-inverted", (boxes[:, 2:] < boxes[:, :2]).any(axis=1)),
        ("box-empty", (boxes[:, 2:] == boxes[:, :2]).any(axis=1)),
        ("box-outside", ((boxes[:, :2] >= limits) | (boxes[:, 2:] <= 0)).any(axis=1)),
    ):
        yield code, faulty & left_over
        left_over &= ~faulty
    beyond = (boxes[:, 2:] > limits + _ROUNDING) | (boxes[:, :2] < -_ROUNDING)
    yield "box-clipped", beyond.any(axis=1) & left_over
    yield "box-tiny", ((boxes[:, 2:] - boxes[:, :2]) <= 1).any(axis=1) & left_over


def _are_relative(boxes: np.ndarray, owners: np.ndarray, count: int) -> np.ndarray:
    """Whether all boxes of a photo lie in 0..1, and some are fractional."""
    within = ((boxes >= 0) & (boxes <= 1)).all(axis=1)
    fractional = (boxes % 1 != 0).any(axis=1)
    strangers = np.bincount(owners, weights=~within, minlength=count)
    fractions = np.bincount(owners, weights=fractional, minlength=count)
    return ((strangers == 0) & (fractions > 0))[owners]


def _are_misread(
    boxes: np.ndarray,
    limits: np.ndarray,
    owners: np.ndarray,
    images: Sequence[AnnotatedImage],
    box_format: BoxFormat,
) -> np.ndarray:
    """All boxes of a split of which many are impossible, and nearly none read the other way."""
    corner, far = boxes[:, :2], boxes[:, 2:]
    other = np.hstack([corner, far - corner if box_format == "xywh" else far + corner])
    splits = np.array([str(image.split) for image in images])[owners]
    misread = np.zeros(len(boxes), dtype=bool)
    impossible, fitting = ~_is_possible(boxes, limits), _is_possible(other, limits)
    for split in np.unique(splits):
        mine = splits == split
        suspicious = impossible[mine].mean() >= _MISREAD
        misread |= mine & (suspicious and fitting[mine].mean() >= _FITTING)
    return misread


def _is_possible(boxes: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Whether a box has an area and lies within its photo."""
    inside = (boxes[:, :2] >= -_ROUNDING) & (boxes[:, 2:] <= limits + _ROUNDING)
    possible: np.ndarray = inside & (boxes[:, 2:] > boxes[:, :2])
    return np.all(possible, axis=1)


def clip(boxes: Sequence[Box], size: Size) -> np.ndarray:
    """Boxes ``(n, 4)`` float32 within ``[0, width] x [0, height]``."""
    edges = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return np.clip(edges, 0, [*size, *size]).astype(np.float32)
