"""Checking the members of one tar shard against the index: names, places, classes, and decoding."""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wszoo.datasets.classification import open_image
from wszoo.datasets.segmentation import SegmentationImages
from wszoo.datasets.shard_index import MASK_ENDING
from wszoo.datasets.shard_manifest import Manifest, MaskManifest, sample_key

_LONGEST_LABEL = 10  # digits of a target in 32 bits

_Place = tuple[str, int, int]  # name, offset and length of a member


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the index tells of a sample.

    Attributes:
        key: What its members are named with.
        image: Where the photo is.
        mask: Where its mask is, if it has one.
        target: Its class, if it has one.
    """

    key: str
    image: _Place
    mask: _Place | None = None
    target: int | None = None

    @classmethod
    def told_by(cls, row: np.void, number: int, manifest: Manifest) -> "Sample":
        """Sample ``number`` of all shards."""
        key = sample_key(number)
        image = f"{key}{manifest.suffixes[row['suffix']]}"
        place = (image, int(row["offset"]), int(row["length"]))
        if not isinstance(manifest, MaskManifest):
            return cls(key=key, image=place, target=int(row["target"]))
        mask = f"{key}{MASK_ENDING}{manifest.suffixes[row['mask_suffix']]}"
        return cls(
            key=key,
            image=place,
            mask=(mask, int(row["mask_offset"]), int(row["mask_length"])),
        )


def check_members(
    path: Path, where: str, samples: Sequence[Sample], manifest: Manifest | None
) -> Iterator[str]:
    """Findings of members that are not as the index tells.

    Args:
        path: Of the shard.
        where: What findings call it.
        samples: That it should hold.
        manifest: Decode every photo as well, and every mask of the classes in it; or not.
    """
    key = samples[0].key
    try:
        with tarfile.open(path, "r:") as tar:
            for sample in samples:
                key = sample.key
                first, second = tar.next(), tar.next()
                if first is None or second is None:
                    yield f"{where} ends before {key}; copy it again"
                    return
                yield from _check_sample(tar, first, second, sample, where)
                if manifest is not None:
                    yield from _check_contents(tar, first, second, where, manifest)
            if tar.next() is not None:
                yield f"{where} holds more than its {len(samples)} samples; make the shards again"
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        yield f"{where} cannot be read at {key}: {reason}; copy it again"


def _check_sample(
    tar: tarfile.TarFile,
    image: tarfile.TarInfo,
    other: tarfile.TarInfo,
    sample: Sample,
    where: str,
) -> Iterator[str]:
    yield from _check_place(image, sample.image, where)
    if sample.mask is not None:
        yield from _check_place(other, sample.mask, where)
        return
    text = _content(tar, other)[:_LONGEST_LABEL]
    if (other.name, text) != (f"{sample.key}.cls", str(sample.target).encode()):
        yield (
            f"{where} holds {other.name} of class {text.decode(errors='replace')!r}, the index "
            f"tells of {sample.key}.cls of class '{sample.target}'; make the shards again"
        )


def _check_place(member: tarfile.TarInfo, place: _Place, where: str) -> Iterator[str]:
    found, (name, offset, length) = (member.name, member.offset_data, member.size), place
    if found != place:
        yield (
            f"{where} holds {found[0]} of {found[2]} bytes at {found[1]}, the index tells of "
            f"{name} of {length} at {offset}; make the shards again"
        )


def _check_contents(
    tar: tarfile.TarFile,
    image: tarfile.TarInfo,
    other: tarfile.TarInfo,
    where: str,
    manifest: Manifest,
) -> Iterator[str]:
    """What decoding shows."""
    name, data = f"{where}:{image.name}", _content(tar, image)
    try:
        if not isinstance(manifest, MaskManifest):
            open_image(data, name)
            return
        sample = SegmentationImages(
            names=(name,),
            sources=(data,),
            mask_names=(f"{where}:{other.name}",),
            mask_sources=(_content(tar, other),),
            classes=manifest.classes,
            values=manifest.values,
            ignored=frozenset(manifest.ignored),
        )
        sample.image(0)
        sample.mask(0)
    except ValueError as error:
        yield str(error)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file is not None else b""  # a link or a folder
