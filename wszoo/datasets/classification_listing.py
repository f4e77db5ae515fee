"""All that lies in a classification set, also what ``read_labelled_images`` would refuse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from wszoo.datasets.labelled import open_labelled_shards
from wszoo.datasets.listing import (
    ListedFile,
    list_archive,
    list_folder,
    require_split,
    split_archives,
    split_of,
)
from wszoo.datasets.shard_splits import Location, find_shards


class ListedPhoto(NamedTuple):
    """A photo in a class folder."""

    file: ListedFile
    split: str | None
    label: str


@dataclass
class ClassificationListing:
    """A set before anything is decoded.

    Attributes:
        photos: The same as ``read_labelled_images`` finds.
        strays: Photos in no class folder.
        unread: Other files in class folders.
        empty: Class folders, or classes of shards, without photos.
        aside: Folders or files beside the splits that belong to none.
    """

    photos: list[ListedPhoto] = field(default_factory=list)
    strays: list[ListedFile] = field(default_factory=list)
    unread: list[ListedFile] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)

    def add(self, file: ListedFile, split: str | None, label: str) -> None:
        """Put a file of a class folder where it belongs."""
        if file.is_image:
            self.photos.append(ListedPhoto(file, split, label))
        else:
            self.unread.append(file)


def list_classification(path: Path | str, split: str | None) -> ClassificationListing:
    """Find photos and classes under ``path``.

    Args:
        path: As ``read_labelled_images`` takes it.
        split: The only one to look at; all by default.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: There are no photos, or an archive or a shard is damaged.
        ConnectionError: Shards could not be fetched.
    """
    listing = ClassificationListing()
    if shards := find_shards(path):
        _add_shards(listing, path, shards, split)
        return listing
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such folder or archive: {path}")
    if path.is_file():
        _add_archive(listing, path, split)
    else:
        _add_folders(listing, path, split)
    if not listing.photos:
        raise ValueError(f"no images in {path}: expected <class>/<image>, one folder per class")
    return listing


def _add_shards(
    listing: ClassificationListing,
    path: Path | str,
    shards: Mapping[str | None, Location],
    split: str | None,
) -> None:
    require_split(path, {*filter(None, shards)}, split)
    for its, place in shards.items():
        if split in (None, its):
            opened = open_labelled_shards(place)
            for file, target in zip(opened.files(), opened.targets, strict=True):
                listing.photos.append(ListedPhoto(file, its, opened.classes[target]))
            held = {*opened.targets}
            listing.empty += [
                f"{place}: {name}" for row, name in enumerate(opened.classes) if row not in held
            ]


def _add_folders(listing: ClassificationListing, path: Path, split: str | None) -> None:
    folders = {its: entry for entry in sorted(path.iterdir()) if (its := _split_of_folder(entry))}
    archives = split_archives(path)
    known = {*folders, *archives}
    require_split(path, known, split)
    if not known:
        _add_class_folders(listing, path, None)
        return
    for its in sorted(known if split is None else {split}):
        if its in folders:
            _add_class_folders(listing, folders[its], its)
        else:
            members = [file for archive in archives[its] for file in _members(listing, archive)]
            inner = [file for file in members if _split_inside(file) == its]
            _add_members(listing, inner or members, its)
    listing.aside += [
        str(entry)
        for entry in sorted(path.iterdir())
        if entry.is_dir() and entry not in folders.values() and not entry.name.startswith(".")
    ]
    listing.strays += _photos_directly_in(path)


def _split_of_folder(folder: Path) -> str | None:
    # Photos alone make it a class, such as the trains among the vehicles.
    holds_folders = folder.is_dir() and any(child.is_dir() for child in folder.iterdir())
    return split_of(folder.name) if holds_folders else None


def _add_class_folders(listing: ClassificationListing, root: Path, split: str | None) -> None:
    listing.strays += _photos_directly_in(root)
    for folder in sorted(root.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        files = list_folder(folder)
        for file in files:
            listing.add(file, split, folder.name)
        if not any(file.is_image for file in files):
            listing.empty.append(str(folder))


def _photos_directly_in(folder: Path) -> list[ListedFile]:
    return [file for file in list_folder(folder, deep=False) if file.is_image]


def _add_archive(listing: ClassificationListing, archive: Path, split: str | None) -> None:
    """Sort the members of an archive that may hold several splits."""
    files = _members(listing, archive)
    known = {its for file in files if file.is_image and (its := _split_inside(file))}
    require_split(archive, known, split)
    chosen: list[str | None] = [*sorted(known)] if split is None else [split]
    for its in chosen or [None]:
        _add_members(listing, [file for file in files if _split_inside(file) == its], its)
    if known:
        listing.aside += [
            file.name for file in files if file.is_image and _split_inside(file) is None
        ]


def _members(listing: ClassificationListing, archive: Path) -> list[ListedFile]:
    """What lies in folders of an archive."""
    files = list_archive(archive)
    listing.strays += [file for file in files if file.is_image and len(file.place.parts) < 2]
    return [file for file in files if len(file.place.parts) > 1]


def _add_members(
    listing: ClassificationListing, files: Sequence[ListedFile], split: str | None
) -> None:
    folders = {file.place.parent for file in files if file.is_image}
    for file in files:
        if file.place.parent in folders:
            listing.add(file, split, file.place.parent.name)


def _split_inside(file: ListedFile) -> str | None:
    """The split that the folder above the class folder names."""
    parts = file.place.parts
    return split_of(parts[-3]) if len(parts) > 2 else None
