"""Photos with masks in tar shards, one folder of shards per split or one alone.

A folder of shards is as that of labelled photos (see ``shards``), with ``<key>.seg.png``, the mask
as it was, in place of the class; its ``manifest.json`` tells which values are which classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from wszoo.datasets.fetching import Patience
from wszoo.datasets.listing import ListedFile
from wszoo.datasets.shard_files import (
    ShardReader,
    StoredPart,
    StoredParts,
    open_files,
)
from wszoo.datasets.shard_index import SampleNames
from wszoo.datasets.shard_manifest import MaskManifest
from wszoo.datasets.shard_splits import Location


@dataclass(frozen=True, kw_only=True)
class MaskShards:
    """Shards of one split, opened; nothing of them is read before it is asked for.

    Attributes:
        manifest: Classes and their values.
        names: Of the photos.
        mask_names: Of the masks.
        images: The photos as they are encoded.
        masks: The same of the masks.
    """

    manifest: MaskManifest
    names: SampleNames
    mask_names: SampleNames
    images: StoredParts
    masks: StoredParts

    def names_of_values(self) -> tuple[tuple[str, ...], frozenset[int]]:
        """Names of the values from 0 on, and those of them and others that are ignored."""
        values = dict(zip(self.manifest.values, self.manifest.classes, strict=True))
        names = (values.get(value, f"value {value}, ignored") for value in range(1 + max(values)))
        gaps = {*range(max(values))} - values.keys()
        return tuple(names), frozenset(gaps.union(self.manifest.ignored))

    def files(self) -> Iterator[tuple[ListedFile, ListedFile]]:
        """Each photo with its mask."""
        for row in range(len(self.names)):
            yield (
                _listed(self.names[row], self.images, row),
                _listed(self.mask_names[row], self.masks, row),
            )


def _listed(name: str, parts: StoredParts, row: int) -> ListedFile:
    place = PurePosixPath(name.rpartition(":")[2])
    return ListedFile(name=name, place=place, kept=StoredPart(parts, row))


def open_mask_shards(location: Location, patience: Patience | None = None) -> MaskShards:
    """Open the shards of one split.

    Args:
        location: As ``find_shards`` found it.
        patience: How long to try to fetch a file; what is fetched is kept in the user's cache.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: The manifest, the index or a shard is damaged, or they hold no masks.
        ConnectionError: The server does not give the manifest or the index.
    """
    index, reader = open_files(location, patience=patience)
    manifest = reader.manifest
    if not isinstance(manifest, MaskManifest):
        raise ValueError(
            f"{reader.files} holds photos with one class each, no masks; make shards of masks with "
            f"`wszoo shards make --task segment`"
        )
    folder = f"{reader.files}/"
    names = SampleNames(manifest, index, folder=folder)
    mask_names = SampleNames(manifest, index, folder=folder, masks=True)
    return MaskShards(
        manifest=manifest,
        names=names,
        mask_names=mask_names,
        images=_parts(reader, names, index, "offset", "length"),
        masks=_parts(reader, mask_names, index, "mask_offset", "mask_length"),
    )


def _parts(
    reader: ShardReader, names: SampleNames, index: np.ndarray, offset: str, length: str
) -> StoredParts:
    columns = [index[column].astype(np.int64) for column in ("shard", offset, length)]
    return StoredParts(reader, names, np.stack(columns, axis=1))
