import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from train.faults.job import Job, kill
from train.faults.result import Result
from train.faults.scenarios import SCENARIOS
from train.faults.worker import FAULT, PID, PROGRESS
from train.study_faults import BEGIN, END, PAGE, RESULTS, keep, markdown
from wszoo.training.checkpoint import save_checkpoint


def test_rows_are_kept_in_the_order_of_the_faults_and_replaced_by_newer_ones(
    tmp_path: Path,
) -> None:
    path = tmp_path / "new" / "faults.json"
    last, first = [*SCENARIOS][-1], next(iter(SCENARIOS))

    keep(path, last, asdict(Result(fault="z")))
    keep(path, first, asdict(Result(fault="a", tries=1)))
    keep(path, first, asdict(Result(fault="a", tries=2)))

    rows = json.loads(path.read_text())["results"]
    assert [*rows] == [first, last]
    assert Result.of(rows[first]).tries == 2


def test_a_row_tells_the_worst_of_all_tries() -> None:
    result = Result(
        fault="kill", tries=2, repeated=[3, 19], seconds=[9.1, 70.4], same=[True, False]
    )

    assert [*result.row().values()] == ["kill", 2, "<= 19", "<= 70", "1 of 2 runs", None]


def test_the_page_has_the_table_of_the_committed_results() -> None:
    found = json.loads(RESULTS.read_text())

    assert f"{BEGIN}{markdown(found)}\n{END}" in PAGE.read_text(encoding="utf-8")
    for row in map(Result.of, found["results"].values()):
        assert False not in row.same, row.fault
        assert all(repeated <= 21 for repeated in row.repeated), row.fault


def test_a_job_tells_what_its_processes_left(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    job = Job(run, "photos")
    assert (job.step(), job.starts(), job.told_at(), job.workers()) == (0, [], 0, [])

    (run / PROGRESS).write_text("17")
    (run / "starts.jsonl").write_text('{"step": 0}\n{"step": 20}\n')
    (run / PID.format(0)).write_text(str(os.getpid()))  # alive, and no worker
    job.arm("before flush")

    assert (job.step(), job.starts(), job.workers()) == (17, [0, 20], [])
    assert job.is_armed()
    (run / FAULT).unlink()
    assert not job.is_armed()
    assert job.ended()


def test_the_digest_is_of_weights_and_average(tmp_path: Path) -> None:
    def digest(name: str, weight: float, average: float) -> str:
        ema = {"w": torch.full((3,), average)}
        learner = {"model": {"w": torch.full((3,), weight)}, "ema": ema}
        save_checkpoint(tmp_path / name, 1, {"learner": learner})
        return Job(tmp_path / name, "photos").digest()

    digests = [digest("a", 1, 2), digest("b", 1, 2), digest("c", 1, 3), digest("d", 0, 2)]

    assert digests[0] == digests[1]
    assert len({*digests}) == 3


def test_no_wait_is_without_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.faults.job.PATIENCE", 0.05)
    job = Job(tmp_path / "run", "photos")
    job.output.write_text("what it said")

    with pytest.raises(TimeoutError, match=r"run: no sign in 0 s\nwhat it said"):
        job.wait_for("sign", lambda: False)


def test_a_process_that_is_gone_can_be_killed_again() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    kill(process.pid)
