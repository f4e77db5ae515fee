"""One writer per folder."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

_LOCK, _WRITER = ".lock", "writer.json"


@contextmanager
def only_writer(output: Path, *, wait_seconds: float = 60) -> Iterator[None]:
    """Hold the folder of a run, so that no two processes write into it.

    The lock falls with the process that holds it, however that ends.

    Raises:
        OSError: Another process holds it still after ``wait_seconds``, or the folder cannot be
            written to.
    """
    lock = filelock.FileLock(output / _LOCK)
    try:
        lock.acquire(timeout=wait_seconds)
    except filelock.Timeout:
        raise OSError(
            f"{output} is being written by {_describe_writer(output)}; wait for it to end, "
            f"stop it, or name another folder"
        ) from None
    try:
        facts = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T %z")}
        (output / _WRITER).write_text(json.dumps(facts))
        yield
    finally:
        lock.release()


def _describe_writer(output: Path) -> str:
    try:
        facts = json.loads((output / _WRITER).read_text())
        return f"process {facts['pid']} on {facts['host']} since {facts['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
