"""What is done to runs, one function per fault; the study takes them in the order of this file."""

import contextlib
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from train.faults.job import Job, kill
from train.faults.result import Result
from wszoo.training.checkpoint import POINTS

PORT = 29517  # where two agents on this machine meet

Scenario = Callable[["Study"], Result]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """Register one; its order in the table is that of this file."""

    def register(function: Scenario) -> Scenario:
        SCENARIOS[name] = function
        return function

    return register


class Study:
    """The runs of one study, in one folder.

    Args:
        folder: Where they are kept; emptied of earlier ones.
        data: Photos.
        kills: How often a random worker is killed.
        point_kills: How often rank 0 is killed at each point of a save.
        seed: Of which worker is killed, and when.
    """

    def __init__(self, folder: Path, data: str, kills: int, point_kills: int, seed: int) -> None:
        self.folder, self.data = folder, data
        self.kills, self.point_kills = kills, point_kills
        self.rng = random.Random(seed)
        self._count = 0
        self._jobs: list[Job] = []
        self._alone: dict[int, str] = {}

    def job(self, **more: object) -> Job:
        """A new run."""
        self._count += 1
        job = Job(self.folder / f"run-{self._count}", self.data, **more)  # type: ignore[arg-type]
        self._jobs.append(job)
        return job

    def end_all(self) -> None:
        """Leave no process of any run behind."""
        for job in self._jobs:
            job.kill_all()

    def alone(self, ranks: int) -> str:
        """Digest of a run that nothing disturbs."""
        if ranks not in self._alone:
            job = self.job(ranks=ranks)
            job.start()
            job.finish()
            self._alone[ranks] = job.digest()
        return self._alone[ranks]

    def close(self, job: Job, result: Result) -> None:
        """Let a run end and compare it with one left alone."""
        job.finish()
        result.same.append(job.digest() == self.alone(2))


@scenario("kill")
def kill_random_workers(study: Study) -> Result:
    """At random moments, saves included; torchrun starts all workers anew."""
    result = Result(fault="kill -9 of a random worker, at a random moment")
    while result.tries < study.kills:
        job = study.job(restarts=1000)
        job.start()
        while result.tries < study.kills:
            job.wait_for_steps()
            time.sleep(study.rng.uniform(0, 5))
            starts, step, workers = len(job.starts()), job.step(), job.workers()
            if job.ended() or len(workers) < 2:
                break
            kill(study.rng.choice(workers))
            result.note(job, step, starts)
        study.close(job, result)
    return result


@scenario("points")
def kill_while_saving(study: Study) -> Result:
    """Rank 0, at each point of a save in turn."""
    result = Result(fault=f"kill -9 of rank 0 {', '.join(POINTS)} (each in turn)")
    wanted = [point for _ in range(study.point_kills) for point in POINTS]
    while wanted:
        job = study.job(restarts=1000)
        job.start()
        while wanted:
            job.wait_for_steps()
            starts = len(job.starts())
            job.arm(wanted[0])
            job.wait_until_disarmed()
            if job.is_armed():
                break
            result.note(job, job.step(), starts)
            wanted.pop(0)
        study.close(job, result)
    return result


def disturb(study: Study, result: Result, fault: Callable[[Job], None], *, steps: int = 30) -> Job:
    """Let a run take some steps, do ``fault`` to it, repeat its command, and let it end."""
    job = study.job()
    job.start()
    job.wait_for_steps(steps)
    fault(job)
    job.wait_for("end of agent and workers", lambda: job.ended() and not job.workers())
    starts, step = len(job.starts()), job.step()
    job.start()
    result.note(job, step, starts)
    study.close(job, result)
    return job


@scenario("agent")
def kill_agent(study: Study) -> Result:
    """Workers outlive it in stock torchrun; here they end, and the command is repeated."""
    result = Result(fault="kill -9 of torchrun's agent, command repeated")
    for _ in range(3):
        disturb(study, result, lambda job: kill(job.agents[-1].pid))
    return result


@scenario("terminate")
def terminate_all(study: Study) -> Result:
    """As a cluster does before it takes a machine away."""
    result = Result(fault="SIGTERM to agent and workers, command repeated")
    for _ in range(3):

        def fault(job: Job) -> None:
            for pid in [job.agents[-1].pid, *job.workers()]:
                kill(pid, signal.SIGTERM)

        disturb(study, result, fault)
    return result


@scenario("corrupt")
def corrupt_newest(study: Study) -> Result:
    """One byte of the newest checkpoint is another."""
    result = Result(fault="newest checkpoint corrupt, command repeated")

    def fault(job: Job) -> None:
        kill(job.agents[-1].pid, signal.SIGTERM)
        job.wait_for("end", job.ended)
        newest = max(job.run.glob("step-*")) / "state.pt"
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)

    job = disturb(study, result, fault, steps=50)
    named = "is damaged and was passed over" in job.output.read_text(errors="replace")
    result.remark = "named, and the one before it used" if named else "NOT named"
    return result


@scenario("delay")
def delay_a_rank(study: Study) -> Result:
    """The others wait for it; nothing ends."""
    result = Result(fault="rank 1 delayed by 30 s", remark="the other waits")
    job = study.job()
    job.start()
    job.wait_for_steps(30)
    job.arm("delay 30")
    started = time.monotonic()
    job.wait_until_disarmed()
    step = job.step()
    job.wait_for("step", lambda: job.ended() or job.step() > step + 1)
    result.tries = 1
    result.repeated, result.seconds = [0], [round(time.monotonic() - started, 1)]
    study.close(job, result)
    return result


@scenario("full disk")
def fill_disk(study: Study) -> Result:
    """A save fails, is told, and the run goes on; a later one succeeds."""
    result = Result(fault="disk full during saves, then room again")
    job = study.job()
    with small_disk(job.run, "64m") as mounted:
        if not mounted:
            result.remark = "not tried: no right to mount a small disk"
            return result
        job.start()
        job.wait_for_steps(30)
        filler = job.run / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"0" * 2**16):
                pass
        step, starts = job.step(), len(job.starts())
        job.wait_for("failed save", lambda: job.ended() or "cannot save" in job.said())
        filler.unlink()
        job.wait_for("step", lambda: job.ended() or job.step() > step)
        study.close(job, result)
        result.tries, result.repeated = 1, [0] if len(job.starts()) == starts else []
        result.remark = "told; the checkpoint before stays; training does not stop"
    return result


@scenario("read-only")
def read_only_folder(study: Study) -> Result:
    """Refused at the start in one line; goes on when it may be written to."""
    result = Result(fault="folder of the run read-only, then writable again")
    job = study.job()
    with small_disk(job.run, "64m") as mounted:
        if not mounted:
            result.remark = "not tried: no right to mount a disk"
            return result
        job.start()
        job.wait_for_steps(30)
        kill(job.agents[-1].pid, signal.SIGTERM)
        job.wait_for("end", lambda: job.ended() and not job.workers())
        step = job.step()
        subprocess.run(["mount", "-o", "remount,ro", str(job.run)], check=True)
        job.start()
        job.wait_for("refusal", job.ended)
        refused = "Read-only file system" in job.output.read_text(errors="replace")
        subprocess.run(["mount", "-o", "remount,rw", str(job.run)], check=True)
        starts = len(job.starts())
        job.start()
        result.note(job, step, starts)
        study.close(job, result)
        result.remark = "refused in one line" if refused else "NOT refused in one line"
    return result


@scenario("few samples")
def too_few_samples(study: Study) -> Result:
    """Fewer photos than ranks."""
    photos = study.folder / "few" / "train" / "only"
    photos.mkdir(parents=True, exist_ok=True)
    for index in range(3):  # two are kept to choose by
        Image.new("RGB", (32, 32)).save(photos / f"{index}.png")
    job = Job(study.folder / "run-few", str(study.folder / "few"))
    job.start()
    seconds = job.wait_for("refusal", job.ended)
    told = "1 images do not fill one batch" in job.output.read_text(errors="replace")
    remark = "refused in one line" if told else "NOT refused in one line"
    return Result(
        fault="fewer photos than ranks", tries=1, seconds=[round(seconds, 1)], remark=remark
    )


@scenario("node")
def kill_a_node(study: Study) -> Result:
    """Two agents of one rank each; the second is killed with its worker, and comes back."""
    result = Result(fault="one of two nodes killed, and brought back after 20 s")
    for _ in range(2):
        job = study.job(ranks=1, nodes="2", restarts=10)
        start_two(job, PORT)
        job.wait_for_steps(30)
        starts, step = len(job.starts()), job.step()
        kill_second(job)
        time.sleep(20)
        job.start(f"localhost:{PORT}")
        job.wait_for("new start or end", lambda: job.ended() or len(job.starts()) > starts)  # noqa: B023
        if job.ended():  # torchrun's agents may miss one another, and end
            result.remark = "torchrun's agents gave up once, and both commands were repeated"
            start_two(job, PORT)
        result.note(job, step, starts)
        study.close(job, result)
    return result


def start_two(job: Job, port: int) -> None:
    """Start two agents; the first holds the rendezvous."""
    job.start(f"localhost:{port}")
    job.wait_for("rendezvous", lambda: listens(port))
    job.start(f"localhost:{port}")


def kill_second(job: Job) -> None:
    """Kill the agent that was started last, and its worker."""
    second, worker = job.agents.pop(), job.workers()[-1]
    kill(second.pid)
    kill(worker)
    second.wait()


@scenario("elastic")
def lose_a_node_for_good(study: Study) -> Result:
    """With ``--nnodes 1:2`` the first goes on alone, accumulating what the other took."""
    result = Result(fault="--nnodes 1:2, one node killed for good")
    job = study.job(ranks=1, nodes="1:2", restarts=10)
    start_two(job, PORT + 1)
    job.wait_for_steps(30)
    starts, step = len(job.starts()), job.step()
    kill_second(job)
    result.note(job, step, starts)
    job.finish()
    result.remark = "ends with one rank: the same batches, sums rounded otherwise"
    return result


def listens(port: int) -> bool:
    """Whether a process of this machine does at ``port``."""
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """A disk of ``size`` at ``folder``; False where this process may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(words, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
