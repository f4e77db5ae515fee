"""What a run survives: ``python -m train.study_faults --help``.

Every fault is done to a real run of two ranks, which is then let go on, by torchrun or by
repeating its command. Its final weights must have the bits of a run that was left alone.
"""

import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import click
from PIL import Image

from train.faulty_job import SAVE_EVERY, Job, kill
from wszoo.terminal import CHECK_FAILED, OneLineErrors, table
from wszoo.training.checkpoint import POINTS
from wszoo.training.declaration import code_version, hardware

ROOT = Path(__file__).parent.parent
PHOTOS = ROOT / "wszoo" / "assets" / "clothing"
RESULTS = ROOT / "model_cards" / "studies" / "faults.json"
PORT = 29517  # where two agents on this machine meet


@dataclass(kw_only=True)
class Result:
    """How runs took a fault.

    Attributes:
        fault: What was done to them.
        tries: How often.
        repeated: Steps that were done again after each.
        seconds: From each to the next new step.
        same: Of each run, whether its final weights have the bits of one left alone.
        remark: What else a person should know.
    """

    fault: str
    tries: int = 0
    repeated: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    remark: str = ""

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Result":
        """A row of the file of results."""
        return cls(**{one.name: row[one.name] for one in fields(cls)})

    def row(self) -> dict[str, object]:
        """For the table."""
        equal = f"{sum(self.same)} of {len(self.same)} runs" if self.same else None
        return {
            "fault": self.fault,
            "tries": self.tries,
            "steps repeated": f"<= {max(self.repeated)}" if self.repeated else None,
            "seconds to go on": f"<= {max(self.seconds):.0f}" if self.seconds else None,
            "same sha256": equal,
            "remark": self.remark or None,
        }

    def note(self, job: Job, step: int, starts: int) -> None:
        """Wait until a run goes on after a fault at ``step``, and write down how."""
        seconds = job.wait_for("new start", lambda: len(job.starts()) > starts)
        resumed = job.starts()[-1]
        told = job.told_at()
        seconds += job.wait_for("new step", lambda: job.ended() or job.told_at() > told)
        self.tries += 1
        self.repeated.append(max(0, step - resumed))
        self.seconds.append(round(seconds, 1))


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
        self._alone: dict[int, str] = {}

    def job(self, **more: object) -> Job:
        """A new run."""
        self._count += 1
        return Job(self.folder / f"run-{self._count}", self.data, **more)  # type: ignore[arg-type]

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


def disturb(
    study: Study, result: Result, fault: Callable[[Job], None], *, steps: int = 30
) -> Result:
    """Let a run take some steps, do ``fault`` to it, and repeat its command."""
    job = study.job()
    job.start()
    job.wait_for_steps(steps)
    fault(job)
    job.wait_for("end of agent and workers", lambda: job.ended() and not job.workers())
    starts, step = len(job.starts()), job.step()
    job.start()
    result.note(job, step, starts)
    study.close(job, result)
    return result


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

    disturb(study, result, fault, steps=50)
    result.remark = "named, and the one before it used"
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
        step = job.step()
        job.wait_for("failed save", lambda: job.ended() or "cannot save" in job.said())
        filler.unlink()
        result.tries, result.repeated, result.seconds = 1, [0], [0.0]
        job.wait_for("step", lambda: job.ended() or job.step() > step)
        study.close(job, result)
        result.remark = "told; the checkpoint before stays; training never stops"
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
    result = Result(fault="one of two nodes killed and brought back")
    for _ in range(2):
        job = study.job(ranks=1, nodes="2", restarts=10)
        endpoint = f"localhost:{PORT}"
        job.start(endpoint)
        job.wait_for("rendezvous", lambda: listens(PORT))  # whoever is first holds it
        other = job.start(endpoint)
        job.wait_for_steps(30)
        starts, step = len(job.starts()), job.step()
        second = job.workers()[1]
        kill(other.pid)
        kill(second)
        other.wait()
        job.agents.remove(other)
        job.start(endpoint)
        result.note(job, step, starts)
        study.close(job, result)
    return result


@scenario("elastic")
def lose_a_node_for_good(study: Study) -> Result:
    """With ``--nnodes 1:2`` the first goes on alone, accumulating what the other took."""
    result = Result(fault="--nnodes 1:2, one node killed for good")
    job = study.job(ranks=1, nodes="1:2", restarts=10)
    endpoint = f"localhost:{PORT + 1}"
    job.start(endpoint)
    job.wait_for("rendezvous", lambda: listens(PORT + 1))
    other = job.start(endpoint)
    job.wait_for_steps(30)
    starts, step = len(job.starts()), job.step()
    second = job.workers()[-1]
    kill(other.pid)
    kill(second)
    other.wait()
    job.agents.remove(other)
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


@click.command(cls=OneLineErrors)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--data", default=str(PHOTOS), show_default="packaged photos of clothing")
@click.option("--kills", default=50, show_default=True, help="Of a random worker.")
@click.option("--point-kills", default=3, show_default=True, help="At each point of a save.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", multiple=True, type=click.Choice([*SCENARIOS]), help="Some faults alone.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(
    out: Path,
    data: str,
    kills: int,
    point_kills: int,
    seed: int,
    only: tuple[str, ...],
    results: Path,
) -> None:
    """Do every fault to real runs, and print how they took it."""
    shutil.rmtree(out, ignore_errors=True)
    study = Study(out, data, kills, point_kills, seed)
    study.alone(2)
    facts = {
        "hardware": hardware(),
        "code": code_version(),
        "photos": Path(data).name,
        "seed": seed,
    }
    for name in only or SCENARIOS:
        started = time.monotonic()
        try:
            result = SCENARIOS[name](study)
        except (RuntimeError, TimeoutError) as error:
            click.echo(error, err=True)
            result = Result(fault=name, same=[False], remark="FAILED")
        took = round(time.monotonic() - started)
        keep(results, name, {**asdict(result), **facts, "took": took})
        click.echo(f"{name}, {took} s: {result.row()}")
    found = [Result.of(row) for row in json.loads(results.read_text())["results"].values()]
    click.echo(table([row.row() for row in found], [*found[0].row()]))
    if any(False in row.same or "NOT" in row.remark for row in found):
        raise SystemExit(CHECK_FAILED)


def keep(path: Path, name: str, row: dict[str, object]) -> None:
    """Put a row in its place among those of earlier studies, in the order of ``SCENARIOS``."""
    rows = json.loads(path.read_text())["results"] if path.exists() else {}
    rows[name] = row
    ordered = {key: rows[key] for key in SCENARIOS if key in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"save_every_steps": SAVE_EVERY, "results": ordered}, indent=2))


if __name__ == "__main__":
    main()
