"""Output folders that appear whole, replace earlier ones whole, and never replace anything else."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wszoo.files import flush_to_disk

MADE_BY = "wszoo convert"
REPORT_FILE, FAILED_REPORT_FILE = "report.json", "report.failed.json"
_OURS = {"model.safetensors", "config.json", "README.md", REPORT_FILE, FAILED_REPORT_FILE}


def require_replaceable(folder: Path) -> None:
    """Make sure that nothing but an earlier conversion would be lost with ``folder``.

    Raises:
        FileExistsError: It holds something else; or it is a file.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder with -o")
    names = {path.name for path in folder.iterdir()}
    if not names or (names <= _OURS and _has_report(folder)):
        return
    foreign = min(names - _OURS or names)
    raise FileExistsError(
        f"{folder} holds {foreign!r}, which is not of an earlier conversion; "
        f"name a new folder with -o"
    )


def _has_report(folder: Path) -> bool:
    for name in (REPORT_FILE, FAILED_REPORT_FILE):
        try:
            report = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(report, dict) and report.get("made_by") == MADE_BY:
            return True
    return False


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of ``folder`` once the block ends well.

    A folder that is there stays the same directory, since it may be somebody's working directory:
    the files in it are exchanged. Only files of an earlier conversion are ever removed.

    Raises:
        FileExistsError: Something else was put into it meanwhile.
        OSError: It cannot be made or put in place; then ``folder`` is what it was.
    """
    folder = folder.resolve()
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    former = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        aside.mkdir(parents=True)
        yield aside
        for path in aside.iterdir():
            flush_to_disk(path)
        require_replaceable(folder)
        if folder.exists():
            former.mkdir()
            _exchange(folder, aside, former)
            flush_to_disk(folder)
        else:
            aside.rename(folder)
        flush_to_disk(folder.parent)
    except FileExistsError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot write {folder}: {reason}; name another folder") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _exchange(folder: Path, aside: Path, former: Path) -> None:
    """Move our files from ``folder`` to ``former`` and those of ``aside`` in, or undo all of it."""
    steps = [(folder / name, former / name) for name in sorted(_OURS) if (folder / name).exists()]
    steps += [(path, folder / path.name) for path in sorted(aside.iterdir())]
    done: list[tuple[Path, Path]] = []
    try:
        for old, new in steps:
            old.rename(new)
            done.append((old, new))
    except OSError:
        for old, new in reversed(done):
            new.rename(old)
        raise


def leave_failed_report(folder: Path, text: str) -> Path:
    """Put the report of a failed conversion into ``folder``; an earlier good one stays.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / FAILED_REPORT_FILE
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; name another folder") from error
    finally:
        with contextlib.suppress(OSError):  # such as a folder that is a file
            aside.unlink(missing_ok=True)
    return path
