import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from wszoo import bench_cli
from wszoo.bench import DEVICES, GROUPS, PEERS, Comparison
from wszoo.bench_cli import bench

TINY = ["--model", "test_resnet_gn_ws", "--threads", "1"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(bench, [str(argument) for argument in arguments])


def test_the_choices_are_those_of_the_library() -> None:
    choices = {
        option.name: [*option.type.choices]
        for option in bench.params
        if isinstance(option.type, click.Choice)
    }

    assert choices == {"only": [*GROUPS], "against": [*PEERS], "device": [*DEVICES]}


def test_a_part_is_measured_printed_written_and_drawn(tmp_path: Path) -> None:
    arguments = [*TINY, "--only", "operator", "--against", "timm", "--rounds", "1", "--json"]

    result = run(*arguments, "-o", tmp_path / "new" / "bench")

    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "new" / "bench" / "bench.json").read_text())
    assert json.loads(result.stdout) == written
    assert Comparison.from_json(written).model == "test_resnet_gn_ws"
    assert (tmp_path / "new" / "bench" / "ratios.png").stat().st_size > 10_000


def test_a_log_gets_a_line_per_part_and_the_report_none_of_them() -> None:
    result = run(*TINY, "--only", "operator", "--against", "timm", "--rounds", "1")

    lines = result.stderr.splitlines()
    assert lines[:3] == [
        "bench: starting",
        "bench: making the nets",
        "bench: 1 of 6, operator: time, contiguous",
    ]
    assert len(lines) == 8
    assert "bench: " not in result.stdout


def test_a_terminal_gets_one_line_that_is_written_anew_and_cleared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")

    with bench_cli._Progress() as tell:
        tell("first")
        tell("a line of more than twenty columns")

    clear = "\r\x1b[K"
    told = capsys.readouterr().err
    assert told == f"{clear}bench: first{clear}bench: a line of mo{clear}"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_stopped_while_it_runs_it_says_so_in_one_line() -> None:
    command = [sys.executable, "-m", "wszoo", "bench", *TINY, "--only", "import", "--rounds", "9"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stderr is not None
        told: list[str] = []
        while not (told and "import: " in told[-1]):
            told.append(child.stderr.readline())
        time.sleep(1.0)  # while an interpreter of its own imports
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does
        _, rest = child.communicate(timeout=60)

    assert child.returncode == 4
    assert rest == "wszoo: stopped\n"


def test_the_table_is_for_people(tmp_path: Path) -> None:
    result = run(*TINY, "--only", "operator", "--against", "timm", "--rounds", "1")

    assert result.exit_code == 0, result.output
    assert GROUPS["operator"] in result.stdout
    assert "formula jhu, channels_last" in result.stdout


@pytest.mark.parametrize(("goal", "code"), [(1e9, 0), (1e-9, 1)])
def test_a_missed_goal_fails_where_it_is_to_be_checked(
    goal: float, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    goals = {name: dict.fromkeys(("contiguous", "channels_last"), goal) for name in ("jhu", "bit")}
    monkeypatch.setattr("wszoo.bench.kernels.TIME_GOALS", goals)
    monkeypatch.setattr("wszoo.bench.setting.GOALS_FOR", "test_resnet_gn_ws")
    arguments = [*TINY, "--only", "operator", "--against", "timm", "--rounds", "1"]

    assert run(*arguments, "--check").exit_code == code
    assert run(*arguments).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "resnet18"], 2, "'resnet18' is not of this zoo"),
        (["--rounds", "0"], 2, "x>=1"),
        (["--threads", "0"], 2, "x>=1"),
        (["--only", "speed"], 2, "'speed' is not one of"),
        (["--against", "mmcv"], 2, "'mmcv' is not one of"),
        (["--data", "/nowhere"], 2, "does not exist"),
        (["--cpu-time", "--device", "cuda"], 3, "wszoo: processor time says nothing about a GPU"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], code: int, message: str) -> None:
    result = run(*arguments)

    assert result.exit_code == code
    assert message in result.stderr


def test_the_help_says_how_long_it_takes() -> None:
    assert "twenty minutes" in run("--help").stdout
    assert bench_cli.RESULTS == "bench.json"
