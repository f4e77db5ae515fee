"""Writing a data set into tar shards, in an order shuffled once and for all."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from wszoo.datasets.classification import LabelledImages
from wszoo.datasets.segmentation import SegmentationImages
from wszoo.datasets.shard_contents import Contents, LabelledContents, MaskContents
from wszoo.datasets.shard_manifest import Manifest, ShardFile
from wszoo.datasets.shard_tar import Member, ShardWriter, naming, written_aside

QUARANTINE = "quarantine.tsv"
DEFAULT_SHARD_BYTES = 256 * 2**20
_AT_ONCE = 64  # photos in memory, encoded
_NAMED = 5  # broken photos in an error
_SHUFFLE = 101  # what its random numbers are for; no Purpose of wszoo.training.sampler


def write_shards(
    images: LabelledImages | SegmentationImages,
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
    is written, with its mask where it has one; a few at a time are in memory.

    Args:
        images: What to write, byte by byte as it is encoded.
        output: The new folder.
        name: What the names of the shards begin with.
        bytes_per_shard: Size that no shard passes, unless a single photo does.
        quarantine: Leave out what cannot be decoded, and masks that do not fit their photo or the
            classes, and list it in ``quarantine.tsv`` (name, reason); an error otherwise.
        on_shard: Told of each shard that is complete.
        progress: Wraps the numbers of the photos, as ``tqdm`` does.

    Raises:
        ValueError: A photo cannot be learnt from, a class would be left without one, or an
            argument is wrong.
        FileExistsError: There is such a folder, and it is not empty.
        OSError: The folder cannot be written, or another process writes it.
    """
    if bytes_per_shard < 1:
        raise ValueError(f"bytes_per_shard must be at least 1, got {bytes_per_shard}")
    if not len(images):
        raise ValueError("there are no images to write")
    contents: Contents = (
        LabelledContents(images) if isinstance(images, LabelledImages) else MaskContents(images)
    )
    broken: list[tuple[str, str]] = []
    rows, count = np.zeros(len(images), contents.DTYPE), 0
    with (
        written_aside(Path(output).resolve()) as folder,
        closing(ShardWriter(folder, name, bytes_per_shard, on_shard)) as writer,
    ):
        for index, members, reason in _loaded(contents, images.names, progress):
            if reason is not None:
                broken.append((images.names[index], reason))
            elif quarantine or not broken:
                rows[count] = contents.row(index, members, *writer.add(members))
                count += 1
        if broken:
            _set_apart(sorted(broken), folder, quarantine, len(images), contents.BROKEN)
        writer.finish_shard()
        contents.require(rows[:count])
        file = writer.write_index(rows[:count])
        manifest = contents.manifest(rows, len(broken), index=file, shards=writer.shards)
        writer.write_manifest(manifest)
    return manifest


def _shuffled(count: int) -> list[int]:
    """An order in which every shard is a fair sample of all classes."""
    entropy = np.random.SeedSequence((0, 0, _SHUFFLE))
    order: list[int] = np.random.Generator(np.random.Philox(entropy)).permutation(count).tolist()
    return order


def _loaded(
    contents: Contents,
    names: Sequence[str],
    progress: Callable[[Iterable[int]], Iterable[int]],
) -> Iterator[tuple[int, tuple[Member, ...], str | None]]:
    """Number and files of each photo, and why it cannot be learnt from."""

    def load(index: int) -> tuple[int, tuple[Member, ...], str | None]:
        try:
            return index, contents.members(index), None
        except ConnectionError:
            raise
        except OSError as error:
            return index, (), error.strerror or str(error)
        except ValueError as error:
            told = str(error).removeprefix(f"cannot decode {names[index]}: ")
            return index, (), told.partition("; ")[0]

    left = iter(progress(_shuffled(len(names))))
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        while chunk := list(islice(left, _AT_ONCE)):
            yield from pool.map(load, chunk)


def _set_apart(
    broken: list[tuple[str, str]], folder: Path, quarantine: bool, count: int, what: str
) -> None:
    """List the broken photos, or stop."""
    if not quarantine:
        named = ", ".join(f"{name} ({reason})" for name, reason in broken[:_NAMED])
        more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise ValueError(
            f"{len(broken)} of {count} {what}: {named}{more}; mend or remove "
            f"them, or leave them out with --quarantine"
        )
    path = folder / QUARANTINE
    with naming(path), path.open("w", newline="", errors="surrogateescape") as file:
        rows = csv.writer(file, "excel-tab", lineterminator="\n")
        rows.writerows([("name", "reason"), *broken])
