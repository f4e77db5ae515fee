"""The folder of a run: held by this process alone, and gone again if the run never begins."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from wszoo.training.lock import only_writer

_OF_A_WRITER = (".lock", "writer.json")
# What is written before the first step.
_OF_A_BEGINNING = (*_OF_A_WRITER, "run.json", "starts.jsonl", "plan.json", "events.jsonl")


@contextlib.contextmanager
def run_folder(output: Path) -> Iterator[Callable[[], None]]:
    """Hold the folder of a run, made if missing, so that no other process writes into it.

    What fails before the first step leaves nothing behind: neither its files nor folders that were
    made for it. In a folder that held anything before, such as a run, all stays.

    Yields:
        What is to be called when the first step is about to be taken.

    Raises:
        OSError: The folder cannot be made or written to, or another process holds it.
    """
    missing = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the folder {output}: {error.strerror}; name another one with --out"
        ) from error
    with only_writer(output):
        is_new = {path.name for path in output.iterdir()} <= {*_OF_A_WRITER}
        begun: list[bool] = []
        try:
            yield lambda: begun.append(True)
        except BaseException:
            if is_new and not begun:
                _take_back(output, missing)
            raise


def _take_back(output: Path, made: list[Path]) -> None:
    for name in _OF_A_BEGINNING:
        with contextlib.suppress(OSError):  # where open files cannot go, the lock stays
            (output / name).unlink(missing_ok=True)
    for folder in made:
        with contextlib.suppress(OSError):  # others may have put something there meanwhile
            folder.rmdir()
