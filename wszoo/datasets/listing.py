"""The files of a set, on disk or inside tar archives, under the names that readers give them."""

import contextlib
import lzma
import os
import re
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from wszoo.datasets.classification import ARCHIVE_SUFFIXES, IMAGE_SUFFIXES, SPLITS
from wszoo.datasets.shard_files import StoredPart

_TEXT_SUFFIXES = (".txt", ".tsv", ".csv", ".json")  # names of classes, lists of splits
_ARCHIVE_ERRORS = (tarfile.TarError, OSError, EOFError, lzma.LZMAError, zlib.error)


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """One file of a set.

    Attributes:
        name: Its path, or ``archive:member``.
        place: Where it lies below the root of the set, or inside its archive.
        kept: Where its bytes are: a path, a part of a shard, or the bytes themselves. Of a file in
            an archive that is named neither like a photo nor like a text, they are not kept.
    """

    name: str
    place: PurePosixPath
    kept: Path | bytes | StoredPart = field(repr=False)

    @property
    def source(self) -> Path | bytes:
        """A path, or the bytes themselves, which a shard is asked for each time."""
        return self.kept.read() if isinstance(self.kept, StoredPart) else self.kept

    @property
    def is_image(self) -> bool:
        """Whether it is named like a photo."""
        return self.place.suffix.lower() in IMAGE_SUFFIXES

    @property
    def size(self) -> int:
        """Bytes."""
        if isinstance(self.kept, Path):
            return self.kept.stat().st_size
        return len(self.kept)

    def read(self) -> bytes:
        """Its content."""
        source = self.source
        return source if isinstance(source, bytes) else source.read_bytes()


def list_folder(root: Path, *, deep: bool = True) -> list[ListedFile]:
    """All files under ``root`` but hidden ones, in sorted order; ``deep`` ones in folders too."""
    return [
        ListedFile(name=str(path), place=PurePosixPath(*path.relative_to(root).parts), kept=path)
        for path in sorted(root.rglob("*") if deep else root.iterdir())
        if not path.name.startswith(".") and path.is_file()
    ]


def list_archive(archive: Path) -> list[ListedFile]:
    """All files of a tar archive but hidden ones, in its order, with their bytes.

    Raises:
        ValueError: It is no archive by its name, damaged or cut short.
    """
    if not archive.name.endswith(ARCHIVE_SUFFIXES):
        raise ValueError(f"{archive} is no folder and no archive ({', '.join(ARCHIVE_SUFFIXES)})")
    found = []
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:
                place = PurePosixPath(entry.name)
                if not entry.isfile() or place.name.startswith("."):
                    continue
                kept = place.suffix.lower() in (*IMAGE_SUFFIXES, *_TEXT_SUFFIXES)
                content = tar.extractfile(entry) if kept else None
                data = content.read() if content is not None else b""
                found.append(ListedFile(name=f"{archive}:{entry.name}", place=place, kept=data))
            _require_end(tar)
    except _ARCHIVE_ERRORS as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise ValueError(f"cannot read {archive}: {reason}; fetch this archive again") from error
    return found


def _require_end(tar: tarfile.TarFile) -> None:
    """Refuse an archive that was not read to its end: tarfile takes a damaged header for it."""
    assert tar.fileobj is not None
    if any(block := tar.fileobj.read(tarfile.BLOCKSIZE)) or not block:
        raise tarfile.ReadError("it is damaged or cut short")


def as_known(names: Iterable[str]) -> frozenset[str]:
    """The same for names of the same files, from whichever folder their paths were written."""
    return frozenset(map(os.path.abspath, names))


def read_named(names: Collection[str]) -> dict[str, bytes]:
    """Bytes of the files of these names; those that cannot be read are left out."""
    found = {}
    members: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        path = Path(name)
        archive = next((ends for ends in _prefixes(name) if Path(ends).is_file()), None)
        if path.is_file():
            with contextlib.suppress(OSError):
                found[name] = path.read_bytes()
        elif archive is not None:
            members[archive].add(name)
    for archive, wanted in members.items():
        listed = list_archive(Path(archive))
        found |= {file.name: file.read() for file in listed if file.name in wanted}
    return found


def _prefixes(name: str) -> Iterator[str]:
    """All that may be the path of an archive in ``archive:member``."""
    return (name[: match.start()] for match in re.finditer(":", name))


def split_of(word: str) -> str | None:
    """The split that a folder of this name holds: ``"validation"`` holds ``"val"``."""
    return next((split for split, words in SPLITS.items() if word in words), None)


def split_archives(folder: Path) -> dict[str, list[Path]]:
    """Archives directly in ``folder`` by the split in their name, as in ``set-train-0.tar``."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        words = re.split(r"[-_.]", path.name) if path.name.endswith(ARCHIVE_SUFFIXES) else ()
        for split in sorted(set(filter(None, map(split_of, words)))):
            found[split].append(path)
    return dict(found)


def choose_split(
    path: Path | str, known: Collection[str], split: str | None, default: str | None
) -> str | None:
    """The split that is meant; None where ``path`` holds none.

    Raises:
        FileNotFoundError: ``split`` is not among the ``known``.
        ValueError: There are several, and neither is named.
    """
    require_split(path, known, split)
    if split is not None:
        return split
    if default in known:
        return default
    if len(known) > 1:
        listed = ", ".join(sorted(known))
        raise ValueError(f"{path} holds several splits ({listed}); name one, as with --split val")
    return next(iter(known), None)


def require_split(path: Path | str, known: Collection[str], split: str | None) -> None:
    """Stop where a split is named that is not there.

    Raises:
        FileNotFoundError: ``split`` is not among the ``known``.
    """
    if split is None or split in known:
        return
    if not known:
        raise FileNotFoundError(f"{path} has no split {split!r}, nor any other; name none")
    listed = ", ".join(sorted(known))
    raise FileNotFoundError(f"{path} has no split {split!r}; its splits: {listed}")
