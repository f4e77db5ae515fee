"""Checkpoints: folders that are either complete and verified, or ignored."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wszoo.files import flush_to_disk, sha256_of

_PREFIX = "step-"
_PARTIAL = ".partial"
_REPLACED = (
    ".replaced"  # a complete checkpoint that a newer one of the same step takes the place of
)
_MANIFEST = "manifest.json"
_STATE = "state.pt"

POINTS = ("before flush", "before rename", "between renames", "after rename", "while old ones go")


def on_point(point: str) -> None:
    """Called at each of ``POINTS`` of a save; the study of faults puts a kill in its place."""


def save_checkpoint(
    run: Path, step: int, state: dict[str, Any], *, keep: int = 2, best_step: int | None = None
) -> Path:
    """Write ``state`` to ``run/step-<step>``; the newest ``keep`` folders stay.

    The folder is written aside, flushed to disk and renamed into place, so a crash at any moment
    leaves the ones before it whole.

    Args:
        run: Folder of the run; made if missing.
        step: Where the run stands; the newest checkpoint is the one of the greatest step.
        state: Tensors, numbers, strings and plain containers of them.
        keep: Folders that stay, this one included.
        best_step: Step of the best checkpoint so far, which stays as well.

    Raises:
        ValueError: ``keep`` is less than 1.
        OSError: It cannot be written; what was there before stays, and nothing half-written.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    final = run / f"{_PREFIX}{step:08d}"
    aside = run / f".{final.name}{_PARTIAL}"
    # Through memory, for torch.save tells of a full disk by errors that cannot be told from others.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    manifest = {"step": step, "sha256": {_STATE: hashlib.sha256(data).hexdigest()}}
    try:
        _clear_left_overs(run)
        aside.mkdir(parents=True)
        (aside / _STATE).write_bytes(data)
        (aside / _MANIFEST).write_text(json.dumps(manifest, indent=2))
        on_point("before flush")
        for path in (*aside.iterdir(), aside):
            flush_to_disk(path)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(f"cannot save {final}: {error.strerror or error}") from error
    on_point("before rename")
    if final.exists():
        final.rename(run / f".{final.name}{_REPLACED}{_PARTIAL}")
    on_point("between renames")
    aside.rename(final)
    flush_to_disk(run)
    on_point("after rename")
    _remove_old(run, final, keep, best_step)
    return final


def load_checkpoint(
    run: Path, *, on_damaged: Callable[[Path], None] = lambda _: None
) -> tuple[dict[str, Any], Path] | None:
    """The newest complete checkpoint of ``run`` and its folder; None where there is none.

    Args:
        run: Folder of the run.
        on_damaged: Told of each newer one that is passed over.

    Raises:
        ValueError: Folders are there, and every one of them is damaged.
    """
    for replaced in run.glob(f".{_PREFIX}*{_REPLACED}{_PARTIAL}"):
        final = run / replaced.name[1 : -len(_REPLACED + _PARTIAL)]
        if not final.exists():  # killed between the two renames
            replaced.rename(final)
    folders = _folders(run)
    for folder in reversed(folders):
        if _is_complete(folder):
            return torch.load(folder / _STATE, map_location="cpu", weights_only=True), folder
        on_damaged(folder)
    if folders:
        raise ValueError(
            f"every checkpoint of {run} is damaged ({', '.join(f.name for f in folders)}); "
            f"remove them to start over"
        )
    return None


class Saver:
    """Saves checkpoints of one run in the background, one at a time.

    The state is copied before ``save`` returns, so training may go on at once. What went wrong
    in the background is told by the next call.
    """

    def __init__(self, run: Path, *, keep: int = 2) -> None:
        self._run, self._keep = run, keep
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None

    def save(self, step: int, state: dict[str, Any], *, best_step: int | None = None) -> None:
        """Begin to save, once the save before is done.

        Raises:
            OSError: The save before failed; this one has begun.
        """
        before, copied = self._pending, _copied(state)
        self._pending = self._writer.submit(
            save_checkpoint, self._run, step, copied, keep=self._keep, best_step=best_step
        )
        if before is not None:
            before.result()

    def wait(self) -> None:
        """Return once nothing is left to write.

        Raises:
            OSError: The last save failed.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def _copied(value: Any) -> Any:
    """A copy on the CPU of what may change while it is written."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(inner) for inner in value)
    return value


def _clear_left_overs(run: Path) -> None:
    for left_over in run.glob(f".{_PREFIX}*{_PARTIAL}"):
        shutil.rmtree(left_over)


def _remove_old(run: Path, final: Path, keep: int, best_step: int | None) -> None:
    """Keep ``final``, the best and the newest others; damaged ones that it follows go first."""
    _clear_left_overs(run)
    folders = _folders(run)
    for later in folders[folders.index(final) + 1 :]:
        if not _is_complete(later):
            shutil.rmtree(later)
    kept = {final, run / f"{_PREFIX}{-1 if best_step is None else best_step:08d}"}
    on_point("while old ones go")
    others = [folder for folder in _folders(run) if folder not in kept]
    for old in others[: -(keep - 1) or None]:
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


def refuse_checkpoints(output: Path) -> None:
    """See that a run starts anew.

    Raises:
        ValueError: The folder holds checkpoints.
    """
    if found := sorted(output.glob("step-*")):
        raise ValueError(
            f"{output} holds checkpoints, the newest {found[-1].name}; name another folder, or "
            f"leave out --resume never to go on"
        )
