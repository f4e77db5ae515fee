"""What may lie in a folder that is published, whatever it publishes."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wszoo.files import read_text, sha256_of
from wszoo.weights import WEIGHTS_FILE

CARD, CONFIG, RESULTS = TEXTS = ("README.md", "config.json", "results.json")
_PICTURE = ".png"
_PNG = b"\x89PNG\r\n\x1a\n"  # with which each begins


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file as it is, or will be, in the repository.

    Attributes:
        name: In the repository, whose files lie side by side.
        path: Where it lies here.
        bytes: Its size.
        sha256: Its digest.
    """

    name: str
    path: Path
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.bytes, "sha256": self.sha256}


@dataclass(frozen=True, kw_only=True)
class Files:
    """Those of one publication, all checked."""

    files: tuple[PublishedFile, ...]

    @property
    def weights_path(self) -> Path:
        return next(file.path for file in self.files if file.name == WEIGHTS_FILE)


def is_publishable(name: str) -> bool:
    """Whether a folder that is published may hold a file of this name."""
    return name in (*TEXTS, WEIGHTS_FILE) or Path(name).suffix == _PICTURE


def paths_in(folder: Path) -> dict[str, Path]:
    """The files of a folder, by name.

    Raises:
        ValueError: It holds what is not published.
    """
    paths = {path.name: path for path in folder.iterdir()}
    stray = sorted(name for name in paths if not (is_publishable(name) and paths[name].is_file()))
    if stray:
        raise ValueError(
            f"{folder} holds {', '.join(stray)}; only {', '.join(TEXTS)}, {WEIGHTS_FILE} and "
            f"pictures (*{_PICTURE}) are published, never a pickle: move it elsewhere"
        )
    return paths


def require(folder: Path, paths: Mapping[str, Path], again: str) -> None:
    """Make sure that no file is missing that each publication has; ``again`` is the way out.

    Raises:
        FileNotFoundError: One is.
    """
    for name in (*TEXTS, WEIGHTS_FILE):
        if name not in paths:
            raise FileNotFoundError(f"{folder} lacks {name}; {again}")


def read_json(path: Path, again: str) -> dict[str, Any]:
    """The table that a file holds.

    Raises:
        ValueError: It holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        reason = "no table of names"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise ValueError(f"{path} is not JSON as published: {reason}; {again}")


def check_pictures(paths: Mapping[str, Path], again: str) -> None:
    """Make sure that the pictures of a card are there, and that each is one.

    Raises:
        FileNotFoundError: The card shows one that is missing.
        ValueError: One is of another kind than its name says.
    """
    card = paths[CARD]
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", read_text(card, again)):
        if name not in paths:
            raise FileNotFoundError(f"{card} shows {name}, which is not beside it; {again}")
    for path in paths.values():
        if path.suffix == _PICTURE and path.read_bytes()[: len(_PNG)] != _PNG:
            raise ValueError(f"{path} is no PNG picture; {again}")


def measured(paths: Mapping[str, Path]) -> tuple[PublishedFile, ...]:
    """Each file with its size and digest, by name."""
    return tuple(
        PublishedFile(name=name, path=path, bytes=path.stat().st_size, sha256=sha256_of(path))
        for name, path in sorted(paths.items())
    )
