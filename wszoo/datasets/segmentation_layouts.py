"""Which file is a photo, which a mask, of which split, in the usual layouts of segmentation."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from wszoo.datasets.class_names import find_class_names
from wszoo.datasets.listing import (
    ListedFile,
    list_archive,
    list_folder,
    split_archives,
    split_of,
)
from wszoo.datasets.mask_shards import open_mask_shards
from wszoo.datasets.shard_splits import Location, find_shards

LAYOUTS = (
    "images/ and masks/, alone, inside train/ and val/ or with these inside; train/ and "
    "trainannot/; Pascal VOC; shards of `wszoo shards make --task segment`"
)
_PHOTO_FOLDERS = ("images", "image", "imgs", "img", "photos", "jpegimages")
_MASK_FOLDERS = (
    *("masks", "mask", "annotations", "annots", "annot", "labels", "label"),
    "segmentationclass",
)
_OTHER_FOLDERS = ("segmentationobject",)  # VOC's instances
_MASKS_OF_SPLIT = re.compile(r"(\w+?)[_-]?(?:annot|annotations|labels|masks)")  # trainannot
_MASK_ENDINGS = re.compile(r"(.+)[_-](?:mask|masks|label|labels|gt|L)")  # x_mask.png for x.jpg
_VOC_LISTS = ("imagesets", "segmentation")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A photo and its mask, one of which may be missing, or both of a listed name.

    Attributes:
        key: What their names have in common.
        split: Where they lie; None outside any split.
        image: The photo.
        mask: Its mask.
    """

    key: str
    split: str | None
    image: ListedFile | None
    mask: ListedFile | None

    @property
    def names(self) -> tuple[str, ...]:
        """What it can be quarantined by."""
        files = [file for file in (self.image, self.mask) if file is not None]
        return tuple(file.name for file in files) or (self.key,)


@dataclass(frozen=True, kw_only=True)
class SegmentationListing:
    """A segmentation set before anything is decoded.

    Attributes:
        pairs: Photos with masks, in the order of splits and names.
        clashes: Photos, or masks, that cannot be told apart by name; the first one is in a pair.
        unread: Photos in no folder that is known.
        classes: Names from a class file in the set, of the values from 0 on.
        ignored: Values of no class that the set tells of, besides 255.
    """

    pairs: tuple[Pair, ...]
    clashes: tuple[tuple[ListedFile, ...], ...]
    unread: tuple[ListedFile, ...]
    classes: tuple[str, ...] | None
    ignored: frozenset[int] = frozenset()

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that hold anything."""
        return tuple(sorted({pair.split for pair in self.pairs if pair.split is not None}))


class _Role(NamedTuple):
    kind: Literal["image", "mask"] | None
    split: str | None
    key: PurePosixPath  # the same for a photo and its mask


_Found = dict[tuple[str | None, PurePosixPath], dict[str, list[ListedFile]]]


def list_segmentation(path: Path | str) -> SegmentationListing:
    """Find photos, masks, splits and names of classes under ``path``.

    Args:
        path: A folder, a tar archive, a folder of archives with splits in their names, or shards
            as ``find_shards`` takes them.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: There is no photo or no mask, or an archive, a shard or the class file is
            damaged.
        ConnectionError: Shards could not be fetched.
    """
    if shards := find_shards(path):
        return _list_shards(path, shards)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such folder or archive: {path}")
    files = _files(path)
    found, unread = _sort(files)
    for kind, what in (("image", "images"), ("mask", "masks")):
        if not any(files_of[kind] for files_of in found.values()):
            raise ValueError(f"{path} holds no {what} in a known layout: {LAYOUTS}")
    _join_by_ending(found)
    places = sorted(found, key=lambda place: (place[0] or "", place[1]))
    return SegmentationListing(
        pairs=tuple(
            Pair(
                key=str(key),
                split=split,
                image=next(iter(found[split, key]["image"]), None),
                mask=next(iter(found[split, key]["mask"]), None),
            )
            for split, key in places
        ),
        clashes=tuple(
            tuple(same) for place in places for same in found[place].values() if len(same) > 1
        ),
        unread=tuple(unread),
        classes=find_class_names(file for _, file in files),
    )


def _list_shards(path: Path | str, shards: Mapping[str | None, Location]) -> SegmentationListing:
    opened = {split: open_mask_shards(place) for split, place in shards.items()}
    (names, ignored), *others = {shards.names_of_values() for shards in opened.values()}
    if others:
        raise ValueError(f"the splits of {path} have other classes each; make their shards again")
    return SegmentationListing(
        pairs=tuple(
            Pair(key=image.place.stem, split=split, image=image, mask=mask)
            for split, of_split in opened.items()
            for image, mask in of_split.files()
        ),
        clashes=(),
        unread=(),
        classes=names,
        ignored=ignored,
    )


def _files(path: Path) -> list[tuple[str | None, ListedFile]]:
    """All files that are not hidden, each with the split that its archive is named for."""
    found: list[tuple[str | None, ListedFile]]
    found = [(None, file) for file in (list_archive(path) if path.is_file() else list_folder(path))]
    if path.is_dir() and not any(file.is_image for _, file in found):
        for split, archives in split_archives(path).items():
            found += [(split, file) for archive in archives for file in list_archive(archive)]
    return [
        (split, file)
        for split, file in found
        if not any(part.startswith(".") for part in file.place.parts)
    ]


def _sort(files: Sequence[tuple[str | None, ListedFile]]) -> tuple[_Found, list[ListedFile]]:
    """Photos and masks by split and key, and the photos that are neither."""
    found: _Found = defaultdict(lambda: {"image": [], "mask": []})
    unread = []
    listed = _voc_splits([file for _, file in files])
    for key, named in listed.items():
        for split in named:
            found[split, key]  # what is listed is missed if no file of it turns up
    for split_of_archive, file in files:
        role = _role(file.place)
        if not file.is_image or role is None:
            continue
        if role.kind is None:
            unread.append(file)
            continue
        # Where there are lists, they decide: most photos of VOC have no masks.
        own: Sequence[str | None] = [role.split or split_of_archive]
        for its in listed.get(role.key, ()) if listed else own:
            found[its, role.key][role.kind].append(file)
    return found, unread


def _role(place: PurePosixPath) -> _Role | None:
    """What a photo is by its folders; None for what is known and not for this task."""
    kind: Literal["image", "mask"] | None = None
    split = None
    rest = []
    for part in place.parent.parts:
        word = part.lower()
        masks_of = _MASKS_OF_SPLIT.fullmatch(word)
        if word in _OTHER_FOLDERS:
            return None
        if kind is None and word in _PHOTO_FOLDERS:
            kind = "image"
        elif kind is None and word in _MASK_FOLDERS:
            kind = "mask"
        elif split is None and split_of(word):
            split = split_of(word)
        elif (kind, split) == (None, None) and masks_of and split_of(masks_of[1]):
            kind, split = "mask", split_of(masks_of[1])
        else:
            rest.append(part)
    if kind is None and split is not None:
        kind = "image"
    return _Role(kind, split, PurePosixPath(*rest, place.stem))


def are_mask_folders(names: Iterable[str]) -> bool:
    """Whether folders of these names are those of photos and masks, and not of classes.

    >>> are_mask_folders(["images", "masks"]), are_mask_folders(["images", "hats"])
    (True, False)
    """
    roles = [_role(PurePosixPath(name, "x")) for name in names]
    return {role and role.kind for role in roles} == {"image", "mask"}


def _voc_splits(files: Sequence[ListedFile]) -> dict[PurePosixPath, list[str]]:
    """Splits by key, from VOC's lists of names; empty without such lists."""
    found: defaultdict[PurePosixPath, list[str]] = defaultdict(list)
    for file in files:
        split = split_of(file.place.stem)
        folders = tuple(part.lower() for part in file.place.parts[-3:-1])
        if folders != _VOC_LISTS or split is None or file.place.suffix != ".txt":
            continue
        for name in file.read().decode().split():
            found[PurePosixPath(*file.place.parts[:-3], name)].append(split)
    return dict(found)


def _join_by_ending(found: _Found) -> None:
    """Give photos without masks those that are named for them with an ending more."""
    for (split, key), files in [*found.items()]:
        match = _MASK_ENDINGS.fullmatch(key.name)
        if files["image"] or not files["mask"] or match is None:
            continue
        photo = found.get((split, key.with_name(match[1])))
        if photo is not None and not photo["mask"]:
            photo["mask"] = found.pop((split, key))["mask"]
