"""The table of what is told when the Hub fails."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from train.hub_cases import READS
from train.hub_push_cases import PUSHES
from train.hub_xet_cases import XET_PUSHES, XET_READS
from train.study_hub import PAGE, RESULTS, WORKS, Row, main, markdown, run

ROWS = {row["fault"]: Row(**row) for row in json.loads(RESULTS.read_text())["results"]}
SLOW = {
    "push: LFS upload, 503",  # the client decides how often it tries
    "a process that holds the lock and does nothing",  # 10 s without growth
    "push: never an answer to the commit, not done",  # 20 s
    "push: never an answer to the commit, done",
    "push over Xet: the storage accepts and never answers",  # 20 s
    "push over Xet: never a token for the storage",
}


def test_the_page_is_rendered_from_the_committed_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(json.loads(RESULTS.read_text()))


def test_every_fault_has_its_row_and_leaves_nothing_half_done() -> None:
    assert [*ROWS] == [*READS, *PUSHES, *XET_READS, *XET_PUSHES]
    assert [row.fault for row in ROWS.values() if not row.is_sound] == []
    told = {row.message for row in ROWS.values()} - {WORKS}
    assert all(len(message) > 40 or message == "stopped" for message in told)


def test_failing_takes_seconds() -> None:
    readme = (PAGE.parents[2] / "README.md").read_text(encoding="utf-8")
    told = re.search(
        r"\[(\d+) cases\].*: most take less than 10 seconds, none more than (\d+)\)", readme
    )
    assert told is not None
    assert int(told[1]) == len(ROWS) and int(told[2]) >= max(row.seconds for row in ROWS.values())
    assert {row.fault for row in ROWS.values() if row.seconds > 10} <= SLOW


@pytest.mark.parametrize("fault", ["wrong token", "in the cache: a web page", "push: commit, 500"])
def test_a_fault_done_again_gives_the_committed_row(fault: str) -> None:
    again, kept = run(fault), ROWS[fault]

    assert (again.message, again.state) == (kept.message, kept.state)
    assert again.is_sound


def test_a_row_that_is_half_done_is_not_sound() -> None:
    row = Row(fault="f", message="told", seconds=1, state="no weights; next use FAILS")

    assert not row.is_sound
    assert not Row(fault="f", message="two\nlines", seconds=1, state="").is_sound


def test_faults_alone_replace_their_rows_in_the_table(tmp_path: Path) -> None:
    out = tmp_path / "new" / "faults.json"
    for fault in ("offline", "gated", "offline"):
        result = CliRunner().invoke(main, ["--out", str(out), "--only", fault])
        assert result.exit_code == 0, result.output

    rows = json.loads(out.read_text())["results"]
    assert [row["fault"] for row in rows] == ["offline", "gated"]
    assert "HF_HUB_OFFLINE forbids" in result.stdout
    assert "| offline | model.safetensors of " in out.with_suffix(".md").read_text()
