"""Pascal VOC annotations: one xml file per photo, and lists of the photos of each split."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from wszoo.datasets.annotation_values import as_size
from wszoo.datasets.annotations import (
    AnnotatedImage,
    AnnotatedSet,
    Annotation,
    Box,
    in_order,
    split_of,
)
from wszoo.datasets.classification import IMAGE_SUFFIXES
from wszoo.datasets.file_tree import FileTree

_LIST = re.compile(r"(.*?)ImageSets/Main/(train|val|test)\.txt")
_EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(kw_only=True)
class _Sample:
    """A photo that a set lists or annotates; either file may be missing."""

    split: str | None
    image: str
    xml: str


@dataclass(kw_only=True)
class _Object:
    where: str
    name: str
    box: Box
    difficult: bool


@dataclass(kw_only=True)
class _Content:
    """What an xml file says; each problem as its code and what is wrong."""

    file_name: str = ""
    size: tuple[int, int] | None = None
    objects: list[_Object] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


class VocFiles:
    """Annotations as in VOC's ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``.

    Without lists, the splits are folders (``train``, ``valid``, ``test``), or there are none; the
    xml files lie in ``Annotations`` or beside the photos. Classes are those of all splits, in
    sorted order. Edges are taken as they are written: VOC's own count pixels from 1 and include the
    last one, most labelling tools do not, and nothing in the file tells.
    """

    def __init__(self, tree: FileTree, xmls: Sequence[str]) -> None:
        self._tree = tree
        self._contents: dict[str, _Content] = {}
        self._images: defaultdict[str, list[str]] = defaultdict(list)  # by path without suffix
        for key in tree.with_suffix(*IMAGE_SUFFIXES):
            self._images[posixpath.splitext(key)[0]].append(key)
        self._repeated: list[tuple[str | None, str]] = []
        lists = [match for key in tree.files if (match := _LIST.fullmatch(key))]
        listed = [sample for match in lists for sample in self._listed(match)]
        self._has_lists = bool(lists)
        self._samples = (
            listed if lists else [self._of_xml(key, _split_of_folder(key)) for key in xmls]
        )

    @classmethod
    def find(cls, tree: FileTree) -> "VocFiles | None":
        """Those of ``tree``, if it has any."""
        xmls = tree.with_suffix(".xml")
        return cls(tree, xmls) if xmls else None

    @property
    def splits(self) -> tuple[str | None, ...]:
        if self._has_lists:
            lists = (match for key in self._tree.files if (match := _LIST.fullmatch(key)))
            return in_order(match[2] for match in lists)
        return in_order(sample.split for sample in self._samples)

    def parse(
        self, splits: Sequence[str | None], classes: Sequence[str] | None = None
    ) -> AnnotatedSet:
        """Read the files of all splits for their classes, and keep some splits."""
        chosen = [sample for sample in self._samples if sample.split in splits]
        if classes is None:
            objects = (o for sample in self._samples for o in self._content(sample.xml).objects)
            classes = sorted({one.name for one in objects})
        found = AnnotatedSet(classes=tuple(classes), class_ids=tuple(classes), box_format="xyxy")
        for sample in chosen:
            self._add(sample, found)
        for split, where in self._repeated:
            if split in splits:
                found.report("image-relisted", where)
        if not self._has_lists:
            self._report_unlabelled(found)
        return found

    def _listed(self, match: re.Match[str]) -> Iterator[_Sample]:
        """The photos of one list."""
        base, split = match[1], match[2]
        seen = set()
        lines = self._tree.read(match[0]).decode("utf-8-sig", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            stem = line.strip()
            if f"{base}Annotations/{stem}.xml" not in self._tree.files:
                stem = stem.split()[0] if stem else ""  # a flag may follow
            if stem in seen:
                where = f"{self._tree.name(match[0])}:{number}: {stem} is listed before"
                self._repeated.append((split, where))
            elif stem:
                seen.add(stem)
                yield self._of_xml(f"{base}Annotations/{stem}.xml", split)

    def _of_xml(self, xml: str, split: str | None) -> _Sample:
        """An xml file and its photo: of the same name, or else of the name that it gives."""
        stem = posixpath.splitext(xml)[0]
        folder, name = posixpath.split(stem)
        above = posixpath.dirname(folder)
        folders = [folder, *(posixpath.join(above, word) for word in ("JPEGImages", "images"))]
        told = posixpath.basename(self._content(xml).file_name.replace("\\", "/"))
        for place in folders:
            if keys := self._images.get(posixpath.join(place, name)):
                return _Sample(split=split, image=keys[0], xml=xml)
        for place in folders:
            if told and posixpath.join(place, told) in self._tree.files:
                return _Sample(split=split, image=posixpath.join(place, told), xml=xml)
        in_voc = posixpath.basename(folder) == "Annotations"
        missing = posixpath.join(folders[1] if in_voc else folder, told or f"{name}.jpg")
        return _Sample(split=split, image=missing, xml=xml)

    def _content(self, xml: str) -> _Content:
        if xml not in self._contents:
            there = xml in self._tree.files
            self._contents[xml] = _parse(self._tree, xml) if there else _Content()
        return self._contents[xml]

    def _add(self, sample: _Sample, found: AnnotatedSet) -> None:
        name, file = self._tree.name(sample.image), self._tree.name(sample.xml)
        content = self._content(sample.xml)
        image = AnnotatedImage(
            name=name,
            source=self._tree.files.get(sample.image),
            file=file,
            split=sample.split,
            size=content.size,
        )
        found.images.append(image)
        if image.source is None:
            found.report("image-missing", f"{name}: no such photo, {file} is for it", name)
        if sample.xml not in self._tree.files:
            found.report("annotation-missing", f"{file}: no such file, {name} is listed", name)
        for code, reason in content.problems:
            found.report(code, f"{file}{reason}", name)
        for one in content.objects:
            if one.name not in found.classes:
                where = f"{file}: {one.where}: the class {one.name!r}"
                found.report("label-unknown", where, name)
                continue
            image.annotations.append(
                Annotation(
                    where=one.where,
                    box=one.box,
                    label=found.classes.index(one.name) + 1,
                    ignored=one.difficult,
                )
            )

    def _report_unlabelled(self, found: AnnotatedSet) -> None:
        """Note photos without an xml file in the folders of those that have one."""
        annotated = {sample.image for sample in self._samples}
        folders = {posixpath.dirname(key) for key in annotated}
        for key in (key for keys in self._images.values() for key in keys):
            if key not in annotated and posixpath.dirname(key) in folders:
                found.report("image-unlabelled", f"{self._tree.name(key)}: no xml file is for it")


def _split_of_folder(key: str) -> str | None:
    return split_of(posixpath.dirname(key) + "/")


def _parse(tree: FileTree, key: str) -> _Content:
    content = _Content()
    try:
        root = ElementTree.fromstring(tree.read(key))
    except ElementTree.ParseError as error:
        line, column = error.position
        reason = str(error).partition(": line")[0]
        content.problems.append(("file-unreadable", f":{line}:{column + 1}: {reason}"))
        return content
    except (ValueError, LookupError, OSError) as error:  # such as an unknown encoding
        content.problems.append(("file-unreadable", f": {error}"))
        return content
    if root.tag != "annotation":
        reason = f": its root is <{root.tag}>, VOC's is <annotation>"
        content.problems.append(("file-unreadable", reason))
        return content
    content.file_name = (root.findtext("filename") or "").strip()
    content.size = as_size(_number(root, "size/width"), _number(root, "size/height"))
    for number, element in enumerate(root.findall("object"), start=1):
        _parse_object(element, number, content)
    return content


def _parse_object(element: Element, number: int, content: _Content) -> None:
    name = (element.findtext("name") or "").strip()
    where = f"object {number}" + (f" ({name})" if name else "")
    if not name:
        content.problems.append(("label-unknown", f": {where}: it has no <name>"))
        return
    edges = [_number(element, f"bndbox/{edge}") for edge in _EDGES]
    left, top, right, bottom = edges
    if left is None or top is None or right is None or bottom is None:
        told = ", ".join(f"{edge} {element.findtext(f'bndbox/{edge}')!r}" for edge in _EDGES)
        content.problems.append(("box-malformed", f": {where}: {told}"))
        return
    difficult = _number(element, "difficult")
    content.objects.append(
        _Object(where=where, name=name, box=(left, top, right, bottom), difficult=bool(difficult))
    )


def _number(element: Element, path: str) -> float | None:
    try:
        return float(element.findtext(path) or "")
    except ValueError:
        return None
