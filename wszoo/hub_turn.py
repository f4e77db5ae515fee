"""Whose turn it is to fetch a file into the cache of the Hub's client, which has a lock for each.

By itself the client waits for a lock as long as another process holds it, be it stopped.
"""

import contextlib
import logging
import os
import time
from pathlib import Path

import filelock

from wszoo.hub_client import Place

HOLDER_STALL = 10.0  # seconds without growth of what the holder of the lock fetches
_MOMENT = 2.0  # seconds for which some hold it to look for the file, at the most

_logger = logging.getLogger(__name__)
_Identity = tuple[int, int]  # device and inode
_Done = tuple[_Identity | None, list[tuple[str, int, int]]]  # the lock; parts, bytes, times


class Turn:
    """That of one transfer in this process, and what others do meanwhile."""

    def __init__(self, place: Place, file: str, etag: str) -> None:
        folder = place.cache / f"models--{place.repository.replace('/', '--')}"
        self.file, self._blobs, self._etag = file, folder / "blobs", etag
        self.lock = folder.parent / ".locks" / folder.name / f"{etag}.lock"
        self._done, self._since = self._done_by_others(), time.monotonic()

    @property
    def parts(self) -> list[Path]:
        """What processes have fetched of the file so far; the client never lets two write one."""
        return [*self._blobs.glob(f"{self._etag}.*incomplete")]

    @property
    def own_parts(self) -> list[Path]:
        """Those that this process writes, which then has the lock."""
        here = _open_here()
        return [part for part in self.parts if _identity(part) in here]

    def show(self) -> None:
        """Leave a sign for those who wait: a slow file grows rarely, by 10 MiB at a time."""
        for part in self.own_parts:
            with contextlib.suppress(OSError):
                os.utime(part)

    def drop(self) -> None:
        """Unlink what this process has fetched."""
        for part in self.own_parts:
            with contextlib.suppress(OSError):
                part.unlink()

    def resign(self) -> None:
        """Leave the turn to others, where a thread of this process may have it for ever."""
        if self.own_parts:
            with contextlib.suppress(OSError):
                self.lock.unlink()
            self.drop()

    def require(self) -> None:
        """Take the turn from whoever has it and does not fetch: called while one waits.

        Raises:
            TimeoutError: The lock is not ours to set aside.
        """
        done = self._done_by_others()
        if done != self._done or self.own_parts:  # the latter of another thread, or of this one
            self._done, self._since = done, time.monotonic()
            return
        lock = filelock.FileLock(self.lock)
        try:
            lock.acquire(timeout=min(_MOMENT, HOLDER_STALL))
        except filelock.Timeout:
            waited = time.monotonic() - self._since
            if waited >= HOLDER_STALL and done == self._done_by_others():
                self._set_aside(done[0])
        except (OSError, NotImplementedError):  # no lock for us, so none to wait for
            return
        else:
            lock.release()

    def _done_by_others(self) -> _Done:
        """What changes as long as one of them fetches."""
        found = []
        for part in self.parts:
            with contextlib.suppress(OSError):  # it has just become the file
                stat = part.stat()
                found.append((part.name, stat.st_size, stat.st_mtime_ns))
        return _identity(self.lock), sorted(found)

    def _set_aside(self, stuck: _Identity | None) -> None:
        """Take the lock away by its name: who waits for it then finds a new one, and is next."""
        guard = filelock.FileLock(f"{self.lock}.turn", timeout=_MOMENT)
        with contextlib.suppress(filelock.Timeout), guard:
            if _identity(self.lock) != stuck:  # somebody else has done so
                return
            told = f"another process holds {self.lock} and fetches nothing"
            try:
                self.lock.unlink()
            except OSError as error:
                raise TimeoutError(
                    f"{told}; end it, or name another cache with HF_HOME or cache_dir="
                ) from error
            _logger.warning(
                "%s; %s is fetched beside it after %g seconds", told, self.file, HOLDER_STALL
            )


def _identity(path: Path) -> _Identity | None:
    """What the system knows a file by; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_here() -> set[_Identity | None]:
    """The files that this process has open; none where the system does not tell."""
    found: set[_Identity | None] = set()
    for number in os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else ():
        with contextlib.suppress(OSError):  # closed since
            file = os.fstat(int(number))
            found.add((file.st_dev, file.st_ino))
    return found
