"""Checkpoints: folders that are either complete and verified, or ignored."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from wszoo.files import flush_to_disk, sha256_of

_PREFIX = "step-"
_PARTIAL = ".partial"
_MANIFEST = "manifest.json"
_STATE = "state.pt"


def save_checkpoint(run: Path, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write ``state`` to ``run/step-<step>``; the newest ``keep`` folders stay.

    The folder is written aside, flushed to disk and renamed into place, so a crash at any moment
    leaves the ones before it whole.

    Args:
        run: Folder of the run; made if missing.
        step: Where the run stands; the newest checkpoint is the one of the greatest step.
        state: Tensors, numbers, strings and plain containers of them.
        keep: Folders that stay, this one included.

    Raises:
        ValueError: ``keep`` is less than 1.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    final = run / f"{_PREFIX}{step:08d}"
    aside = run / f".{final.name}{_PARTIAL}"
    for left_over in run.glob(f".{_PREFIX}*{_PARTIAL}"):
        shutil.rmtree(left_over)
    aside.mkdir(parents=True)
    torch.save(state, aside / _STATE)
    manifest = {"step": step, "sha256": {_STATE: sha256_of(aside / _STATE)}}
    (aside / _MANIFEST).write_text(json.dumps(manifest, indent=2))
    for path in (*aside.iterdir(), aside):
        flush_to_disk(path)
    if final.exists():
        final.rename(run / f".{final.name}.replaced{_PARTIAL}")
    aside.rename(final)
    flush_to_disk(run)
    _remove_old(run, final, keep)
    return final


def load_checkpoint(run: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest complete checkpoint of ``run`` and its folder; None where there is none.

    Raises:
        ValueError: Folders are there, and every one of them is damaged.
    """
    folders = _folders(run)
    for folder in reversed(folders):
        if _is_complete(folder):
            return torch.load(folder / _STATE, map_location="cpu", weights_only=True), folder
    if folders:
        raise ValueError(
            f"every checkpoint of {run} is damaged ({', '.join(f.name for f in folders)}); "
            f"remove them to start over"
        )
    return None


def _remove_old(run: Path, final: Path, keep: int) -> None:
    """Keep ``final`` and the newest others; damaged ones that it was resumed before go first."""
    for left_over in run.glob(f".{_PREFIX}*{_PARTIAL}"):
        shutil.rmtree(left_over)
    folders = _folders(run)
    for later in folders[folders.index(final) + 1 :]:
        if not _is_complete(later):
            shutil.rmtree(later)
    for old in [folder for folder in _folders(run) if folder != final][: -(keep - 1) or None]:
        shutil.rmtree(old)


def _is_complete(folder: Path) -> bool:
    try:
        digest = json.loads((folder / _MANIFEST).read_text())["sha256"][_STATE]
        return bool(sha256_of(folder / _STATE) == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _folders(run: Path) -> list[Path]:
    """Folders of checkpoints in the order of their steps."""
    steps = {
        int(match[1]): path
        for path in run.glob(f"{_PREFIX}*")
        if (match := re.fullmatch(rf"{_PREFIX}(\d+)", path.name)) and path.is_dir()
    }
    return [steps[step] for step in sorted(steps)]
