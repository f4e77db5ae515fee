import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.launch.torchrun import agreed_exit_code
from train.launch.worker import EXIT_CODES

ROOT = Path(__file__).parents[2]
# What the module under test is started as ends so.
ENDS = {
    "return": ("pass", 0, "0"),
    "exit without a code": ("sys.exit()", 0, "0"),
    "stopped": ("sys.exit(4)", 4, "4"),
    "a text": ("sys.exit('bad data')", 1, "1"),
    "an error": ("raise ValueError('bad data')", 1, "1"),
    "killed": ("os.kill(os.getpid(), 9)", -9, ""),
    "told to stop in its first second": ("os.kill(os.getpid(), signal.SIGUSR1)", 4, "4"),
}


def start(folder: Path, *words: str, body: str = "", **environment: str) -> subprocess.Popen[str]:
    imports = "import os, pathlib, signal, sys, time\n"
    (folder / "stand_in.py").write_text(imports + body)
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("end", ENDS)
def test_a_worker_notes_what_it_ends_with(end: str, tmp_path: Path) -> None:
    body, code, note = ENDS[end]
    (tmp_path / "codes").mkdir()

    worker = start(
        tmp_path,
        *("train.launch.worker", "stand_in", "--out", "a b"),
        body=f"assert sys.argv[1:] == ['--out', 'a b'] and __name__ == '__main__'\n{body}",
        **{EXIT_CODES: "codes", "RANK": "3"},
    )
    worker.communicate(timeout=30)

    assert worker.returncode == code
    assert (tmp_path / "codes" / "3").read_text() == note


@pytest.mark.parametrize(
    ("notes", "code"),
    [(["4", "4"], 4), (["0", "0"], 0), (["3"], 3), (["4", "1"], 1), (["4", ""], 1), ([], 1)],
)
def test_only_a_code_that_all_workers_noted_is_passed_on(
    notes: list[str], code: int, tmp_path: Path
) -> None:
    for rank, note in enumerate(notes):
        (tmp_path / str(rank)).write_text(note)

    assert agreed_exit_code(tmp_path) == code


def test_an_agent_told_to_stop_before_it_has_workers_has_lost_nothing(tmp_path: Path) -> None:
    agent = start(tmp_path, "train.launch.torchrun", "-m", "stand_in")
    mask, deadline = 1 << (signal.SIGUSR1 - 1), time.monotonic() + 30
    status = Path(f"/proc/{agent.pid}/status")
    while time.monotonic() < deadline:
        [caught] = [line for line in status.read_text().splitlines() if line.startswith("SigCgt")]
        if int(caught.split()[1], 16) & mask:
            break
        time.sleep(0.01)
    agent.send_signal(signal.SIGUSR1)
    agent.communicate(timeout=30)

    assert agent.returncode == 4


@pytest.mark.slow
def test_a_script_is_no_module(tmp_path: Path) -> None:
    agent = start(tmp_path, "train.launch.torchrun", "stand_in.py")

    _, errors = agent.communicate(timeout=100)

    assert agent.returncode == 2
    assert errors == "wszoo: only modules can be started; write it like -m train.pretrain\n"


SAVES = """\
received = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: received.append(number))
pathlib.Path("up-" + os.environ["RANK"]).touch()
while not received:
    time.sleep(0.02)
time.sleep(0.5)
pathlib.Path("saved-" + os.environ["RANK"]).touch()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code"),
    [("sys.exit(4)", 4), ("sys.exit(4 if os.environ['RANK'] == '0' else 3)", 1)],
)
def test_an_agent_that_was_stopped_ends_as_its_workers_do(
    end: str, code: int, tmp_path: Path
) -> None:
    options = ("--nproc-per-node=2", "--max-restarts=3", "--signals-to-handle=SIGUSR1")
    agent = start(tmp_path, "train.launch.torchrun", *options, "-m", "stand_in", body=SAVES + end)
    deadline = time.monotonic() + 100
    while len(list(tmp_path.glob("up-*"))) < 2 and agent.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)

    agent.send_signal(signal.SIGUSR1)
    agent.communicate(timeout=60)

    assert len(list(tmp_path.glob("saved-*"))) == 2
    assert agent.returncode == code


@pytest.mark.slow
def test_an_agent_whose_workers_failed_ends_as_they_did(tmp_path: Path) -> None:
    agent = start(tmp_path, "train.launch.torchrun", "-m", "stand_in", body="sys.exit(3)")

    _, errors = agent.communicate(timeout=100)

    assert agent.returncode == 3
    assert "exitcode  : 3" in errors
