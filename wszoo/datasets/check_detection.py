"""All defects of a detection set: its files, its photos, its objects, its splits."""

import hashlib
import posixpath
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from wszoo.datasets.annotations import AnnotatedImage, AnnotatedSet
from wszoo.datasets.box_checks import check_objects
from wszoo.datasets.detection import read_annotations, require_local
from wszoo.datasets.detection_photos import Progress, check_photos
from wszoo.datasets.detection_problems import Problem, to_findings
from wszoo.datasets.findings import Finding

MANY_OBJECTS = 1000


def inspect_detection(
    path: Path | str,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    progress: Progress = iter,
) -> list[Finding]:
    """All that is wrong with a set, errors first; every photo is decoded.

    Args:
        path: As in ``read_detection``.
        split: The one split to look at; all of them by default.
        classes: Names in the order of their labels; those of the set by default.
        progress: Wraps the photos, as ``tqdm`` does.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: There are no annotations.
    """
    require_local(path)
    found, problems = read_annotations(Path(path), split, classes=classes, all_splits=True)
    sizes, broken = check_photos(found.images, progress)
    problems += [
        *broken,
        *check_objects(found.images, sizes, found.box_format),
        *_check_counts(found.images, {problem.image for problem in problems}),
        *_check_masks(found.images),
        *_check_classes(found),
        *_check_splits(found.images),
    ]
    return to_findings(problems)


def _check_counts(
    images: Sequence[AnnotatedImage], faulty: Collection[str | None]
) -> Iterator[Problem]:
    """Photos with too many objects or none; those that lost theirs to a fault are not meant."""
    filled = {image.split for image in images if image.annotations}
    for split in dict.fromkeys(image.split for image in images):
        if split not in filled:
            count = sum(image.split == split for image in images)
            where = f"{split or 'the set'}: none of its {count} images has an object"
            yield Problem("objects-none", where)
    for image in images:
        count = len(image.annotations)
        if count > MANY_OBJECTS:
            yield Problem("objects-many", f"{image.name}: {count} objects", image.name)
        if not count and image.split in filled and image.name not in faulty:
            yield Problem("image-background", f"{image.name}: no objects", image.name)


def _check_masks(images: Sequence[AnnotatedImage]) -> Iterator[Problem]:
    """Objects without a mask, if others have one."""
    objects = [(image, one) for image in images for one in image.annotations]
    if any(one.segmentation is not None for _, one in objects):
        for image, one in objects:
            if one.segmentation is None:
                yield Problem("mask-missing", f"{image.file}: {one.where}: no mask", image.name)


def _check_classes(found: AnnotatedSet) -> Iterator[Problem]:
    spellings = defaultdict(list)
    for name in found.classes:
        spellings["".join(name.split()).casefold()].append(name)
    for alike in spellings.values():
        if len(alike) > 1:
            yield Problem("class-spelling", " and ".join(map(repr, alike)))
    counts = Counter(
        (image.split, one.label)
        for image in found.images
        for one in image.annotations
        if not one.ignored
    )
    labels = {label for _, label in counts}
    if not labels:
        return
    splits = {image.split for image in found.images}
    for label, name in enumerate(found.classes, start=1):
        if label not in labels:
            yield Problem("class-absent", f"{name}: no objects in {_listed(splits)}")
        elif "train" in splits and not counts["train", label]:
            count = sum(counts[split, label] for split in splits)
            yield Problem("class-untrained", f"{name}: {count} objects, none of them in train")


def _listed(splits: Iterable[str | None]) -> str:
    return ", ".join(sorted(filter(None, splits))) or "the set"


def _check_splits(images: Sequence[AnnotatedImage]) -> Iterator[Problem]:
    """Photos that several splits list, or hold as copies."""
    listed: defaultdict[str, set[str | None]] = defaultdict(set)
    for image in images:
        listed[image.name].add(image.split)
    for name, splits in listed.items():
        if len(splits) > 1:
            yield Problem("split-overlap", f"{name}: in {_listed(splits)}", name)
    copies: defaultdict[bytes, list[AnnotatedImage]] = defaultdict(list)
    for image in _of_equal_size({image.name: image for image in images}.values()):
        assert image.source is not None
        copies[_digest(image.source)].append(image)
    for group in copies.values():
        if len({image.split for image in group}) > 1:
            first, *others = sorted(group, key=lambda image: str(image.split))
            for other in others:
                if other.split != first.split:
                    where = f"{other.name} ({other.split}) = {_short(first)} ({first.split})"
                    yield Problem("split-identical", where, other.name)


def _short(image: AnnotatedImage) -> str:
    return posixpath.basename(image.name)


def _of_equal_size(images: Iterable[AnnotatedImage]) -> Iterator[AnnotatedImage]:
    """Photos whose file is as large as that of another one; of no other can there be a copy."""
    by_size: defaultdict[int, list[AnnotatedImage]] = defaultdict(list)
    for image in images:
        if image.source is not None:
            source = image.source
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            by_size[size].append(image)
    for size, group in by_size.items():
        if size and len({image.split for image in group}) > 1:
            yield from group


def _digest(source: Path | bytes) -> bytes:
    data = source if isinstance(source, bytes) else source.read_bytes()
    return hashlib.sha256(data).digest()
