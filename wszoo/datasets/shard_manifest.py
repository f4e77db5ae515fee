"""What lies in a folder of tar shards, as its manifest tells.

It may come from a server, so nothing in it is believed before it is checked.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from wszoo.datasets.classification import IMAGE_SUFFIXES
from wszoo.datasets.masks import IGNORED

MANIFEST, INDEX = "manifest.json", "index.npy"
MAX_MANIFEST_BYTES = 64 * 2**20  # some 300 000 shards
AGAIN = "copy it again, or make the shards again"

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
    """What a folder of shards of photos with one class each holds.

    Attributes:
        classes: Names of the classes; a target is an index into them.
        suffixes: What images are named with; the index points into them.
        quarantined: Images of the source that were left out.
        index: The file of one row per sample.
        shards: The tar files, in the order of the index.

    Raises:
        ValueError: They do not fit together.
    """

    FORMAT: ClassVar = ("wszoo shards", 1)  # name and version

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
        name, version = self.FORMAT
        return json.dumps({"format": name, "version": version, **asdict(self)}, indent=1) + "\n"


@dataclass(frozen=True, kw_only=True)
class MaskManifest(Manifest):
    """What a folder of shards of photos with a mask each holds.

    Attributes:
        values: What the masks hold for each class.
        ignored: Other values that they may hold, for pixels of no class; 255 always is one.
    """

    FORMAT: ClassVar = ("wszoo mask shards", 1)

    values: tuple[int, ...]
    ignored: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, numbers in (("values", self.values), ("ignored values", self.ignored)):
            if any(type(value) is not int or not 0 <= value <= IGNORED for value in numbers):
                raise ValueError(f"its {what} are {[*numbers]!r}; masks hold 0 to {IGNORED}")
            if len({*numbers}) < len(numbers):
                raise ValueError(f"its {what} are {[*numbers]!r}, one of them twice")
        if both := {*self.values}.intersection((*self.ignored, IGNORED)):
            raise ValueError(f"the value {min(both)} is a class and ignored")
        if len(self.values) != len(self.classes) or len(self.classes) < 2:
            raise ValueError(f"it has {len(self.values)} values for {len(self.classes)} classes")


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest in ``content``, which ``where`` names in errors.

    Raises:
        ValueError: It is none.
    """
    try:
        data = json.loads(content)
        found = (data["format"], data["version"])
        if found not in (Manifest.FORMAT, MaskManifest.FORMAT):
            known = f"{Manifest.FORMAT!r} and {MaskManifest.FORMAT!r}"
            raise ValueError(f"it is of format {found!r}, known are {known}")
        common: dict[str, Any] = {
            "classes": _tuple_of(data, "classes"),
            "suffixes": _tuple_of(data, "suffixes"),
            "quarantined": data["quarantined"],
            "index": ShardFile(**data["index"]),
            "shards": tuple(ShardFile(**shard) for shard in _tuple_of(data, "shards")),
        }
        if found == Manifest.FORMAT:
            return Manifest(**common)
        values, ignored = _tuple_of(data, "values"), _tuple_of(data, "ignored")
        return MaskManifest(**common, values=values, ignored=ignored)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where} is no manifest of shards: {reason}; {AGAIN}") from error


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
    """What the members of a sample are named with, before the first dot."""
    return f"{number:09d}"


def _require_text(value: Any, what: str, pattern: re.Pattern[str] = _ANY_TEXT) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not {what}")


def _tuple_of(data: dict[str, Any], key: str) -> tuple[Any, ...]:
    if not isinstance(data[key], list):
        raise ValueError(f"its {key} are no list")
    return tuple(data[key])
