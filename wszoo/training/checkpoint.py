"""Checkpoints: folders that are either complete and verified, or ignored."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from wszoo.files import flush_to_disk, sha256_of

_PREFIX = "step-"
_MANIFEST = "manifest.json"


def save_checkpoint(run: Path, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write ``state`` to ``run/step-<step>``; the newest ``keep`` folders stay.

    The folder is written aside, flushed to disk and renamed into place, so a crash at any moment
    leaves the ones before it whole.

    Args:
        state: Tensors, numbers, strings and plain containers of them.
    """
    final = run / f"{_PREFIX}{step:08d}"
    aside = run / f".{final.name}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    torch.save(state, aside / "state.pt")
    manifest = {"step": step, "sha256": {"state.pt": sha256_of(aside / "state.pt")}}
    (aside / _MANIFEST).write_text(json.dumps(manifest, indent=2))
    for path in (*aside.iterdir(), aside):
        flush_to_disk(path)
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    flush_to_disk(run)
    for old in _folders(run)[:-keep]:
        shutil.rmtree(old)
    return final


def load_checkpoint(run: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest complete checkpoint of ``run`` and its folder; None where there is none.

    Raises:
        ValueError: Folders are there, and every one of them is damaged.
    """
    folders = _folders(run)
    damaged = []
    for folder in reversed(folders):
        if _is_complete(folder):
            return torch.load(folder / "state.pt", map_location="cpu", weights_only=True), folder
        damaged.append(folder)
    if damaged:
        raise ValueError(
            f"every checkpoint of {run} is damaged ({', '.join(f.name for f in damaged)}); "
            f"remove them to start over"
        )
    return None


def _is_complete(folder: Path) -> bool:
    try:
        digests = json.loads((folder / _MANIFEST).read_text())["sha256"]
        return all(sha256_of(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, KeyError):
        return False


def _folders(run: Path) -> list[Path]:
    return sorted(run.glob(f"{_PREFIX}*"))

