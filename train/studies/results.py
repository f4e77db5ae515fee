"""What a study writes down: rows with all that made them, and means with intervals."""

import hashlib
import json
import math
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch

from wszoo.training.declaration import code_version, hardware
from wszoo.training.rows import replace_file

ROOT = Path(__file__).parent.parent.parent
STUDIES = ROOT / "model_cards" / "studies"
STUDY = "study.json"
# 97.5 % quantiles of Student's t, by degrees of freedom
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


class Interval(NamedTuple):
    """A mean with the half width of its 95 % interval, None where one value tells of none."""

    mean: float
    half: float | None
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + (f" ± {self.half:.1f}" if self.half is not None else "")


def interval(values: Sequence[float]) -> Interval:
    """The mean over seeds, with Student's interval; of at most ten values."""
    if len(values) < 2:
        return Interval(fmean(values), None, len(values))
    half = _T[len(values) - 1] * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values), half, len(values))


def provenance(module: str) -> dict[str, Any]:
    """Versions, hardware, commit and command of what is running now.

    ``sources`` is a digest of the code that makes the figures: the commit alone does not tell what
    a changed checkout ran.
    """
    return {
        "command": " ".join(["python", "-m", module, *map(_unrooted, sys.argv[1:])]),
        "code": code_version(),
        "sources": sources(),
        "torch": torch.__version__,
        "timm": version("timm"),
        "python": platform.python_version(),
        "hardware": hardware(),
    }


def _unrooted(word: str) -> str:
    """An absolute path by its last name: the others tell of one machine alone."""
    return Path(word).name if word.startswith("/") else word


def sources() -> str:
    """Digest of the layers, and of the nets, photos and training of the studies."""
    shared = Path(__file__).parent
    files = [*sorted((ROOT / "wszoo" / "layers").glob("*.py"))]
    files += [shared / name for name in ("nets.py", "photos.py", "learn.py", "grid.py")]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def declare(out: Path, facts: dict[str, Any]) -> None:
    """Write down in study.json what all rows of a folder share, once.

    Raises:
        ValueError: The folder holds rows of other photos or of another plan.
    """
    path = out / STUDY
    facts = json.loads(json.dumps(facts))
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(facts, indent=2) + "\n").encode())
    elif (before := declared(out)) != facts:
        differing = ", ".join(key for key in facts if before.get(key) != facts[key])
        raise ValueError(f"{out} holds results of another study ({differing}); name a new folder")


def declared(out: Path) -> dict[str, Any]:
    """What ``declare`` wrote down."""
    facts: dict[str, Any] = json.loads((out / STUDY).read_text(encoding="utf-8"))
    return facts
