"""A folder of fetched files that several processes share, of bounded size."""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from wszoo.datasets.fetching import Patience, RemoteFile, fetch_file
from wszoo.files import flush_to_disk

_POLL = 0.05  # seconds between looks at a lock
_KEPT = re.compile(r"[0-9a-f]{64}")
_PARTIAL = re.compile(r"[0-9a-f]{64}-([0-9]+)\.partial")  # the bytes that it will have


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A folder of fetched files, named by their sha256; the least recently opened ones go first.

    Several processes and threads may share it: a file is fetched by one of them, and the others
    wait. Content is checked when it is fetched, and the size at every opening.

    Attributes:
        folder: Made if missing.
        max_bytes: Of all files in it, those under way included.
        patience: How long to try.
    """

    folder: Path
    max_bytes: int
    patience: Patience

    def open(self, file: RemoteFile) -> int:
        """A descriptor of the whole file, for reading; to be closed by the caller.

        Raises:
            ConnectionError: The file could not be fetched.
            TimeoutError: Another process was fetching it for too long.
            OSError: The folder cannot be written.
        """
        _make_folder(self.folder)
        descriptor = self._open_kept(file)
        if descriptor is None:
            with self._locked(f"{file.sha256}.lock", f"fetching {file}"):
                descriptor = self._open_kept(file)  # another process may have fetched it
                if descriptor is None:
                    descriptor = self._fetch(file)
        return descriptor

    def _open_kept(self, file: RemoteFile) -> int | None:
        try:
            descriptor = os.open(self.folder / file.sha256, os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != file.bytes:
            os.close(descriptor)
            return None
        os.utime(descriptor)
        return descriptor

    def _fetch(self, file: RemoteFile) -> int:
        partial = self.folder / f"{file.sha256}-{file.bytes}.partial"
        with self._room():
            self._make_room(partial, file.bytes)
            partial.touch()  # so that others count with it
        fetch_file(file, partial, self.patience)
        flush_to_disk(partial)
        descriptor = os.open(partial, os.O_RDONLY)  # before others could remove it as a whole file
        with self._room():
            partial.rename(self.folder / file.sha256)
        flush_to_disk(self.folder)
        return descriptor

    def _make_room(self, partial: Path, needed: int) -> None:
        """Remove what was opened longest ago until ``partial`` fits; never what is under way."""
        found: list[tuple[float, int, Path]] = []
        oldest_under_way = time.time() - self.patience.limit
        for path in self.folder.iterdir():
            under_way = _PARTIAL.fullmatch(path.name)
            if path == partial or not (under_way or _KEPT.fullmatch(path.name)):
                continue
            status = path.stat()
            size = int(under_way[1]) if under_way else status.st_size
            if under_way and status.st_mtime > oldest_under_way:
                needed += size
            else:
                found.append((status.st_mtime, size, path))
        total = needed + sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.max_bytes:
                break
            path.unlink()
            total -= size

    def _room(self) -> AbstractContextManager[None]:
        """Hold what lies in the folder as it is."""
        return self._locked("room.lock", f"making room in {self.folder}")

    @contextmanager
    def _locked(self, name: str, what: str) -> Iterator[None]:
        deadline = time.monotonic() + self.patience.limit
        with (self.folder / name).open("ab") as file:
            while not try_lock(file.fileno()):
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"another process has been {what} for {self.patience.limit:g} seconds; "
                        f"end it, or name another cache"
                    )
                time.sleep(_POLL)
            try:
                yield
            finally:  # a child that was forked meanwhile would hold it on
                fcntl.flock(file, fcntl.LOCK_UN)


def try_lock(descriptor: int) -> bool:
    """Lock an open file for its process, if no other one holds it; it falls with the process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the cache {folder}: {error.strerror}; name another one"
        ) from error
