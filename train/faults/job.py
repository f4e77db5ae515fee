"""A run that the study of faults disturbs: started, watched, killed, started again."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from train.faults.worker import FAULT, PID, PROGRESS
from wszoo.training.checkpoint import load_checkpoint

SAVE_EVERY = 20  # steps
PATIENCE = 300.0  # seconds that anything may take
_SAID = 2000  # characters of what a run said, in errors


class Job:
    """One run in a folder, with every process it has.

    Args:
        run: Its folder; what its processes say goes to ``<run>.txt``.
        data: Photos.
        ranks: Processes of each agent.
        restarts: How often torchrun starts its workers anew by itself.
        nodes: As ``--nnodes`` of torchrun; each start is one node.
    """

    def __init__(
        self, run: Path, data: str, *, ranks: int = 2, restarts: int = 0, nodes: str = "1"
    ) -> None:
        self.run, self.output = run, run.with_suffix(".txt")
        self.agents: list[subprocess.Popen[bytes]] = []
        words = f"--nnodes={nodes} --nproc-per-node={ranks} --max-restarts={restarts}"
        more = "--rdzv-backend=c10d --rdzv-id=faults --monitor-interval=0.2"
        self._torchrun = [sys.executable, "-m", "torch.distributed.run", *words.split()]
        self._torchrun += more.split()
        options = f"--channels-last=off --save-every-steps={SAVE_EVERY} --workers=0"
        self._training = ["-m", "train.faults.worker", "test_resnet_gn_ws", "--recipe=faults"]
        self._training += ["--data", data, "--out", str(run), *options.split()]
        self._training += ["--wait-minutes=1"]

    def start(self, endpoint: str = "localhost:0") -> subprocess.Popen[bytes]:
        """Start an agent."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        words = [*self._torchrun, f"--rdzv-endpoint={endpoint}", *self._training]
        with self.output.open("ab") as output:
            agent = subprocess.Popen(words, stdout=output, stderr=output, start_new_session=True)
        self.agents.append(agent)
        return agent

    def said(self) -> str:
        """The last that its processes said."""
        return self.output.read_text(errors="replace")[-_SAID:]

    def step(self) -> int:
        """Steps taken, as rank 0 tells."""
        try:
            return int((self.run / PROGRESS).read_text())
        except (OSError, ValueError):
            return 0

    def told_at(self) -> int:
        """When rank 0 last told its step, in nanoseconds."""
        try:
            return (self.run / PROGRESS).stat().st_mtime_ns
        except OSError:
            return 0

    def starts(self) -> list[int]:
        """The step at each start of its workers."""
        try:
            lines = (self.run / "starts.jsonl").read_text().splitlines()
            return [json.loads(line)["step"] for line in lines]
        except (OSError, ValueError):
            return []

    def workers(self) -> list[int]:
        """Process ids of the living workers, by rank."""
        found = []
        for path in sorted(self.run.glob(PID.format("*"))):
            with contextlib.suppress(OSError, ValueError):
                pid = int(path.read_text())
                if b"train.faults.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def arm(self, fault: str) -> None:
        """Let a worker do ``fault`` to itself, when it comes to its place."""
        (self.run / FAULT).write_text(fault)

    def is_armed(self) -> bool:
        """Whether that has not happened yet."""
        return (self.run / FAULT).exists()

    def wait_until_disarmed(self) -> None:
        """Until it has happened, or the run has ended."""
        self.wait_for("fault", lambda: self.ended() or not self.is_armed())

    def ended(self) -> bool:
        """Whether no agent runs any more."""
        return all(agent.poll() is not None for agent in self.agents)

    def wait_for(self, what: str, holds: Callable[[], bool]) -> float:
        """Seconds until ``holds()``.

        Raises:
            TimeoutError: It does not within ``PATIENCE``.
        """
        started = time.monotonic()
        while not holds():
            if time.monotonic() - started > PATIENCE:
                raise TimeoutError(f"{self.run}: no {what} in {PATIENCE:.0f} s\n{self.said()}")
            time.sleep(0.02)
        return time.monotonic() - started

    def wait_for_steps(self, more: int = 1) -> None:
        """Until the workers that run now have taken ``more`` steps, or all have ended."""
        self.wait_for("start", lambda: self.ended() or bool(self.starts()))
        wanted = (self.starts() or [0])[-1] + more
        self.wait_for("step", lambda: self.ended() or self.step() >= wanted)

    def finish(self) -> None:
        """Wait for the end of a run that is left alone from now on.

        Raises:
            RuntimeError: It did not end well.
        """
        self.wait_for("end", self.ended)
        if code := self.agents[-1].returncode:
            raise RuntimeError(f"{self.run} ended with exit code {code}\n{self.said()}")

    def kill_all(self) -> None:
        """Leave no process behind."""
        for agent in self.agents:
            kill(agent.pid)
            agent.wait()
        for pid in self.workers():
            kill(pid)

    def digest(self) -> str:
        """sha256 of the weights of the newest checkpoint and of their moving average."""
        loaded = load_checkpoint(self.run)
        assert loaded is not None
        learner, total = loaded[0]["learner"], hashlib.sha256()
        for part in ("model", "ema"):
            for value in learner[part].values():
                total.update(value.contiguous().numpy().tobytes())
        return total.hexdigest()


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
