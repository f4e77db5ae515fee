"""Files of a data set by one kind of path, whether they lie in a folder or in tar archives."""

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wszoo.datasets.classification import ARCHIVE_SUFFIXES, IMAGE_SUFFIXES

_KEPT = (*IMAGE_SUFFIXES, ".json", ".xml", ".txt")
_ARCHIVE_ERRORS = (tarfile.TarError, OSError, EOFError, lzma.LZMAError, zlib.error)


@dataclass(frozen=True, kw_only=True)
class FileTree:
    """Photos and annotation files; hidden ones are left out.

    Attributes:
        root: The folder or the archive.
        files: Where the bytes of each file are, by its path below ``root`` with ``/`` between.
            An archive inside a folder counts as a folder.
        damaged: Name of each archive that could not be read to its end, and the reason.
    """

    root: Path
    files: Mapping[str, Path | bytes]
    damaged: Mapping[str, str]

    def name(self, key: str) -> str:
        """What to call a file, whether it is there or not: its path, or ``archive:member``."""
        if self.root.name.endswith(ARCHIVE_SUFFIXES) and not self.root.is_dir():
            return f"{self.root}:{key}"
        parts = key.split("/")
        for depth, part in enumerate(parts[:-1], start=1):
            if part.endswith(ARCHIVE_SUFFIXES):
                return f"{self.root.joinpath(*parts[:depth])}:{'/'.join(parts[depth:])}"
        return str(self.root / key)

    def read(self, key: str) -> bytes:
        """Its content."""
        source = self.files[key]
        return source if isinstance(source, bytes) else source.read_bytes()

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Paths that end so, in sorted order; capitals make no difference."""
        return sorted(key for key in self.files if key.lower().endswith(suffixes))


def open_tree(path: Path | str) -> FileTree:
    """List the files of a folder, or read those of an archive into memory.

    The archives in a folder are read too if it holds no photos itself.

    Raises:
        FileNotFoundError: There is no such folder or archive.
        ValueError: It is a file, but no tar archive.
    """
    root = Path(path)
    damaged: dict[str, str] = {}
    if not root.exists():
        raise FileNotFoundError(f"no such folder or archive: {root}")
    if root.is_file():
        if not root.name.endswith(ARCHIVE_SUFFIXES):
            raise ValueError(f"{root} is no folder and no archive ({', '.join(ARCHIVE_SUFFIXES)})")
        files: dict[str, Path | bytes] = dict(_members(root, damaged))
        return FileTree(root=root, files=files, damaged=damaged)
    listed = list(_files_under(root))
    files = {path.relative_to(root).as_posix(): path for path in listed if _is_kept(path.name)}
    if not any(key.lower().endswith(IMAGE_SUFFIXES) for key in files):
        for archive in (path for path in listed if path.name.endswith(ARCHIVE_SUFFIXES)):
            prefix = archive.relative_to(root).as_posix()
            files |= {f"{prefix}/{key}": data for key, data in _members(archive, damaged)}
    return FileTree(root=root, files=files, damaged=damaged)


def _is_kept(name: str) -> bool:
    return name.lower().endswith(_KEPT)


def _files_under(root: Path) -> Iterator[Path]:
    """In sorted order, through links to folders, but through each folder once."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _members(archive: Path, damaged: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file in an archive; why it ends early goes into ``damaged``."""
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:
                parts = [part for part in entry.name.split("/") if part not in ("", ".")]
                if not entry.isfile() or not _is_kept(entry.name):
                    continue
                if any(part.startswith(".") for part in parts):
                    continue
                file = tar.extractfile(entry)
                assert file is not None
                yield "/".join(parts), file.read()
            # tarfile takes a damaged header for the end, which two empty blocks would mark.
            assert tar.fileobj is not None
            if any(block := tar.fileobj.read(tarfile.BLOCKSIZE)) or not block:
                raise tarfile.ReadError("it is damaged or cut short")
    except _ARCHIVE_ERRORS as error:
        damaged[str(archive)] = str(error).partition("\n")[0].rstrip(":")
