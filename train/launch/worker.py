"""Run a module as ``python -m`` would, and note its exit code where the agent finds it.

Nothing heavy is imported here, so that signals are heeded from the start.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

EXIT_CODES = "WSZOO_EXIT_CODES"  # environment variable: a folder with one file per rank
STOPPED = 4  # exit code: stopped by a signal, and nothing is lost


def end_on_signals() -> None:
    """Let a signal end this process as a run that was stopped and saved.

    For the seconds until the training is set up, which has handlers of its own: before, there is
    nothing to save.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda _number, _frame: sys.exit(STOPPED))


def main() -> None:
    end_on_signals()
    module, *arguments = sys.argv[1:]
    note = Path(os.environ[EXIT_CODES]) / os.environ["RANK"]
    note.write_text("")  # all that is left of a worker that was killed
    sys.argv = [module, *arguments]
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        # As Python does: no code is success, a text is an error.
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    finally:
        note.write_text(str(code))


if __name__ == "__main__":
    main()
