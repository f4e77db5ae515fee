"""What goes into tar shards: photos with one class each, or with a mask each."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Protocol

import numpy as np

from wszoo.datasets.classification import IMAGE_SUFFIXES, LabelledImages, open_image
from wszoo.datasets.segmentation import SegmentationImages
from wszoo.datasets.shard_index import INDEX_DTYPE, MASK_ENDING, MASK_INDEX_DTYPE
from wszoo.datasets.shard_manifest import Manifest, MaskManifest, ShardFile
from wszoo.datasets.shard_tar import Member


class Contents(Protocol):
    """The samples of one task.

    Attributes:
        DTYPE: Of a row of the index.
        BROKEN: What the samples are that ``members`` refuses, in words.
    """

    DTYPE: ClassVar[np.dtype]
    BROKEN: ClassVar[str]

    def members(self, index: int) -> tuple[Member, ...]:
        """The files of sample ``index``, decoded once to see that it can be learnt from.

        Raises:
            ValueError, OSError: It cannot.
        """

    def row(
        self, index: int, members: Sequence[Member], shard: int, offsets: Sequence[int]
    ) -> tuple[int, ...]:
        """Its row of the index."""

    def manifest(
        self, rows: np.ndarray, quarantined: int, *, index: ShardFile, shards: Sequence[ShardFile]
    ) -> Manifest:
        """What tells of all of them."""

    def require(self, rows: np.ndarray) -> None:
        """See that the samples that are left are worth writing.

        Raises:
            ValueError: They are not.
        """


class LabelledContents:
    """Of a classification set: ``<key>.jpg``, the photo as it was, and ``<key>.cls``."""

    DTYPE: ClassVar = INDEX_DTYPE
    BROKEN: ClassVar = "images cannot be decoded"

    def __init__(self, images: LabelledImages) -> None:
        self._images = images

    def members(self, index: int) -> tuple[Member, ...]:
        images = self._images
        name, data = images.names[index], _read(images.sources[index])
        open_image(data, name)
        return (_suffix(name), data), (".cls", str(images.targets[index]).encode())

    def row(
        self, index: int, members: Sequence[Member], shard: int, offsets: Sequence[int]
    ) -> tuple[int, ...]:
        number = _suffix_number(self._images.names[index])
        return shard, offsets[0], len(members[0][1]), self._images.targets[index], number

    def require(self, rows: np.ndarray) -> None:
        classes = self._images.classes
        held = np.bincount(rows["target"], minlength=len(classes))
        if not held.all():
            raise ValueError(
                f"no image of class {classes[int(held.argmin())]!r} can be decoded; mend one, or "
                f"remove the class"
            )

    def manifest(self, rows: np.ndarray, quarantined: int, **files: Any) -> Manifest:
        return Manifest(
            classes=self._images.classes,
            suffixes=IMAGE_SUFFIXES,
            quarantined=quarantined,
            index=files["index"],
            shards=tuple(files["shards"]),
        )


class MaskContents:
    """Of a segmentation set: ``<key>.jpg`` and ``<key>.seg.png``, both as they were.

    Args:
        images: With the names of the masks.

    Raises:
        ValueError: They have none.
    """

    DTYPE: ClassVar = MASK_INDEX_DTYPE
    BROKEN: ClassVar = "images cannot be learnt from with their masks"

    def __init__(self, images: SegmentationImages) -> None:
        if len(images.mask_names) != len(images):
            raise ValueError("the masks have no names; give mask_names")
        self._images = images

    def members(self, index: int) -> tuple[Member, ...]:
        images = self._images
        name, data = images.names[index], _read(images.sources[index])
        mask_name, mask = images.mask_names[index], _read(images.mask_sources[index])
        sample = replace(
            images,
            names=(name,),
            sources=(data,),
            mask_names=(mask_name,),
            mask_sources=(mask,),
        )
        sample.image(0)
        sample.mask(0)
        return (_suffix(name), data), (f"{MASK_ENDING}{_suffix(mask_name)}", mask)

    def row(
        self, index: int, members: Sequence[Member], shard: int, offsets: Sequence[int]
    ) -> tuple[int, ...]:
        images, (data, mask) = self._images, (content for _, content in members)
        return (
            *(shard, offsets[0], len(data), _suffix_number(images.names[index])),
            *(offsets[1], len(mask), _suffix_number(images.mask_names[index])),
        )

    def require(self, rows: np.ndarray) -> None:
        if not len(rows):
            raise ValueError("no image can be learnt from with its mask; mend some")

    def manifest(self, rows: np.ndarray, quarantined: int, **files: Any) -> Manifest:
        images = self._images
        values = range(len(images.classes)) if images.values is None else images.values
        return MaskManifest(
            classes=images.classes,
            suffixes=IMAGE_SUFFIXES,
            quarantined=quarantined,
            index=files["index"],
            shards=tuple(files["shards"]),
            values=tuple(values),
            ignored=tuple(sorted(images.ignored)),
        )


def _read(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _suffix_number(name: str) -> int:
    try:
        return IMAGE_SUFFIXES.index(_suffix(name))
    except ValueError:
        known = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"{name} is not named like an image; known: {known}") from None
