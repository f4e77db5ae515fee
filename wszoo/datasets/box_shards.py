"""Photos with boxes as webdataset names them: ``<key>.jpg`` and ``<key>.json`` side by side."""

import json
import posixpath
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from wszoo.datasets.annotation_values import as_floats, as_size
from wszoo.datasets.annotations import (
    AnnotatedImage,
    AnnotatedSet,
    Annotation,
    in_order,
    split_of,
)
from wszoo.datasets.class_names import find_class_names
from wszoo.datasets.classification import IMAGE_SUFFIXES
from wszoo.datasets.file_tree import FileTree
from wszoo.datasets.instance_masks import parse_segmentation
from wszoo.datasets.listing import ListedFile

_PER_OBJECT = ("labels", "iscrowd", "area", "segmentations")


class BoxShards:
    """Samples in tar shards, or unpacked.

    The json of each holds ``boxes`` (x1, y1, x2, y2 in pixels of the upright photo) and ``labels``
    (counted from 1, or names of classes), and may hold ``iscrowd``, ``area``, ``segmentations`` (as
    COCO's) and ``width`` and ``height``. Names of classes are those of a ``classes.txt`` or the
    like, or the labels in sorted order, or the numbers up to the highest one. The split is told by
    the name of the shard or of its folder.
    """

    def __init__(self, tree: FileTree, samples: dict[str, str]) -> None:
        self._tree = tree
        self._samples = samples  # path of the json -> path of the photo
        self._splits = {key: split_of(posixpath.dirname(key) + "/") for key in samples}
        self._contents: dict[str, dict[str, Any] | str] = {}

    @classmethod
    def find(cls, tree: FileTree) -> "BoxShards | None":
        """Those of ``tree``, if it has any."""
        images = {posixpath.splitext(key)[0]: key for key in tree.with_suffix(*IMAGE_SUFFIXES)}
        pairs = {key: images.get(posixpath.splitext(key)[0]) for key in tree.with_suffix(".json")}
        samples = {key: image for key, image in pairs.items() if image is not None}
        if any(b'"boxes"' in tree.read(key) for key in samples):
            return cls(tree, samples)
        return None

    @property
    def splits(self) -> tuple[str | None, ...]:
        return in_order(self._splits.values())

    def parse(
        self, splits: Sequence[str | None], classes: Sequence[str] | None = None
    ) -> AnnotatedSet:
        """Read all samples for their classes, and keep those of some splits."""
        names = tuple(classes or self._class_names())
        found = AnnotatedSet(classes=names, class_ids=names, box_format="xyxy")
        for key, photo in self._samples.items():
            if self._splits[key] in splits:
                self._add(key, photo, found)
        annotated, folders = set(self._samples.values()), {*map(posixpath.dirname, self._samples)}
        for key in self._tree.with_suffix(*IMAGE_SUFFIXES):
            if key not in annotated and posixpath.dirname(key) in folders:
                where = f"{self._tree.name(key)}: no json file is beside it"
                found.report("image-unlabelled", where)
        return found

    def _class_names(self) -> tuple[str, ...]:
        listed = find_class_names(
            ListedFile(name=self._tree.name(key), place=PurePosixPath(key), kept=source)
            for key, source in self._tree.files.items()
            if key not in self._samples
        )
        if listed is not None:
            return listed
        labels: set[Any] = set()
        for key in self._samples:
            content = self._content(key)
            told = () if isinstance(content, str) else content.get("labels")
            if isinstance(told, list):
                labels.update(label for label in told if type(label) in (int, str))
        names = {label for label in labels if isinstance(label, str)}
        highest = max((label for label in labels if isinstance(label, int)), default=0)
        return tuple(sorted(names)) if names else tuple(map(str, range(1, highest + 1)))

    def _content(self, key: str) -> dict[str, Any] | str:
        """What a json file holds, or why it cannot be read."""
        if key not in self._contents:
            try:
                content = json.loads(self._tree.read(key).decode("utf-8-sig"))
                self._contents[key] = content if isinstance(content, dict) else {}
            except json.JSONDecodeError as error:
                self._contents[key] = f":{error.lineno}:{error.colno}: {error.msg}"
            except (ValueError, OSError, RecursionError) as error:
                self._contents[key] = f": {error}"
        return self._contents[key]

    def _add(self, key: str, photo: str, found: AnnotatedSet) -> None:
        name, file, content = self._tree.name(photo), self._tree.name(key), self._content(key)
        image = AnnotatedImage(
            name=name, source=self._tree.files[photo], file=file, split=self._splits[key]
        )
        found.images.append(image)
        if isinstance(content, str):
            found.report("file-unreadable", f"{file}{content}", name)
            return
        boxes = content.get("boxes")
        if not isinstance(boxes, list) or not isinstance(content.get("labels"), list):
            found.report("entry-malformed", f"{file}: it lacks a list of boxes or labels", name)
            return
        image.size = as_size(content.get("width"), content.get("height"))
        fields = {field: content[field] for field in _PER_OBJECT if content.get(field) is not None}
        for field, values in fields.items():
            if not isinstance(values, list) or len(values) != len(boxes):
                told = len(values) if isinstance(values, list) else repr(values)
                where = f"{file}: {len(boxes)} boxes, but {field}: {told}"
                found.report("entry-malformed", where, name)
                return
        for number, box in enumerate(boxes):
            values = {field: column[number] for field, column in fields.items()}
            _add_object(image, f"object {number + 1}", box, values, found)


def _add_object(
    image: AnnotatedImage, where: str, box: Any, values: dict[str, Any], found: AnnotatedSet
) -> None:
    """Add an object if it has a box and a class; report what is wrong."""
    edges = as_floats(box, 4)
    if edges is None:
        told = f"{image.file}: {where}: {str(box)[:60]}"
        found.report("box-malformed", told, image.name)
    label = values["labels"]
    if isinstance(label, str) and label in found.classes:
        label = found.classes.index(label) + 1
    if type(label) is not int or not 1 <= label <= len(found.classes):
        told = f"{image.file}: {where}: label {label!r}, of {len(found.classes)} classes"
        found.report("label-unknown", told, image.name)
        return
    segmentation, area = None, as_floats([values.get("area")], 1)
    try:
        segmentation = parse_segmentation(values.get("segmentations"))
    except ValueError as error:
        is_rle = isinstance(values["segmentations"], dict)
        code = "rle-malformed" if is_rle else "polygon-malformed"
        found.report(code, f"{image.file}: {where}: {error}", image.name)
    if edges is not None:
        left, top, right, bottom = edges
        image.annotations.append(
            Annotation(
                where=where,
                box=(left, top, right, bottom),
                label=label,
                ignored=values.get("iscrowd") in (1, "1"),
                area=area[0] if area else None,
                segmentation=segmentation,
            )
        )
