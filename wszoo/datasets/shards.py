"""Labelled photos in tar shards, as webdataset names them, with an index that finds each at once.

A folder of shards holds ``shard-000000.tar`` and so on, each sample as two members (``<key>.jpg``,
the encoded photo as it was, and ``<key>.cls``, its class), ``index.npy`` and, written last,
``manifest.json`` with the sha256 of all of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wszoo.datasets.classification import open_image
from wszoo.datasets.fetching import Patience
from wszoo.datasets.shard_files import (
    DEFAULT_CACHE_BYTES,
    SHARDS_PER_BLOCK,
    LocalShards,
    RemoteShards,
    ShardReader,
    StoredParts,
    folder_of,
    open_files,
)
from wszoo.datasets.shard_index import SampleNames
from wszoo.datasets.shard_manifest import Manifest, MaskManifest
from wszoo.training.sampler import epoch_order

_BLOCKS = 100  # what its random numbers are for; no Purpose of wszoo.training.sampler


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
        self._reader = ShardReader(manifest, files)

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
        name = f"{self.files}/{self.names[index]}"
        return self._reader.read(row["shard"], int(row["offset"]), int(row["length"]), name)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """A permutation of all photos, the same one for the same arguments.

        From a server it keeps to a few shards at a time; a local one is wholly free.
        """
        if isinstance(self.files, LocalShards):
            return epoch_order(seed, epoch, len(self))
        return blockwise_order(seed, epoch, [shard.count for shard in self.manifest.shards])

    def fetched(self) -> np.ndarray:
        """First photo of each shard that has to be fetched, ascending; 0 where none has to be."""
        if isinstance(self.files, LocalShards):
            return np.zeros(1, np.int64)
        return np.cumsum([0, *(shard.count for shard in self.manifest.shards[:-1])])


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


def shuffled(parts: StoredParts, seed: int, epoch: int) -> np.ndarray:
    """A permutation of parts of shards, the same one for the same arguments.

    From a server it keeps to a few shards at a time; of a local one it is wholly free.
    """
    if isinstance(parts.reader.files, LocalShards):
        return epoch_order(seed, epoch, len(parts))
    shards = parts.places[:, 0]
    by_shard = np.argsort(shards, kind="stable")
    counts = np.unique(shards, return_counts=True)[1]
    return by_shard[blockwise_order(seed, epoch, counts.tolist())]


def open_shards(
    path_or_url: str | Path,
    *,
    cache: Path | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    patience: Patience | None = None,
) -> ShardedImages:
    """Open what ``wszoo shards make`` has written of photos with one class each.

    Args:
        path_or_url: The folder or its ``manifest.json``: a path, or an address on an HTTP server.
        cache: Folder for the shards of a server, which several sets and processes may share;
            ``wszoo/shards`` in the user's cache by default.
        cache_bytes: What the cache may hold; shards of which no photo was asked for longest go
            first.
        patience: How long to try to fetch a file.

    Raises:
        FileNotFoundError: There are no shards, or one is missing.
        ValueError: The manifest, the index or a shard is damaged, they hold masks, or the cache is
            too small.
        ConnectionError: The server does not give the manifest or the index.
    """
    index, reader = open_files(
        folder_of(path_or_url), cache=cache, cache_bytes=cache_bytes, patience=patience
    )
    refuse_masks(reader)
    return ShardedImages(reader.manifest, index, reader.files)


def refuse_masks(reader: ShardReader) -> None:
    """See that shards hold photos with one class each.

    Raises:
        ValueError: They hold masks.
    """
    if isinstance(reader.manifest, MaskManifest):
        raise ValueError(
            f"{reader.files} holds photos with masks, not with one class each; read them as a "
            f"segmentation set"
        )
