"""The index of a folder of tar shards: where each sample lies, and what it is called.

It may come from a server, so nothing in it is believed before it is checked.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import overload

import numpy as np

from wszoo.datasets.shard_manifest import AGAIN, Manifest, MaskManifest, sample_key
from wszoo.files import sha256_of

# One row per sample, in the order of the shards: the number of its shard, where the encoded image
# lies in it (bytes), its class, and which of the manifest's suffixes it is named with.
INDEX_DTYPE = np.dtype(
    [("shard", "<u4"), ("offset", "<u8"), ("length", "<u8"), ("target", "<u4"), ("suffix", "u1")]
)
# The same where each image has a mask, which lies behind it.
MASK_INDEX_DTYPE = np.dtype(
    [
        *(("shard", "<u4"), ("offset", "<u8"), ("length", "<u8"), ("suffix", "u1")),
        *(("mask_offset", "<u8"), ("mask_length", "<u8"), ("mask_suffix", "u1")),
    ]
)
MASK_ENDING = ".seg"  # before the suffix, for one key names both files


def index_dtype(manifest: Manifest) -> np.dtype:
    """Of the rows of the index."""
    return MASK_INDEX_DTYPE if isinstance(manifest, MaskManifest) else INDEX_DTYPE


def spans(index: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Offsets and lengths of the images, and of the masks where there are any."""
    yield index["offset"], index["length"]
    if index.dtype == MASK_INDEX_DTYPE:
        yield index["mask_offset"], index["mask_length"]


def read_index(path: Path, manifest: Manifest, where: str | None = None) -> np.ndarray:
    """The rows of the index, as ``(N,)`` of ``INDEX_DTYPE``.

    Args:
        path: The file.
        manifest: What it must fit.
        where: What errors call it; its path by default.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not the file that the manifest names, or does not fit it.
    """
    where = where or str(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such index: {where}; {AGAIN}")
    if (digest := sha256_of(path)) != manifest.index.sha256:
        raise ValueError(
            f"{where} is damaged: its sha256 is {digest}, the manifest says "
            f"{manifest.index.sha256}; {AGAIN}"
        )
    try:
        # Mapped first: a header that promises too much is then refused before memory is taken.
        index: np.ndarray = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
        reason = _misfit(index, manifest)
    except (ValueError, OSError, EOFError, TokenError) as error:  # numpy's, of damaged headers
        reason = str(error).partition("\n")[0]
    if reason:
        raise ValueError(f"{where} does not fit its manifest: {reason}; make the shards again")
    return index


def _misfit(index: np.ndarray, manifest: Manifest) -> str | None:
    """In what the rows contradict the manifest."""
    counts = [shard.count for shard in manifest.shards]
    if index.dtype != index_dtype(manifest) or index.shape != (manifest.index.count,):
        return f"it holds {index.shape} of {index.dtype}"
    if not np.array_equal(index["shard"], np.repeat(np.arange(len(counts)), counts)):
        return "its shards have other counts"
    limits = {
        "target": ("class", len(manifest.classes)),
        **dict.fromkeys(("suffix", "mask_suffix"), ("suffix", len(manifest.suffixes))),
    }
    for column, (what, limit) in limits.items():
        if column in (index.dtype.names or ()) and index[column].max() >= limit:
            return f"{what} {index[column].max()} of {limit}"
    ends = np.repeat(np.array([shard.bytes for shard in manifest.shards], np.uint64), counts)
    for offset, length in spans(index):
        within = (offset <= ends) & (length <= ends - offset)
        if not within.all():
            return f"sample {within.argmin()} lies beyond its shard"
    return None


class SampleNames(Sequence[str]):
    """``<shard>:<member>`` of each image, made when asked for: millions of them cost nothing.

    Args:
        manifest: Names shards and suffixes.
        index: A row for each image.
        folder: What stands before the name of each shard, with a slash at its end.
        masks: Name the masks instead.
    """

    def __init__(
        self, manifest: Manifest, index: np.ndarray, *, folder: str = "", masks: bool = False
    ) -> None:
        self._manifest, self._index, self._folder = manifest, index, folder
        self._ending, self._column = (MASK_ENDING, "mask_suffix") if masks else ("", "suffix")

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[str, ...]: ...
    def __getitem__(self, number: int | slice) -> str | tuple[str, ...]:
        if isinstance(number, slice):
            return tuple(self[inner] for inner in range(*number.indices(len(self))))
        row = self._index[number]
        shard = self._manifest.shards[row["shard"]].name
        suffix = self._manifest.suffixes[row[self._column]]
        key = sample_key(range(len(self))[number])
        return f"{self._folder}{shard}:{key}{self._ending}{suffix}"
