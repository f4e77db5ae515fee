"""Photos with one class each, wherever they are: class folders, archives, or tar shards."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from wszoo.datasets.classification import LabelledImages, read_class_folders
from wszoo.datasets.fetching import Patience
from wszoo.datasets.listing import ListedFile, choose_split
from wszoo.datasets.shard_files import StoredPart, StoredParts, open_files
from wszoo.datasets.shard_index import SampleNames
from wszoo.datasets.shard_splits import WORKERS_PATIENCE, Location, find_shards
from wszoo.datasets.shards import refuse_masks, shuffled


@dataclass(frozen=True, kw_only=True)
class LabelledShards(LabelledImages):
    """A classification set in tar shards, of which nothing is read before it is asked for.

    May be shared by threads and by the workers of a ``DataLoader``, forked or spawned.

    Attributes:
        names: ``<folder>/<shard>:<member>`` of each photo.
        sources: The photos as they are encoded.
        targets: Index of its class in ``classes``.
        classes: Those of the manifest.
    """

    sources: StoredParts

    def select(self, indices: Iterable[int]) -> "LabelledShards":
        """These photos, in this order, with all classes."""
        rows = [*indices]
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            sources=self.sources.select(rows),
            targets=tuple(self.targets[row] for row in rows),
        )

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """A permutation of all photos, the same one for the same arguments.

        From a server it keeps to a few shards at a time; else it is wholly free.
        """
        return shuffled(self.sources, seed, epoch)

    def files(self) -> Iterator[ListedFile]:
        """Each photo."""
        for row, name in enumerate(self.names):
            place = PurePosixPath(name.rpartition(":")[2])
            yield ListedFile(name=name, place=place, kept=StoredPart(self.sources, row))


def open_labelled_shards(location: Location, patience: Patience | None = None) -> LabelledShards:
    """Open the shards of one split.

    Args:
        location: As ``find_shards`` found it.
        patience: How long to try to fetch a file; what is fetched is kept in the user's cache.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: The manifest, the index or a shard is damaged, or they hold masks.
        ConnectionError: The server does not give the manifest or the index.
    """
    index, reader = open_files(location, patience=patience)
    refuse_masks(reader)
    names = SampleNames(reader.manifest, index, folder=f"{reader.files}/")
    columns = [index[column].astype(np.int64) for column in ("shard", "offset", "length")]
    return LabelledShards(
        names=names,
        sources=StoredParts(reader, names, np.stack(columns, axis=1)),
        targets=tuple(index["target"].tolist()),
        classes=reader.manifest.classes,
    )


def read_labelled_images(
    path: Path | str, split: str | None = None, *, default: str | None = None
) -> LabelledImages:
    """Find the photos and classes under ``path``.

    Args:
        path: A folder of class folders, a tar archive of class folders, or a folder that holds
            several splits: as sub-folders (``val/<class>/``) or as archives (``*-val*.tar.xz``).
            An archive may hold several splits too, as sub-folders. Or shards as ``wszoo shards
            make`` writes them, of which nothing is read before it is asked for: a folder of them,
            one such folder per split, or the address of either on an HTTP server.
        split: ``"train"``, ``"val"`` or ``"test"``; needed where ``path`` holds several.
        default: The split to take if ``path`` has it and none is named.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: No photos, one outside the class folders, a class without any, a damaged
            archive or shard, or several splits and none named.
        ConnectionError: Shards could not be fetched.
    """
    if shards := find_shards(path):
        chosen = choose_split(path, {*filter(None, shards)}, split, default)
        return open_labelled_shards(shards[chosen], WORKERS_PATIENCE)
    return read_class_folders(path, split, default=default)
