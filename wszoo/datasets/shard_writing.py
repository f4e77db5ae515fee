"""Writing labelled photos into tar shards: the same bytes from the same photos, whole or not."""

import csv
import hashlib
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from wszoo.datasets.classification import IMAGE_SUFFIXES, LabelledImages, open_image
from wszoo.datasets.file_cache import try_lock
from wszoo.datasets.shard_manifest import (
    INDEX,
    INDEX_DTYPE,
    MANIFEST,
    Manifest,
    ShardFile,
    sample_key,
    shard_name,
)
from wszoo.files import flush_to_disk, sha256_of

QUARANTINE = "quarantine.tsv"
DEFAULT_SHARD_BYTES = 256 * 2**20
_LOCK = ".lock"
_AT_ONCE = 64  # photos in memory, encoded
_NAMED = 5  # broken photos in an error
_SHUFFLE = 101  # what its random numbers are for; no Purpose of wszoo.training.sampler


def write_shards(
    images: LabelledImages,
    output: Path,
    *,
    name: str = "shard",
    bytes_per_shard: int = DEFAULT_SHARD_BYTES,
    quarantine: bool = False,
    on_shard: Callable[[ShardFile], None] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Manifest:
    """Write a folder of shards, with the photos in an order shuffled once and for all.

    It is written aside and renamed into place when it is whole. Every photo is decoded before it
    is written; a few at a time are in memory.

    Args:
        images: What to write, byte by byte as it is encoded.
        output: The new folder.
        name: What the names of the shards begin with.
        bytes_per_shard: Size that no shard passes, unless a single photo does.
        quarantine: Leave out what cannot be decoded, and list it in ``quarantine.tsv`` (name,
            reason); an error otherwise.
        on_shard: Told of each shard that is complete.
        progress: Wraps the numbers of the photos, as ``tqdm`` does.

    Raises:
        ValueError: A photo cannot be decoded, a class would be left without one, or an argument
            is wrong.
        FileExistsError: There is such a folder, and it is not empty.
        OSError: The folder cannot be written, or another process writes it.
    """
    if bytes_per_shard < 1:
        raise ValueError(f"bytes_per_shard must be at least 1, got {bytes_per_shard}")
    if not len(images):
        raise ValueError("there are no images to write")
    broken: list[tuple[str, str]] = []
    with (
        _written_aside(Path(output).resolve()) as folder,
        closing(_ShardWriter(folder, name, bytes_per_shard, len(images), on_shard)) as writer,
    ):
        for index, data, reason in _decoded(images, progress(_shuffled(len(images)))):
            if reason is not None:
                broken.append((images.names[index], reason))
            elif quarantine or not broken:
                writer.add(data, _suffix(images.names[index]), images.targets[index])
        if broken:
            _set_apart(sorted(broken), folder, quarantine, len(images))
        writer.finish_shard()
        return writer.finish(images.classes, len(broken))


def _shuffled(count: int) -> list[int]:
    """An order in which every shard is a fair sample of all classes."""
    entropy = np.random.SeedSequence((0, 0, _SHUFFLE))
    order: list[int] = np.random.Generator(np.random.Philox(entropy)).permutation(count).tolist()
    return order


def _decoded(
    images: LabelledImages, order: Iterable[int]
) -> Iterator[tuple[int, bytes, str | None]]:
    """Number and bytes of each photo, and why it cannot be decoded."""

    def load(index: int) -> tuple[int, bytes, str | None]:
        source, name = images.sources[index], images.names[index]
        try:
            data = source if isinstance(source, bytes) else source.read_bytes()
            open_image(data, name)
        except OSError as error:
            return index, b"", error.strerror or str(error)
        except ValueError as error:
            return index, b"", str(error).removeprefix(f"cannot decode {name}: ").partition("; ")[0]
        return index, data, None

    left = iter(order)
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        while chunk := list(islice(left, _AT_ONCE)):
            yield from pool.map(load, chunk)


def _suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"{name} is not named like an image; known: {', '.join(IMAGE_SUFFIXES)}")
    return suffix


def _set_apart(broken: list[tuple[str, str]], folder: Path, quarantine: bool, count: int) -> None:
    """List the broken photos, or stop."""
    if not quarantine:
        named = ", ".join(f"{name} ({reason})" for name, reason in broken[:_NAMED])
        more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise ValueError(
            f"{len(broken)} of {count} images cannot be decoded: {named}{more}; mend or remove "
            f"them, or leave them out with --quarantine"
        )
    path = folder / QUARANTINE
    with _naming(path), path.open("w", newline="", errors="surrogateescape") as file:
        rows = csv.writer(file, "excel-tab", lineterminator="\n")
        rows.writerows([("name", "reason"), *broken])


class _ShardWriter:
    """Fills one tar file after the other."""

    def __init__(
        self,
        folder: Path,
        name: str,
        bytes_per_shard: int,
        capacity: int,
        on_shard: Callable[[ShardFile], None] | None,
    ) -> None:
        shard_name(name, 0)  # is refused before any work is done
        self._folder, self._name, self._limit = folder, name, bytes_per_shard
        self._on_shard = on_shard
        self._index = np.zeros(capacity, INDEX_DTYPE)
        self._count = self._first = 0  # samples in all, and before the current shard
        self._shards: list[ShardFile] = []
        self._file: BinaryIO | None = None
        self._size, self._digest = 0, hashlib.sha256()  # of the current shard

    def add(self, data: bytes, suffix: str, target: int) -> None:
        """Put one sample behind the others."""
        key = sample_key(self._count)
        sample = _member(f"{key}{suffix}", data) + _member(f"{key}.cls", str(target).encode())
        if self._size and _filled(self._size + len(sample)) > self._limit:
            self.finish_shard()
        self._index[self._count] = (
            len(self._shards),
            self._size + tarfile.BLOCKSIZE,  # behind the header
            len(data),
            target,
            IMAGE_SUFFIXES.index(suffix),
        )
        self._write(sample)
        self._count += 1

    def finish_shard(self) -> None:
        """End the current shard, if there is one."""
        if self._file is None:
            return
        self._write(bytes(_filled(self._size) - self._size))
        path = self._path()
        with _naming(path):
            self._file.close()
            flush_to_disk(path)
        self._file = None
        shard = ShardFile(
            name=path.name,
            count=self._count - self._first,
            bytes=self._size,
            sha256=self._digest.hexdigest(),
        )
        self._shards.append(shard)
        self._first, self._size, self._digest = self._count, 0, hashlib.sha256()
        if self._on_shard is not None:
            self._on_shard(shard)

    def finish(self, classes: tuple[str, ...], quarantined: int) -> Manifest:
        """Write the index, then the manifest."""
        index = self._index[: self._count]
        held = np.bincount(index["target"], minlength=len(classes))
        if not held.all():
            raise ValueError(
                f"no image of class {classes[int(held.argmin())]!r} can be decoded; mend one, or "
                f"remove the class"
            )
        path = self._folder / INDEX
        with _naming(path):
            np.save(path, index, allow_pickle=False)
        manifest = Manifest(
            classes=classes,
            suffixes=IMAGE_SUFFIXES,
            quarantined=quarantined,
            index=ShardFile(
                name=INDEX,
                count=self._count,
                bytes=path.stat().st_size,
                sha256=sha256_of(path),
            ),
            shards=tuple(self._shards),
        )
        with _naming(self._folder / MANIFEST):
            flush_to_disk(path)
            (self._folder / MANIFEST).write_text(manifest.to_json())
        return manifest

    def close(self) -> None:
        """Leave the current shard as it is."""
        if self._file is not None:
            with suppress(OSError):  # what went wrong is being told already
                self._file.close()

    def _path(self) -> Path:
        return self._folder / shard_name(self._name, len(self._shards))

    def _write(self, data: bytes) -> None:
        with _naming(self._path()):
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
def _written_aside(output: Path) -> Iterator[Path]:
    """A folder that becomes ``output`` if all goes well, and is removed otherwise."""
    aside = output.with_name(f".{output.name}.partial")
    with _naming(output):
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
def _naming(path: Path) -> Iterator[None]:
    """Errors of writing, with the path and the way out."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; free some space, or name another "
            f"folder"
        ) from error
