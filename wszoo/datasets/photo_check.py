"""Defects of the photos of a set, whatever its task: broken, animated, small, doubled."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, TypeVar

from wszoo.datasets.classification import open_image
from wszoo.datasets.findings import SHOWN, Finding, Level
from wszoo.datasets.listing import ListedFile
from wszoo.datasets.masks import read_header

S = TypeVar("S")
T = TypeVar("T")
Progress = Callable[[Sequence[Any]], Iterable[Any]]

_AT_ONCE = 1024  # tasks in the pool, so that a stop by Ctrl-C does not wait for all
LEAVE_OUT = "mend or remove them, or leave them out with --quarantine"


@dataclass(frozen=True, kw_only=True)
class PhotoFacts:
    """What decoding a photo has shown.

    Attributes:
        size: Width and height of the upright photo in pixels; None where it cannot be decoded.
        animated: Whether it has several frames.
        digest: Of its bytes; None where no other file is of the same size.
        defect: Why it cannot be decoded.
    """

    size: tuple[int, int] | None
    animated: bool = False
    digest: bytes | None = None
    defect: str | None = None


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A photo as far as copies of it matter.

    Attributes:
        name: As the readers have it.
        split: The split that it lies in.
        label: What it is taught as; compared, never parsed.
    """

    name: str
    split: str
    label: str


def examine_photos(files: Sequence[ListedFile], progress: Progress = iter) -> list[PhotoFacts]:
    """Decode every photo, and take the digest of those that could be copies of one another.

    Args:
        files: The photos.
        progress: Wraps them, as ``tqdm`` does.
    """
    sizes = Counter(file.size for file in files)
    return run_in_pool(lambda file: _examine(file, sizes[file.size] > 1), files, progress)


def run_in_pool(work: Callable[[S], T], items: Sequence[S], progress: Progress) -> list[T]:
    """``work`` of every item, in order; Pillow decodes outside the interpreter lock."""
    left = iter(progress(items))
    done: list[T] = []
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(left, _AT_ONCE)):
            done += pool.map(work, chunk)
    return done


def _examine(file: ListedFile, hashed: bool) -> PhotoFacts:
    try:
        data = file.read()
    except OSError as error:
        return PhotoFacts(size=None, defect=error.strerror or str(error))
    digest = hashlib.sha256(data).digest() if hashed else None
    try:
        size = open_image(data, file.name).size
    except ValueError as error:
        reason = str(error).removeprefix(f"cannot decode {file.name}: ").partition("; ")[0]
        return PhotoFacts(size=None, digest=digest, defect=reason)
    return PhotoFacts(size=size, digest=digest, animated=read_header(data).animated)


def make_finding(
    code: str, level: Level, message: str, fix: str, places: Mapping[str, str]
) -> Iterator[Finding]:
    """A finding of all ``places``, by image the line that tells of it; none if there are none."""
    if places:
        yield Finding(
            code=code,
            level=level,
            message=message,
            fix=fix,
            count=len(places),
            examples=tuple(places.values())[:SHOWN],
            images=tuple(places),
        )


def photo_findings(
    names: Sequence[str], facts: Sequence[PhotoFacts], input_size: int | None
) -> Iterator[Finding]:
    """Findings of each photo on its own.

    Args:
        names: Of the photos.
        facts: Of the photos, in the same order.
        input_size: Side in pixels of what the net will see; None where that is not known.
    """
    pairs = [*zip(names, facts, strict=True)]
    yield from make_finding(
        "image-broken",
        "error",
        "images that cannot be decoded",
        LEAVE_OUT,
        {name: f"{name}: {fact.defect}" for name, fact in pairs if fact.defect is not None},
    )
    yield from make_finding(
        "image-animated",
        "warning",
        "images of several frames, of which only the first is seen",
        "save the frame that is meant as an image of its own",
        {name: name for name, fact in pairs if fact.animated},
    )
    if input_size is not None:
        yield from make_finding(
            "image-small",
            "note",
            f"images with a side under half of the {input_size} pixels that the net sees",
            "train on smaller inputs, or expect blurred ones",
            {
                name: f"{name}: {fact.size[0]} x {fact.size[1]}"
                for name, fact in pairs
                if fact.size is not None and min(fact.size) < input_size / 2
            },
        )


def copy_findings(
    photos: Sequence[Labelled], facts: Sequence[PhotoFacts], *, show_labels: bool
) -> Iterator[Finding]:
    """Findings of byte-identical photos: other labels, other splits, or mere copies.

    Args:
        photos: Names, splits and labels.
        facts: Of the photos, in the same order.
        show_labels: Whether a person would know the labels.
    """
    groups: defaultdict[bytes, list[Labelled]] = defaultdict(list)
    for photo, fact in zip(photos, facts, strict=True):
        if fact.digest is not None and fact.defect is None:
            groups[fact.digest].append(photo)
    copies = [group for group in groups.values() if len(group) > 1]
    conflicts = [group for group in copies if len({photo.label for photo in group}) > 1]
    agreeing = [group for group in copies if len({photo.label for photo in group}) == 1]
    leaks = [group for group in agreeing if len({photo.split for photo in group}) > 1]
    repeats = [group for group in agreeing if len({photo.split for photo in group}) == 1]
    across = sum(len({photo.split for photo in group}) > 1 for group in conflicts)
    yield from _group_finding(
        "copy-conflict",
        "warning",
        f"byte-identical images with different labels ({across} of them across splits)",
        "keep the right one of each and remove the others",
        conflicts,
        show_labels,
    )
    yield from _group_finding(
        "split-identical",
        "warning",
        "byte-identical images in several splits",
        "remove them from the splits that measure: what was trained on measures nothing",
        leaks,
        show_labels,
    )
    yield from _group_finding(
        "copy",
        "note",
        "byte-identical images with the same label in one split",
        "remove the copies, unless they are to count more",
        repeats,
        show_labels,
    )


def _group_finding(
    code: str,
    level: Level,
    message: str,
    fix: str,
    groups: Sequence[Sequence[Labelled]],
    show_labels: bool,
) -> Iterator[Finding]:
    def tell(photo: Labelled) -> str:
        return f"{photo.name} ({photo.label})" if show_labels else photo.name

    if groups:
        yield Finding(
            code=code,
            level=level,
            message=message,
            fix=fix,
            count=len(groups),
            examples=tuple(" = ".join(map(tell, group)) for group in groups[:SHOWN]),
            images=tuple(photo.name for group in groups for photo in group),
        )


def case_findings(names: Iterable[str], what: str, code: str) -> Iterator[Finding]:
    """A finding of names that differ by upper and lower case alone.

    Args:
        names: Of files or classes.
        what: What they name, in the plural.
        code: Of the finding.
    """
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        groups[name.casefold()].add(name)
    clashes = [" = ".join(sorted(group)) for group in groups.values() if len(group) > 1]
    if clashes:
        yield Finding(
            code=code,
            level="warning",
            message=f"{what} whose names differ by case alone",
            fix="rename one or join them: they become one where file names ignore case",
            count=len(clashes),
            examples=tuple(clashes[:SHOWN]),
        )


def unread_findings(files: Sequence[ListedFile], where: str) -> Iterator[Finding]:
    """Findings of files that no reader takes.

    Args:
        files: The files.
        where: Where they lie, for the message.
    """
    foreign = {file.name: file.name for file in files if file.place.suffix.lower() in _FOREIGN}
    others = {file.name: file.name for file in files if file.name not in foreign}
    yield from make_finding(
        "image-unread",
        "warning",
        f"images {where} in formats that are not read ({', '.join(_suffixes(foreign))})",
        "convert them to JPEG or PNG",
        foreign,
    )
    yield from make_finding(
        "file-unread",
        "note",
        f"files {where} that are not read",
        "remove them if they do not belong here",
        others,
    )


def _suffixes(names: Iterable[str]) -> list[str]:
    return sorted({PurePosixPath(name).suffix.lower() for name in names})


_FOREIGN = (
    *(".heic", ".heif", ".avif", ".jfif", ".jpe", ".jp2", ".jxl", ".ppm", ".pgm", ".tga"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd", ".svg", ".npy", ".dcm"),
)
