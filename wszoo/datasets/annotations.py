"""Boxes as their source describes them, before anything is decided about them."""

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from wszoo.datasets.classification import SPLITS
from wszoo.datasets.detection_problems import Problem
from wszoo.datasets.instance_masks import Segmentation

Box = tuple[float, float, float, float]
BoxFormat = Literal["xyxy", "xywh"]
ClassId = int | str


@dataclass(kw_only=True, slots=True)
class Annotation:
    """One object.

    Attributes:
        where: Which one it is in its file, such as ``annotation 17``.
        box: Left, top, right and bottom edge in pixels.
        label: Counted from 1.
        ignored: Neither trained on nor counted for or against in evaluation.
        area: In pixels, if the source tells it.
        segmentation: Its mask, if the source has one.
    """

    where: str
    box: Box
    label: int
    ignored: bool = False
    area: float | None = None
    segmentation: Segmentation | None = None


@dataclass(kw_only=True, slots=True)
class AnnotatedImage:
    """One photo and its objects.

    Attributes:
        name: Path or ``archive:member``, also where it is missing.
        source: Path or encoded bytes; None where it is missing.
        file: Name of the file with its annotations.
        split: The split that lists it.
        size: Width and height in pixels, if its annotations tell them.
        annotations: Its objects, without those that cannot be told as a box with a label.
    """

    name: str
    source: Path | bytes | None
    file: str
    split: str | None
    size: tuple[int, int] | None = None
    annotations: list[Annotation] = field(default_factory=list)


@dataclass(kw_only=True)
class AnnotatedSet:
    """All that was found.

    Attributes:
        classes: Names; label k is ``classes[k - 1]``.
        class_ids: What the source calls them.
        images: Of all splits that were asked for.
        box_format: How the source writes boxes.
        problems: What is wrong with the files themselves.
    """

    classes: tuple[str, ...]
    class_ids: tuple[ClassId, ...]
    box_format: BoxFormat
    images: list[AnnotatedImage] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def report(self, code: str, where: str, image: str | None = None) -> None:
        """Note a problem."""
        self.problems.append(Problem(code, where, image))


class Layout(Protocol):
    """Annotation files of one format, found but not read yet."""

    @property
    def splits(self) -> tuple[str | None, ...]:
        """What may be asked for; None alone where there are no splits."""

    def parse(
        self, splits: Sequence[str | None], classes: Sequence[str] | None = None
    ) -> AnnotatedSet:
        """Read some splits.

        Args:
            splits: Some of ``splits``.
            classes: Names in the order of their labels; those of the source by default.
        """


def split_of(key: str) -> str | None:
    """The split that a path names: by its file name, or else by the nearest folder.

    >>> split_of("annotations/instances_val2017.json"), split_of("valid/_annotations.coco.json")
    ('val', 'val')
    """
    folder, name = posixpath.split(key)
    for part in (posixpath.splitext(name)[0], *reversed(folder.split("/"))):
        words = set(re.findall("[a-z]+", part.lower()))
        for split, names in SPLITS.items():
            if words.intersection(names):
                return split
    return None


def in_order(splits: Iterable[str | None]) -> tuple[str | None, ...]:
    """Train, val and test; None last."""
    order = [*SPLITS, None]
    return tuple(sorted(set(splits), key=order.index))
