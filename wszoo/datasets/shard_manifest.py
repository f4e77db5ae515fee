"""What lies in a folder of tar shards: its manifest, and the index of its samples.

Both may come from a server, so nothing in them is believed before it is checked.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, overload

import numpy as np

from wszoo.datasets.classification import IMAGE_SUFFIXES
from wszoo.files import sha256_of

MANIFEST, INDEX = "manifest.json", "index.npy"
MAX_MANIFEST_BYTES = 64 * 2**20  # some 300 000 shards
_FORMAT, _VERSION = "wszoo shards", 1
_AGAIN = "copy it again, or make the shards again"

# One row per sample, in the order of the shards: the number of its shard, where the encoded image
# lies in it (bytes), its class, and which of the manifest's suffixes it is named with.
INDEX_DTYPE = np.dtype(
    [("shard", "<u4"), ("offset", "<u8"), ("length", "<u8"), ("target", "<u4"), ("suffix", "u1")]
)

_FILE_NAME = re.compile(rf"{re.escape(INDEX)}|[A-Za-z0-9][A-Za-z0-9_-]{{0,99}}-[0-9]{{6}}\.tar")
_ANY_TEXT = re.compile(r".+", re.DOTALL)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """A file beside the manifest.

    Attributes:
        name: A plain name, fit for a path and an address.
        count: Samples that it holds, or tells of.
        bytes: Its size.
        sha256: Its hex digest.

    Raises:
        ValueError: One of them cannot be.
    """

    name: str
    count: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _require_text(self.name, "the name of a shard", _FILE_NAME)
        _require_text(self.sha256, f"the sha256 of {self.name}", _SHA256)
        for key, value in (("count", self.count), ("bytes", self.bytes)):
            if type(value) is not int or not 0 < value < 2**63:
                raise ValueError(f"the {key} of {self.name} is {value!r}, not a positive integer")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards holds.

    Attributes:
        classes: Names of the classes; a target is an index into them.
        suffixes: What images are named with; the index points into them.
        quarantined: Images of the source that were left out.
        index: The file of one row per sample.
        shards: The tar files, in the order of the index.

    Raises:
        ValueError: They do not fit together.
    """

    classes: tuple[str, ...]
    suffixes: tuple[str, ...]
    quarantined: int
    index: ShardFile
    shards: tuple[ShardFile, ...]

    def __post_init__(self) -> None:
        for name in self.classes:
            _require_text(name, "the name of a class")
        if unknown := [suffix for suffix in self.suffixes if suffix not in IMAGE_SUFFIXES]:
            raise ValueError(f"{unknown[0]!r} is no suffix of an image")
        if type(self.quarantined) is not int or self.quarantined < 0:
            raise ValueError(f"the count of quarantined images is {self.quarantined!r}")
        if self.index.name != INDEX:
            raise ValueError(f"the index is named {self.index.name!r}, not {INDEX}")
        names = [shard.name for shard in self.shards]
        for what, listed in (("class", self.classes), ("shard", names)):
            if not listed or len(set(listed)) < len(listed):
                raise ValueError(f"no {what} is listed, or one of them twice")
        if INDEX in names:
            raise ValueError(f"{INDEX} is listed as a shard")
        total = sum(shard.count for shard in self.shards)
        if total != self.index.count:
            raise ValueError(f"the index has {self.index.count} samples, the shards have {total}")

    def to_json(self) -> str:
        """The content of ``manifest.json``."""
        return json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(self)}, indent=1) + "\n"


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest in ``content``, which ``where`` names in errors.

    Raises:
        ValueError: It is none.
    """
    try:
        data = json.loads(content)
        found = (data["format"], data["version"])
        if found != (_FORMAT, _VERSION):
            raise ValueError(f"it is of format {found!r}, known is {(_FORMAT, _VERSION)!r}")
        return Manifest(
            classes=tuple(_require_list(data["classes"], "classes")),
            suffixes=tuple(_require_list(data["suffixes"], "suffixes")),
            quarantined=data["quarantined"],
            index=ShardFile(**data["index"]),
            shards=tuple(ShardFile(**shard) for shard in _require_list(data["shards"], "shards")),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where} is no manifest of shards: {reason}; {_AGAIN}") from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"no {MANIFEST} in {folder}; `wszoo shards make` writes one when it is done"
        )
    return parse_manifest(path.read_bytes(), str(path))


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
        raise FileNotFoundError(f"no such index: {where}; {_AGAIN}")
    if (digest := sha256_of(path)) != manifest.index.sha256:
        raise ValueError(
            f"{where} is damaged: its sha256 is {digest}, the manifest says "
            f"{manifest.index.sha256}; {_AGAIN}"
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
    if index.dtype != INDEX_DTYPE or index.shape != (manifest.index.count,):
        return f"it holds {index.shape} of {index.dtype}"
    if not np.array_equal(index["shard"], np.repeat(np.arange(len(counts)), counts)):
        return "its shards have other counts"
    if index["target"].max() >= len(manifest.classes):
        return f"class {index['target'].max()} of {len(manifest.classes)}"
    if index["suffix"].max() >= len(manifest.suffixes):
        return f"suffix {index['suffix'].max()} of {len(manifest.suffixes)}"
    ends = np.repeat(np.array([shard.bytes for shard in manifest.shards], np.uint64), counts)
    within = (index["offset"] <= ends) & (index["length"] <= ends - index["offset"])
    return None if within.all() else f"sample {within.argmin()} lies beyond its shard"


def shard_name(name: str, number: int) -> str:
    """File name of a shard.

    Raises:
        ValueError: ``name`` is not fit for one.
    """
    full = f"{name}-{number:06d}.tar"
    if not _FILE_NAME.fullmatch(full):
        raise ValueError(f"shards cannot be named {name!r}; use letters, digits, - and _ only")
    return full


def sample_key(number: int) -> str:
    """What both members of a sample are named with, before the first dot."""
    return f"{number:09d}"


class SampleNames(Sequence[str]):
    """``<shard>:<member>`` of each image, made when asked for: millions of them cost nothing."""

    def __init__(self, manifest: Manifest, index: np.ndarray) -> None:
        self._manifest, self._index = manifest, index

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
        key = sample_key(range(len(self))[number])
        return f"{shard}:{key}{self._manifest.suffixes[row['suffix']]}"


def _require_text(value: Any, what: str, pattern: re.Pattern[str] = _ANY_TEXT) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not {what}")


def _require_list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"its {what} are no list")
    return value
