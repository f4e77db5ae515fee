"""Files of a folder of tar shards: opened on a disk, or fetched from a server as they are used."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, overload

import numpy as np

from wszoo.datasets.fetching import (
    Patience,
    RemoteFile,
    RemoteFolder,
    fetch_bytes,
    remote_folder,
)
from wszoo.datasets.file_cache import Cache
from wszoo.datasets.shard_index import SampleNames, read_index, spans
from wszoo.datasets.shard_manifest import (
    INDEX,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    ShardFile,
    parse_manifest,
    read_manifest,
)

SHARDS_PER_BLOCK = 8
DEFAULT_CACHE_BYTES = 32 * 2**30


class OpenFile:
    """A descriptor that is closed when nothing refers to it any more.

    So a thread may read on from a file that another one has just put out of the open ones.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.descriptor)


@dataclass(frozen=True, kw_only=True)
class LocalShards:
    """Shards in a folder."""

    folder: Path
    open_at_once: ClassVar[int] = 64  # processes may have some 1024 open files

    def __str__(self) -> str:
        return str(self.folder)

    def open(self, shard: ShardFile) -> OpenFile:
        return OpenFile(os.open(self.folder / shard.name, os.O_RDONLY))


@dataclass(frozen=True, kw_only=True)
class RemoteShards:
    """Shards on a server, fetched into a cache one by one as they are used."""

    folder: RemoteFolder
    cache: Cache
    open_at_once: ClassVar[int] = SHARDS_PER_BLOCK  # what the cache removes stays while it is open

    def __str__(self) -> str:
        return str(self.folder).rstrip("/")

    def open(self, shard: ShardFile) -> OpenFile:
        return OpenFile(self.cache.open(remote_file(self.folder, shard)))


class ShardReader:
    """Reads parts of shards.

    May be shared by threads and by the workers of a ``DataLoader``, forked or spawned: files are
    opened where they are first read.

    Args:
        manifest: Of the shards.
        files: Where they are.
    """

    def __init__(self, manifest: Manifest, files: LocalShards | RemoteShards) -> None:
        self.manifest, self.files = manifest, files
        self._opened = lru_cache(maxsize=files.open_at_once)(files.open)

    def __reduce__(self) -> tuple[Any, ...]:  # open files stay where they are
        return ShardReader, (self.manifest, self.files)

    def read(self, shard: int, offset: int, length: int, name: str) -> bytes:
        """``length`` bytes of shard number ``shard``, which errors call ``name``.

        Raises:
            ValueError: The shard is cut short.
            ConnectionError: It could not be fetched.
        """
        file = self._opened(self.manifest.shards[shard])
        data = os.pread(file.descriptor, length, offset)
        if len(data) < length:
            raise ValueError(
                f"{name} is cut short: {len(data)} of {length} bytes; copy this shard again"
            )
        return data


class StoredParts(Sequence[bytes]):
    """Encoded photos, or masks, of shards, each read when it is asked for.

    Args:
        reader: Reads the shards.
        names: What errors call them.
        places: ``(N, 3)`` int64: number of the shard, offset and length in bytes.
    """

    def __init__(self, reader: ShardReader, names: Sequence[str], places: np.ndarray) -> None:
        self.reader, self._names, self.places = reader, names, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, number: int) -> bytes: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[bytes, ...]: ...
    def __getitem__(self, number: int | slice) -> bytes | tuple[bytes, ...]:
        if isinstance(number, slice):
            return tuple(self[inner] for inner in range(*number.indices(len(self))))
        shard, offset, length = self.places[number].tolist()
        return self.reader.read(shard, offset, length, self._names[number])

    @property
    def digest(self) -> str:
        """Changes with the shards and with which parts of them these are."""
        digest = hashlib.sha256(self.places.tobytes())
        for shard in self.reader.manifest.shards:
            digest.update(shard.sha256.encode())
        return digest.hexdigest()[:16]

    def select(self, rows: Sequence[int]) -> "StoredParts":
        """These of them, in this order; none is read."""
        names = tuple(self._names[row] for row in rows)
        return StoredParts(self.reader, names, self.places[[*rows]])


@dataclass(frozen=True)
class StoredPart:
    """One of ``parts``, read whenever it is asked for; its length is known before."""

    parts: StoredParts
    row: int

    def __len__(self) -> int:
        return int(self.parts.places[self.row, 2])

    def read(self) -> bytes:
        """Its bytes; errors are those of ``ShardReader.read``."""
        return self.parts[self.row]


def is_url(location: str | Path) -> bool:
    """Whether shards are on a server, and not at a path."""
    return "://" in str(location)


def local_folder(path: str | Path) -> Path:
    """The folder that is named, itself or by its manifest."""
    path = Path(path)
    return path.parent if path.name == MANIFEST else path


def default_cache() -> Path:
    """Where shards of servers are kept unless another folder is named."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "wszoo" / "shards"


def open_files(
    location: RemoteFolder | Path,
    *,
    cache: Path | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    patience: Patience | None = None,
) -> tuple[np.ndarray, ShardReader]:
    """The index of shards of any kind, and what reads them; see ``open_shards``."""
    if isinstance(location, Path):
        return _open_local(location)
    kept = Cache(
        folder=default_cache() if cache is None else cache,
        max_bytes=cache_bytes,
        patience=patience or Patience(),
    )
    return _open_remote(location, kept)


def folder_of(location: str | Path) -> RemoteFolder | Path:
    """Where shards are that are named by their folder or by its manifest.

    Raises:
        ValueError: It is the address of no folder.
    """
    if is_url(location):
        return remote_folder(str(location), MANIFEST)
    return local_folder(location)


def _open_local(folder: Path) -> tuple[np.ndarray, ShardReader]:
    manifest = read_manifest(folder)
    index = read_index(folder / INDEX, manifest)
    start = 0
    for shard in manifest.shards:
        _require_whole(folder / shard.name, shard, index, start, manifest)
        start += shard.count
    return index, ShardReader(manifest, LocalShards(folder=folder))


def _require_whole(
    path: Path, shard: ShardFile, index: np.ndarray, start: int, manifest: Manifest
) -> None:
    """Refuse a shard of another size than its manifest says, naming the first sample lost."""
    if not path.is_file():
        raise FileNotFoundError(f"no such shard: {path}; copy it again")
    size = path.stat().st_size
    if size == shard.bytes:
        return
    rows = index[start : start + shard.count]
    lost = np.flatnonzero(np.any([offset + length > size for offset, length in spans(rows)], 0))
    names = SampleNames(manifest, index)
    where = f", cut short at {names[start + int(lost[0])]}" if len(lost) else ""
    raise ValueError(
        f"{path} is damaged: it has {size} bytes, the manifest says {shard.bytes}{where}; "
        f"copy this shard again"
    )


def _open_remote(folder: RemoteFolder, cache: Cache) -> tuple[np.ndarray, ShardReader]:
    manifest = fetch_manifest(folder, cache.patience)
    largest = sorted((shard.bytes for shard in manifest.shards), reverse=True)
    needed = sum(largest[: 2 * SHARDS_PER_BLOCK])  # workers read ahead into the next block
    if cache.max_bytes < needed:
        raise ValueError(
            f"cache_bytes is {cache.max_bytes}, but {needed} are in use at a time; raise it, or "
            f"make smaller shards"
        )
    os.close(cache.open(remote_file(folder, manifest.index)))
    index = read_index(cache.folder / manifest.index.sha256, manifest, f"{folder}{INDEX}")
    return index, ShardReader(manifest, RemoteShards(folder=folder, cache=cache))


def fetch_manifest(folder: RemoteFolder, patience: Patience) -> Manifest:
    """The manifest of a folder on a server.

    Raises:
        ConnectionError: It could not be fetched.
        ValueError: It is none.
    """
    content = fetch_bytes(folder.url_of(MANIFEST), MAX_MANIFEST_BYTES, patience)
    return parse_manifest(content, f"{folder}{MANIFEST}")


def remote_file(folder: RemoteFolder, file: ShardFile) -> RemoteFile:
    """What to ask a server for."""
    return RemoteFile(url=folder.url_of(file.name), bytes=file.bytes, sha256=file.sha256)
