import multiprocessing.process
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wszoo import interrupt
from wszoo.terminal import STOPPED

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
MODULE = Path(interrupt.__file__)
# Loaded by itself: the package around it takes seconds.
LOAD = f"import time; exec(compile(open({str(MODULE)!r}).read(), 'interrupt', 'exec')); "


def interrupted(code: str, program: str = "wszoo") -> tuple[int, str]:
    """Exit code and standard error of a program that gets Ctrl-C when it says that it waits."""
    wait = "print('waiting', flush=True); time.sleep(60)"
    start = f"import sys; sys.argv[0] = {program!r}; "
    command = [sys.executable, "-c", f"{start}{LOAD}{code}{wait}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=60)
    return child.returncode, told


@pytest.mark.parametrize("program", ["wszoo", "/some/bin/wszoo", "wszoo.exe"])
def test_a_command_that_is_stopped_while_it_imports_says_so_in_one_line(program: str) -> None:
    assert interrupted("", program) == (STOPPED, "wszoo: stopped\n")


def test_once_it_is_ready_it_ends_in_order() -> None:
    code, told = interrupted("ready(); ")

    assert code != STOPPED
    assert told.rstrip().endswith("KeyboardInterrupt")


def test_other_programs_are_left_alone() -> None:
    code, told = interrupted("", "train.py")

    assert code != STOPPED
    assert told.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize(
    ("original", "program", "is_command"),
    [
        ("python -m wszoo bench", "-m", True),
        ("python -u -m wszoo", "-m", True),
        ("python -mwszoo", "-m", True),
        ("python -um wszoo -m other", "-m", True),
        ("python -X importtime -W ignore -m wszoo", "-m", True),
        ("python -Wmodule -m other -m wszoo", "-m", False),
        ("python -m wszoo.bench.memory_cell", "-m", False),
        ("python -m", "-m", False),
        ("python train.py -m wszoo", "train.py", False),
        ("python -m pytest -m wszoo", "/some/pytest/__main__.py", False),
        ("pytest wszoo", "/some/bin/pytest", False),
    ],
)
def test_a_command_is_known_by_how_it_was_started(
    original: str, program: str, is_command: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", original.split())
    monkeypatch.setattr(sys, "argv", [program, "more"])

    assert interrupt.is_command() is is_command


def test_a_child_of_the_command_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["wszoo"])
    assert interrupt.is_command()

    monkeypatch.setattr(multiprocessing.process, "_parent_process", object())
    assert not interrupt.is_command()


def test_a_handler_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupt.hush()
        interrupt.ready()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.7, 1.5])
def test_the_command_tells_nothing_else_in_its_first_seconds(delay: float) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "wszoo", "bench", "--only", "import"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        time.sleep(delay)
        os.killpg(child.pid, signal.SIGINT)
        out, told = child.communicate(timeout=60)

    assert (child.returncode, out) == (STOPPED, "")
    assert told.splitlines()[-1] == "wszoo: stopped"
    assert all(line.startswith("bench: ") for line in told.splitlines()[:-1])
