import json
from pathlib import Path

import pytest
import torch

from wszoo.training.declaration import code_version, declare, note_start

SETTINGS = {"model": "net", "settings": {"lr": 0.1, "phases": ((1, 32),)}}


def test_what_was_declared_is_kept_with_where_it_ran(tmp_path: Path) -> None:
    facts = declare(tmp_path, SETTINGS)

    assert facts == json.loads((tmp_path / "run.json").read_text())
    assert facts["settings"] == {"lr": 0.1, "phases": [[1, 32]]}
    assert "thread" in facts["hardware"] or " x " in facts["hardware"]
    assert facts["code"] == code_version()
    assert declare(tmp_path, SETTINGS) == facts


def test_every_setting_that_differs_is_named(tmp_path: Path) -> None:
    declare(tmp_path, SETTINGS)

    other = {"model": "net2", "settings": {"lr": 0.2, "phases": ((1, 32),)}}
    with pytest.raises(ValueError, match=r"model 'net', not 'net2'; settings.lr 0.1, not 0.2; re"):
        declare(tmp_path, other)


def test_what_was_not_declared_before_is_added(tmp_path: Path) -> None:
    declare(tmp_path, SETTINGS)

    assert declare(tmp_path, {**SETTINGS, "channels_last": True})["channels_last"] is True
    assert declare(tmp_path, SETTINGS)["channels_last"] is True
    with pytest.raises(ValueError, match="channels_last True, not False"):
        declare(tmp_path, {"channels_last": False})


def test_every_start_is_noted_and_what_may_change_bits_is_told(tmp_path: Path) -> None:
    assert note_start(tmp_path, ranks=1, step=0) == []
    assert note_start(tmp_path, ranks=1, step=5) == []
    assert note_start(tmp_path, ranks=2, step=9) == ["ranks was 1 before and is 2 now"]

    rows = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert [(row["ranks"], row["step"]) for row in rows] == [(1, 0), (1, 5), (2, 9)]
    assert rows[0]["torch"] == torch.__version__


def test_a_line_torn_by_a_kill_is_no_obstacle(tmp_path: Path) -> None:
    note_start(tmp_path, ranks=1, step=0)
    with (tmp_path / "starts.jsonl").open("a") as file:
        file.write('{"ranks": 1, "st')

    assert note_start(tmp_path, ranks=2, step=1) == ["ranks was 1 before and is 2 now"]
