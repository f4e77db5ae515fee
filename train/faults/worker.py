"""``train.pretrain`` as the study of faults runs it: it tells its step, and dies when told to.

A file ``fault`` in the run's folder holds what is to happen: a point of a save at which rank 0
kills itself, or ``delay SECONDS`` for rank 1. The file is removed when it happens.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from train.pretrain import main
from wszoo.training import checkpoint
from wszoo.training.engine import Learner, Outcome

PROGRESS, FAULT, PID = "progress", "fault", "rank-{}.pid"


def arrange(run: Path) -> None:
    """Put the kills and delays into the places that they are for."""
    fault, rank = run / FAULT, int(os.environ["RANK"])
    with contextlib.suppress(OSError):  # such as a folder that cannot be written to
        run.mkdir(parents=True, exist_ok=True)
        (run / PID.format(rank)).write_text(str(os.getpid()))
    step_of = Learner.step

    def wanted() -> str:
        try:
            return fault.read_text()
        except OSError:
            return ""

    def at(point: str) -> None:
        if wanted() == point:
            fault.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def step(self: Learner, *given: Any, **more: Any) -> Outcome:
        outcome = step_of(self, *given, **more)
        if rank == 0:
            with contextlib.suppress(OSError):  # the disk may be full
                (run / PROGRESS).write_text(str(self.step_count))
        elif wanted().startswith("delay "):
            seconds = float(wanted().split()[1])
            fault.unlink()
            time.sleep(seconds)
        return outcome

    checkpoint.on_point = at
    Learner.step = step  # type: ignore[method-assign]


if __name__ == "__main__":
    arrange(Path(sys.argv[sys.argv.index("--out") + 1]))
    main()
