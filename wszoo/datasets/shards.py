"""Labelled photos in tar shards, as webdataset names them, with an index that finds each at once.

A folder of shards holds ``shard-000000.tar`` and so on, each sample as two members (``<key>.jpg``,
the encoded photo as it was, and ``<key>.cls``, its class), ``index.npy`` and, written last,
``manifest.json`` with the sha256 of all of them.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from wszoo.datasets.classification import open_image
from wszoo.datasets.fetching import (
    Patience,
    RemoteFile,
    RemoteFolder,
    fetch_bytes,
    remote_folder,
)
from wszoo.datasets.file_cache import Cache
from wszoo.datasets.shard_manifest import (
    INDEX,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    SampleNames,
    ShardFile,
    parse_manifest,
    read_index,
    read_manifest,
)
from wszoo.training.sampler import epoch_order

SHARDS_PER_BLOCK = 8
DEFAULT_CACHE_BYTES = 32 * 2**30
_BLOCKS = 100  # what its random numbers are for; no Purpose of wszoo.training.sampler


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


class ShardedImages:
    """A classification set in shards, with the surface of ``LabelledImages``.

    May be shared by threads and by the workers of a ``DataLoader``, forked or spawned: files are
    opened where they are first read.

    Attributes:
        names: ``shard-000000.tar:<key>.jpg`` of each photo, made when asked for.
        targets: ``(N,)`` int64, index of the class of each photo in ``classes``.
        classes: Names of the classes.
    """

    def __init__(
        self, manifest: Manifest, index: np.ndarray, files: LocalShards | RemoteShards
    ) -> None:
        self.manifest, self.index, self.files = manifest, index, files
        self.names = SampleNames(manifest, index)
        self.targets = index["target"].astype(np.int64)
        self.classes = manifest.classes
        self._opened = lru_cache(maxsize=files.open_at_once)(files.open)

    def __reduce__(self) -> tuple[Any, ...]:  # open files stay where they are
        return ShardedImages, (self.manifest, self.index, self.files)

    def __len__(self) -> int:
        return len(self.index)

    def image(self, index: int) -> Image.Image:
        """Photo ``index`` as upright RGB.

        Raises:
            ValueError: It is damaged; the message names the shard and the key.
            ConnectionError: Its shard could not be fetched.
        """
        return open_image(self.read(index), f"{self.files}/{self.names[index]}")

    def read(self, index: int) -> bytes:
        """Photo ``index`` as it is encoded.

        Raises:
            ValueError: Its shard is cut short.
            ConnectionError: Its shard could not be fetched.
        """
        row = self.index[index]
        file = self._opened(self.manifest.shards[row["shard"]])
        data = os.pread(file.descriptor, int(row["length"]), int(row["offset"]))
        if len(data) < row["length"]:
            raise ValueError(
                f"{self.files}/{self.names[index]} is cut short: {len(data)} of {row['length']} "
                f"bytes; copy this shard again"
            )
        return data

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """A permutation of all photos, the same one for the same arguments.

        From a server it keeps to a few shards at a time; a local one is wholly free.
        """
        if isinstance(self.files, LocalShards):
            return epoch_order(seed, epoch, len(self))
        return blockwise_order(seed, epoch, [shard.count for shard in self.manifest.shards])


def blockwise_order(
    seed: int, epoch: int, counts: Sequence[int], *, shards_per_block: int = SHARDS_PER_BLOCK
) -> np.ndarray:
    """A permutation of all samples that uses few shards at a time.

    The shards are permuted and taken in blocks, and the samples are permuted inside each block. A
    pure function of its arguments, so a run that is stopped goes on at the very same sample.

    Args:
        seed: Of the run.
        epoch: Counted from 0.
        counts: Samples in each shard; they are numbered through in this order.
        shards_per_block: Shards in use at a time.

    Raises:
        ValueError: ``shards_per_block`` is less than 1.
    """
    if shards_per_block < 1:
        raise ValueError(f"shards_per_block must be at least 1, got {shards_per_block}")
    entropy = np.random.SeedSequence((seed, epoch, _BLOCKS))
    stream = np.random.Generator(np.random.Philox(entropy))
    ends = np.cumsum(counts)
    shards = stream.permutation(len(ends))
    blocks = []
    for start in range(0, len(shards), shards_per_block):
        chosen = shards[start : start + shards_per_block]
        samples = [np.arange(ends[shard] - counts[shard], ends[shard]) for shard in chosen]
        blocks.append(stream.permutation(np.concatenate(samples)))
    return np.concatenate(blocks)


def open_shards(
    path_or_url: str | Path,
    *,
    cache: Path | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    patience: Patience | None = None,
) -> ShardedImages:
    """Open what ``wszoo shards make`` has written.

    Args:
        path_or_url: The folder or its ``manifest.json``: a path, or an address on an HTTP server.
        cache: Folder for the shards of a server, which several sets and processes may share;
            ``wszoo/shards`` in the user's cache by default.
        cache_bytes: What the cache may hold; shards of which no photo was asked for longest go
            first.
        patience: How long to try to fetch a file.

    Raises:
        FileNotFoundError: There are no shards, or one is missing.
        ValueError: The manifest, the index or a shard is damaged, or the cache is too small.
        ConnectionError: The server does not give the manifest or the index.
    """
    if is_url(path_or_url):
        kept = Cache(
            folder=default_cache() if cache is None else cache,
            max_bytes=cache_bytes,
            patience=patience or Patience(),
        )
        return _open_remote(remote_folder(str(path_or_url), MANIFEST), kept)
    return _open_local(local_folder(path_or_url))


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


def _open_local(folder: Path) -> ShardedImages:
    manifest = read_manifest(folder)
    index = read_index(folder / INDEX, manifest)
    images = ShardedImages(manifest, index, LocalShards(folder=folder))
    start = 0
    for shard in manifest.shards:
        _require_whole(folder / shard.name, shard, images, start)
        start += shard.count
    return images


def _require_whole(path: Path, shard: ShardFile, images: ShardedImages, start: int) -> None:
    """Refuse a shard of another size than its manifest says, naming the first sample lost."""
    if not path.is_file():
        raise FileNotFoundError(f"no such shard: {path}; copy it again")
    size = path.stat().st_size
    if size == shard.bytes:
        return
    rows = images.index[start : start + shard.count]
    lost = np.flatnonzero(rows["offset"] + rows["length"] > size)
    where = f", cut short at {images.names[start + int(lost[0])]}" if len(lost) else ""
    raise ValueError(
        f"{path} is damaged: it has {size} bytes, the manifest says {shard.bytes}{where}; "
        f"copy this shard again"
    )


def _open_remote(folder: RemoteFolder, cache: Cache) -> ShardedImages:
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
    return ShardedImages(manifest, index, RemoteShards(folder=folder, cache=cache))


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
