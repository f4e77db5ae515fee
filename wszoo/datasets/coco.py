"""COCO annotation files: which ones a set has, and what they say."""

import json
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from wszoo.datasets.annotation_values import as_floats, as_size
from wszoo.datasets.annotations import (
    AnnotatedImage,
    AnnotatedSet,
    Annotation,
    ClassId,
    in_order,
    split_of,
)
from wszoo.datasets.classification import IMAGE_SUFFIXES
from wszoo.datasets.file_tree import FileTree
from wszoo.datasets.instance_masks import parse_segmentation
from wszoo.datasets.photo_finder import PhotoFinder


class CocoFiles:
    """Annotation files of a set by split, such as ``annotations/instances_val2017.json``.

    The split is told by the name of the file or of its folder. Where there are files named
    ``instances_*.json``, those beside them (captions, keypoints) are left alone.
    """

    def __init__(self, tree: FileTree, keys: Sequence[str]) -> None:
        self._tree = tree
        self._keys: defaultdict[str | None, list[str]] = defaultdict(list)
        for key in keys:
            self._keys[split_of(key)].append(key)

    @classmethod
    def find(cls, tree: FileTree) -> "CocoFiles | None":
        """Those of ``tree``, if it has any."""
        keys = tree.with_suffix(".json")
        named = [key for key in keys if posixpath.basename(key).startswith("instances_")]
        keys = named or [key for key in keys if _is_coco(tree, key)]
        return cls(tree, keys) if keys else None

    @property
    def splits(self) -> tuple[str | None, ...]:
        named = [split for split in self._keys if split is not None]
        return in_order(named) if named else (None,)

    def parse(
        self, splits: Sequence[str | None], classes: Sequence[str] | None = None
    ) -> AnnotatedSet:
        """Read the files of some splits; the first one tells the classes."""
        found = AnnotatedSet(classes=tuple(classes or ()), class_ids=(), box_format="xywh")
        photos = PhotoFinder(self._tree)
        for split in splits:
            key, *others = self._keys[split]
            name = self._tree.name(key)
            for other in others:
                where = f"{self._tree.name(other)}: not read, since {name} is of the same split"
                found.report("file-ambiguous", where)
            content = _read(self._tree, key, found)
            if content is not None:
                file = _CocoFile(key, name, split, content, photos)
                file.add_to(found)
                if classes is None:
                    file.report_other_classes(found)
        if None not in splits:
            for key in self._keys.get(None, ()):
                found.report("file-unused", f"{self._tree.name(key)}: no train, val or test in it")
        photos.report_unlisted(found)
        return found


def _is_coco(tree: FileTree, key: str) -> bool:
    """By its content, or if that may be lost by its name; labels of one photo alone are not."""
    stem = posixpath.splitext(key)[0]
    if any(stem + suffix in tree.files for suffix in IMAGE_SUFFIXES):
        return False
    if key.endswith("_annotations.coco.json"):
        return True
    content = tree.read(key)
    return b'"annotations"' in content and b'"images"' in content


def _read(tree: FileTree, key: str, found: AnnotatedSet) -> dict[str, Any] | None:
    """What a file holds, if it is what it should be."""
    name = tree.name(key)
    try:
        content = json.loads(tree.read(key).decode("utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, COCO's holds an object")
        for part in ("images", "annotations", "categories"):
            if not isinstance(content.get(part), list):
                raise ValueError(f"it has no list {part!r}")
    except json.JSONDecodeError as error:
        found.report("file-unreadable", f"{name}:{error.lineno}:{error.colno}: {error.msg}")
    except (ValueError, OSError) as error:
        found.report("file-unreadable", f"{name}: {error}")
    except RecursionError:
        found.report("file-unreadable", f"{name}: it is nested too deeply")
    else:
        return content
    return None


class _CocoFile:
    """One annotation file; ``add_to`` carries it over into a set."""

    def __init__(
        self, key: str, name: str, split: str | None, content: dict[str, Any], photos: PhotoFinder
    ) -> None:
        self.folder, self.name, self.split = posixpath.dirname(key), name, split
        self.content, self.photos = content, photos
        self.names: dict[ClassId, str] = {}  # of categories
        self.labels: dict[ClassId, int | str] = {}  # their names where the set has no such class
        self.images: dict[ClassId, AnnotatedImage] = {}

    def add_to(self, found: AnnotatedSet) -> None:
        self._add_categories(found)
        self._add_images(found)
        self._add_annotations(found)

    def _entries(self, part: str, found: AnnotatedSet) -> Iterator[tuple[ClassId, dict[str, Any]]]:
        """Id and fields of each entry that has an id; ids that are strings are noted."""
        strings = 0
        for number, entry in enumerate(self.content[part], start=1):
            is_object = isinstance(entry, dict)
            key = _as_id(entry.get("id")) if is_object else None
            if key is None and part == "annotations" and is_object and "id" not in entry:
                key = f"number {number}"  # their ids are needed for nothing
            elif key is None:
                told = f"id {entry.get('id')!r}" if is_object else repr(entry)[:40]
                found.report("entry-malformed", f"{self.name}: {part}, entry {number}: {told}")
                continue
            elif isinstance(key, str):
                strings += 1
            yield key, entry
        if strings:
            found.report("ids-strings", f"{self.name}: {strings} ids of {part}")

    def _add_categories(self, found: AnnotatedSet) -> None:
        """Set ``names`` and ``labels``; the classes of the set too, if they are not told yet."""
        names = self.names
        for key, entry in self._entries("categories", found):
            name = entry.get("name")
            if not isinstance(name, str) or not name.strip():
                found.report("entry-malformed", f"{self.name}: category {key!r}: name {name!r}")
            elif key in names:
                where = f"{self.name}: id {key!r} is {names[key]!r} and {name!r}"
                found.report("category-repeated", where)
            elif name in names.values():
                found.report("category-repeated", f"{self.name}: {name!r} is id {key!r}, too")
            else:
                names[key] = name
        order = sorted(names, key=lambda key: (isinstance(key, str), key))
        numbers = [key for key in order if isinstance(key, int)]
        if numbers and numbers[-1] - numbers[0] >= len(numbers):
            where = f"{self.name}: {len(numbers)} ids in {numbers[0]}..{numbers[-1]}"
            found.report("ids-gaps", where)
        if not found.classes:
            found.classes = tuple(names[key] for key in order)
        if not found.class_ids:
            id_of = {name: key for key, name in names.items()}
            found.class_ids = tuple(id_of.get(name, name) for name in found.classes)
        label_of = {name: label for label, name in enumerate(found.classes, start=1)}
        self.labels = {key: label_of.get(name, name) for key, name in names.items()}

    def report_other_classes(self, found: AnnotatedSet) -> None:
        """Note classes that are not those of the set."""
        ours, theirs = set(self.names.values()), set(found.classes)
        if ours != theirs:
            only = ", ".join(sorted(ours - theirs)) or "none"
            without = ", ".join(sorted(theirs - ours)) or "none"
            where = f"{self.name}: classes only here: {only}; missing here: {without}"
            found.report("classes-differ", where)

    def _add_images(self, found: AnnotatedSet) -> None:
        seen: dict[str, AnnotatedImage] = {}
        for key, entry in self._entries("images", found):
            file_name = entry.get("file_name")
            if not isinstance(file_name, str) or not file_name:
                where = f"{self.name}: image {key!r}: file_name {file_name!r}"
                found.report("entry-malformed", where)
                continue
            image = self._image(file_name, entry, found)
            if key in self.images:
                where = f"{self.name}: id {key!r} is {self.images[key].name} and {image.name}"
                found.report("image-id-repeated", where)  # whose objects these are is not known
            elif image.name in seen:
                where = f"{self.name}: {image.name} is listed again as id {key!r}"
                found.report("image-repeated", where, image.name)
                self.images[key] = seen[image.name]
            else:
                self.images[key] = seen[image.name] = image
                found.images.append(image)

    def _image(self, file_name: str, entry: dict[str, Any], found: AnnotatedSet) -> AnnotatedImage:
        tree = self.photos.tree
        places = self.photos.find(file_name, self.folder, self.split)
        name = tree.name(places[0] if places else posixpath.join(self.folder, file_name))
        if not places:
            found.report("image-missing", f"{name}: no such photo, {self.name} lists it", name)
        elif len(places) > 1:
            listed = ", ".join(tree.name(place) for place in places)
            found.report("image-ambiguous", f"{self.name}: {file_name} may be {listed}", name)
        self.photos.used.update(places)
        return AnnotatedImage(
            name=name,
            source=tree.files[places[0]] if places else None,
            file=self.name,
            split=self.split,
            size=as_size(entry.get("width"), entry.get("height")),
        )

    def _add_annotations(self, found: AnnotatedSet) -> None:
        times: Counter[ClassId] = Counter()
        for key, entry in self._entries("annotations", found):
            times[key] += 1
            owner = _as_id(entry.get("image_id"))
            image = self.images.get(owner) if owner is not None else None
            if image is None:
                where = f"{self.name}: annotation {key}: image_id {entry.get('image_id')!r}"
                found.report("annotation-orphan", where + self._hint(owner))
            else:
                self._add_annotation(key, entry, image, found)
        for key in (key for key, count in times.items() if count > 1):
            found.report("annotation-id-repeated", f"{self.name}: id {key!r}, {times[key]} times")

    def _hint(self, owner: ClassId | None) -> str:
        if isinstance(owner, str) and owner.isdecimal() and int(owner) in self.images:
            return ", a string, but that image has a number"
        return ", a number, but that image has a string" if str(owner) in self.images else ""

    def _add_annotation(
        self, key: ClassId, entry: dict[str, Any], image: AnnotatedImage, found: AnnotatedSet
    ) -> None:
        """Add an object if it has a box and a class; report what is wrong."""
        which = f"annotation {key} of {posixpath.basename(image.name)}"
        category = _as_id(entry.get("category_id"))
        label = self.labels.get(category) if category is not None else None
        if not isinstance(label, int):
            told = repr(entry.get("category_id")) + (f" ({label})" if label else "")
            where = f"{self.name}: {which}: category_id {told}"
            found.report("label-unknown", where, image.name)
        box = as_floats(entry.get("bbox"), 4)
        if box is None:
            where = f"{self.name}: {which}: bbox {str(entry.get('bbox'))[:60]}"
            found.report("box-malformed", where, image.name)
        segmentation = None
        try:
            segmentation = parse_segmentation(entry.get("segmentation"))
        except ValueError as error:
            is_rle = isinstance(entry.get("segmentation"), dict)
            code = "rle-malformed" if is_rle else "polygon-malformed"
            found.report(code, f"{self.name}: {which}: {error}", image.name)
        if not isinstance(label, int) or box is None:
            return
        left, top, width, height = box
        area = as_floats([entry.get("area")], 1)
        image.annotations.append(
            Annotation(
                where=which,
                box=(left, top, left + width, top + height),
                label=label,
                ignored=entry.get("iscrowd") in (1, "1"),
                area=area[0] if area else None,
                segmentation=segmentation,
            )
        )


def _as_id(value: Any) -> ClassId | None:
    """A whole number or a string; None for all else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None
