"""The batch script as Slurm runs it, among stand-ins for Slurm's programs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from train.launch.__main__ import main

ROOT = Path(__file__).parents[2]
# Passes SIGUSR1 on to its task and kills it on SIGTERM, as srun does.
SRUN = """\
#!/bin/bash
printf '%s\\n' "$@" > "$CALLS/srun"
while [[ $1 == --* ]]; do shift; done
for node in $(seq "${FAKE_NODES:-1}"); do "$@" & tasks+=($!); done
trap 'interrupted=yes; kill -USR1 "${tasks[@]}"' USR1
trap 'interrupted=yes; kill -KILL "${tasks[@]}"' TERM
highest=0
for task in "${tasks[@]}"; do
    interrupted=yes
    while [ "$interrupted" = yes ]; do interrupted=no; wait "$task"; code=$?; done
    [ "$code" -le "$highest" ] || highest=$code
done
exit "$highest"
"""
SCONTROL = """\
#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$CALLS/scontrol"; fi
"""
# An agent that takes half a second to stop.
PYTHON = """\
#!/bin/bash
printf '%s\\n' "$@" > "$CALLS/python"
if [ "$FAKE_RUN" = short ]; then exit "$FAKE_EXIT"; fi
trap 'echo USR1 >> "$CALLS/signals"' USR1
touch "$CALLS/ready"
while [ ! -e "$CALLS/signals" ]; do sleep 0.02; done
for _ in 1 2 3 4 5; do sleep 0.1; done
exit "$FAKE_EXIT"
"""
Job = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A folder with one file per program that was called."""
    folder = tmp_path / "calls"
    folder.mkdir()
    programs = {"srun": SRUN, "scontrol": SCONTROL, "python": PYTHON}
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    return folder


@pytest.fixture
def job(tmp_path: Path, calls: Path) -> Job:
    def run_job(
        *words: str, signals: tuple[signal.Signals, ...] = (), timeout: float = 30, **fake: str
    ) -> subprocess.CompletedProcess[str]:
        command = ["slurm", "resnet50_gn_ws", "--recipe", "smoke", "--data", "/d", "--out", "r50"]
        script = CliRunner().invoke(main, [*command, *words]).stdout
        (tmp_path / "job.sh").write_text(script)
        environment = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "SLURM_JOB_ID": "1234567",
            "SLURM_JOB_NODELIST": "node[01-16]",
            "SLURM_CPUS_PER_TASK": "64",
            **fake,
        }
        process = subprocess.Popen(
            ["bash", "job.sh"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + timeout
        for number in signals:
            while not (calls / "ready").exists() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(number)
            time.sleep(0.2)
        output, errors = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    return run_job


def requeues(calls: Path) -> list[str]:
    record = calls / "scontrol"
    return record.read_text().splitlines() if record.exists() else []


def test_the_agents_meet_at_the_first_node_under_the_number_of_the_job(
    job: Job, calls: Path
) -> None:
    done = job("--nodes", "16", FAKE_RUN="short", FAKE_EXIT="0")

    assert done.returncode == 0, done.stderr
    step = (calls / "srun").read_text().splitlines()
    assert step[:3] == ["--cpus-per-task=64", "--kill-on-bad-exit=0", "--wait=120"]
    assert (calls / "python").read_text().splitlines() == [
        *("-m", "train.launch.torchrun", "--nnodes=16", "--nproc-per-node=8"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:24567", "--rdzv-id=1234567"),
        "--max-restarts=3",
        "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        "--shutdown-timeout=90",
        *("-m", "train.pretrain", "resnet50_gn_ws", "--recipe", "smoke"),
        *("--data", "/d", "--out", "r50"),
    ]


def test_a_job_that_was_stopped_and_saved_is_queued_again_once(job: Job, calls: Path) -> None:
    stopped = job(signals=(signal.SIGUSR1,), FAKE_EXIT="4")

    assert stopped.returncode == 4
    assert (calls / "signals").read_text() == "USR1\n"
    assert requeues(calls) == ["requeue 1234567"]
    assert "queueing job 1234567 again" in stopped.stdout


@pytest.mark.parametrize("code", [0, 1, 3, 137])
def test_a_job_that_ended_otherwise_is_not_queued_again(job: Job, calls: Path, code: int) -> None:
    ended = job(signals=(signal.SIGUSR1,), FAKE_EXIT=str(code))

    assert ended.returncode == code
    assert requeues(calls) == []


def test_a_job_whose_steps_alone_were_told_to_stop_is_queued_again(job: Job, calls: Path) -> None:
    stopped = job(FAKE_RUN="short", FAKE_EXIT="4")

    assert stopped.returncode == 4
    assert requeues(calls) == ["requeue 1234567"]


def test_a_cancelled_job_is_saved_and_stays_away(job: Job, calls: Path) -> None:
    cancelled = job(signals=(signal.SIGTERM,), FAKE_EXIT="4")

    assert cancelled.returncode == 4
    assert (calls / "signals").read_text() == "USR1\n"
    assert requeues(calls) == []


def test_a_second_signal_does_not_disturb_the_saving(job: Job, calls: Path) -> None:
    stopped = job(signals=(signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1), FAKE_EXIT="4")

    assert stopped.returncode == 4
    assert (calls / "signals").read_text() == "USR1\n"
    assert requeues(calls) == ["requeue 1234567"]


def test_a_job_is_queued_again_only_so_often(job: Job, calls: Path) -> None:
    last = job("--max-requeues", "3", FAKE_RUN="short", FAKE_EXIT="4", SLURM_RESTART_COUNT="2")
    stopped = job("--max-requeues", "3", FAKE_RUN="short", FAKE_EXIT="4", SLURM_RESTART_COUNT="3")

    assert last.returncode == stopped.returncode == 4
    assert requeues(calls) == ["requeue 1234567"]
    assert "after 3 requeues; submit it again" in stopped.stderr


def test_nothing_is_started_where_the_setup_failed(job: Job, calls: Path) -> None:
    failed = job("--setup", "echo ready", "--setup", "false", FAKE_RUN="short", FAKE_EXIT="0")

    assert failed.returncode == 1
    assert failed.stdout == "ready\n"
    assert not (calls / "srun").exists()


# Saves and ends when it is told to stop, and is done when it is started again.
TRAINER = """\
import os, pathlib, signal, sys, time

calls, rank = pathlib.Path(os.environ["CALLS"]), os.environ["RANK"]
saved = calls / f"saved-{rank}"
if saved.exists():
    sys.exit(0)
received = []
signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
(calls / f"up-{rank}").touch()
if (calls / "up-0").exists() and (calls / "up-1").exists():
    (calls / "ready").touch()
deadline = time.monotonic() + 60
while not received and time.monotonic() < deadline:
    time.sleep(0.02)
time.sleep(0.5)
saved.touch()
sys.exit(4)
"""


@pytest.mark.slow
def test_two_nodes_under_real_agents_save_stop_and_go_on(
    job: Job, calls: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "__init__.py").touch()
    (tmp_path / "train" / "launch").symlink_to(ROOT / "train" / "launch")
    (tmp_path / "train" / "pretrain.py").write_text(TRAINER)
    two = ("--nodes", "2", "--gpus", "1")

    stopped = job(*two, signals=(signal.SIGUSR1,), timeout=120, FAKE_NODES="2")
    again = job(*two, timeout=120, FAKE_NODES="2", SLURM_RESTART_COUNT="1")

    assert stopped.returncode == 4, stopped.stderr
    assert (calls / "saved-0").exists() and (calls / "saved-1").exists()
    assert requeues(calls) == ["requeue 1234567"]
    assert again.returncode == 0, again.stderr
