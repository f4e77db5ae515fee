"""Ctrl-C while a command still imports: one line as later on, not where in torch it was.

The first import of the package takes effect where it is started as a command; in other programs
nothing is touched.
"""

import os
import signal
import sys
import threading
from pathlib import PurePath
from types import FrameType

_STOPPED = 4  # the exit code, as in ``wszoo.terminal``, which imports much


def is_command() -> bool:
    """Whether this process is ``wszoo`` or ``python -m wszoo``, and no child of such a one."""
    processes = sys.modules.get("multiprocessing.process")  # which a child has, whatever imports it
    if processes is not None and processes.parent_process() is not None:
        return False
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # what it is until the module is found; its package is imported before
        return _module_of(sys.orig_argv[1:]) == "wszoo"
    return PurePath(program).stem == "wszoo"


def _module_of(options: list[str]) -> str | None:
    """What ``-m`` names among the interpreter's options, which end there."""
    for place, option in enumerate(options):
        if option.startswith("-") and not option.startswith("--") and "m" in option:
            flags, _, name = option.partition("m")
            if not set(flags) & set("cWX"):
                return name or next(iter(options[place + 1 :]), None)
    return None


def hush() -> None:
    """Have Ctrl-C end the process at once in one line, until ``ready``.

    Nothing is under way yet that would have to be cleared up. Where SIGINT is ignored or handled
    already it stays so.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def ready() -> None:
    """Have Ctrl-C raise ``KeyboardInterrupt`` again, for commands that end in order."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    os.write(2, b"wszoo: stopped\n")
    os._exit(_STOPPED)


if is_command():
    hush()
