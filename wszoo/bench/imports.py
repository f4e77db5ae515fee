"""How long an import takes, in fresh interpreters."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from wszoo.bench.result import Row
from wszoo.bench.setting import Cell, Setting
from wszoo.bench.timing import Work, interleave, to_row

GOAL = 1.05
_ROUNDS = 5


def cells(setting: Setting) -> list[Cell]:
    """One."""
    return [Cell("fresh interpreters", partial(_time, setting))]


def _time(setting: Setting) -> list[Row]:
    works = [interpreter("timm, wszoo"), interpreter("timm")]
    both, alone = interleave(works, setting.rounds_of(_ROUNDS), setting.host_clock)
    return [to_row(both, alone, group="import", what="import wszoo", peer="import timm", goal=GOAL)]


def interpreter(modules: str) -> Work:
    """A fresh interpreter that imports ``modules``, this very package among them."""

    def work() -> object:
        command = [sys.executable, "-c", f"import {modules}"]
        # Held back, lest an interpreter that is stopped from the keyboard tells where it was.
        return subprocess.run(command, check=True, env=environment(), stderr=subprocess.PIPE)

    return work


def environment() -> dict[str, str]:
    """That of this process, by which an interpreter finds this very package."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
