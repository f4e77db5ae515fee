import json
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
    assert "quarter of an hour" in run("--help").stdout
    assert bench_cli.RESULTS == "bench.json"
