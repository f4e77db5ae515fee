"""Writing tar shards: the same bytes from the same samples, whole or not at all."""

import hashlib
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wszoo.datasets.file_cache import try_lock
from wszoo.datasets.shard_manifest import (
    INDEX,
    MANIFEST,
    Manifest,
    ShardFile,
    sample_key,
    shard_name,
)
from wszoo.files import flush_to_disk, sha256_of

_LOCK = ".lock"

Member = tuple[str, bytes]  # what follows the key in its name, and its content


class ShardWriter:
    """Fills one tar file after the other, then writes what tells of them.

    Args:
        folder: Where to.
        name: What the names of the shards begin with.
        limit: Bytes that no shard passes, unless a single sample does.
        on_shard: Told of each shard that is complete.

    Attributes:
        shards: Those that are complete.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        limit: int,
        on_shard: Callable[[ShardFile], None] | None,
    ) -> None:
        shard_name(name, 0)  # is refused before any work is done
        self._folder, self._name, self._limit = folder, name, limit
        self._on_shard = on_shard
        self._count = self._first = 0  # samples in all, and before the current shard
        self.shards: list[ShardFile] = []
        self._file: BinaryIO | None = None
        self._size, self._digest = 0, hashlib.sha256()  # of the current shard

    def add(self, members: Sequence[Member]) -> tuple[int, list[int]]:
        """Put one sample behind the others.

        Returns:
            The number of its shard, and the offset of each content in bytes.
        """
        key = sample_key(self._count)
        parts = [_member(f"{key}{ending}", data) for ending, data in members]
        length = sum(map(len, parts))
        if self._size and _filled(self._size + length) > self._limit:
            self.finish_shard()
        starts = np.cumsum([self._size, *map(len, parts[:-1])]).tolist()
        self._write(b"".join(parts))
        self._count += 1
        return len(self.shards), [start + tarfile.BLOCKSIZE for start in starts]  # past the header

    def finish_shard(self) -> None:
        """End the current shard, if there is one."""
        if self._file is None:
            return
        self._write(bytes(_filled(self._size) - self._size))
        path = self._path()
        with naming(path):
            self._file.close()
            flush_to_disk(path)
        self._file = None
        shard = ShardFile(
            name=path.name,
            count=self._count - self._first,
            bytes=self._size,
            sha256=self._digest.hexdigest(),
        )
        self.shards.append(shard)
        self._first, self._size, self._digest = self._count, 0, hashlib.sha256()
        if self._on_shard is not None:
            self._on_shard(shard)

    def write_index(self, index: np.ndarray) -> ShardFile:
        """Write the rows of all samples."""
        path = self._folder / INDEX
        with naming(path):
            np.save(path, index, allow_pickle=False)
            flush_to_disk(path)
        return ShardFile(
            name=INDEX, count=len(index), bytes=path.stat().st_size, sha256=sha256_of(path)
        )

    def write_manifest(self, manifest: Manifest) -> None:
        """Write what makes all of it whole."""
        with naming(self._folder / MANIFEST):
            (self._folder / MANIFEST).write_text(manifest.to_json())

    def close(self) -> None:
        """Leave the current shard as it is."""
        if self._file is not None:
            with suppress(OSError):  # what went wrong is being told already
                self._file.close()

    def _path(self) -> Path:
        return self._folder / shard_name(self._name, len(self.shards))

    def _write(self, data: bytes) -> None:
        with naming(self._path()):
            if self._file is None:
                self._file = self._path().open("xb")
            self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


def _member(name: str, data: bytes) -> bytes:
    """One file of a tar archive, without owner and time, so that its bytes tell its content."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    padding = bytes(-len(data) % tarfile.BLOCKSIZE)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + padding


def _filled(size: int) -> int:
    """Bytes of a tar archive of ``size`` bytes of members: two empty blocks, in whole records."""
    return -(-(size + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


@contextmanager
def written_aside(output: Path) -> Iterator[Path]:
    """A folder that becomes ``output`` if all goes well, and is removed otherwise.

    Raises:
        FileExistsError: There is such a folder, and it is not empty.
        OSError: It cannot be written, or another process writes it.
    """
    aside = output.with_name(f".{output.name}.partial")
    with naming(output):
        aside.mkdir(parents=True, exist_ok=True)
    with (aside / _LOCK).open("ab") as lock:
        if not try_lock(lock.fileno()):
            raise OSError(f"{output} is being written by another process; wait for it to end")
        try:
            if output.exists() and not (output.is_dir() and not any(output.iterdir())):
                raise FileExistsError(f"{output} exists already; remove it, or name another folder")
            for left_over in aside.iterdir():  # of a process that was killed
                if left_over.name != _LOCK:
                    left_over.unlink()
            yield aside
            for path in (*aside.iterdir(), aside):
                flush_to_disk(path)
            (aside / _LOCK).unlink()
            aside.rename(output)
            flush_to_disk(output.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of writing, with the path and the way out."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; free some space, or name another "
            f"folder"
        ) from error
