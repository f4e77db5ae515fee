import json
import math
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from wszoo.training.rows import append_row, plain, read_rows, write_csv, write_rows

ROWS = [{"step": step, "loss": 1 / step, "name": "é\n"} for step in range(1, 6)]


def test_rows_are_read_as_they_were_added(tmp_path: Path) -> None:
    for row in ROWS:
        append_row(tmp_path / "rows.jsonl", row)

    assert read_rows(tmp_path / "rows.jsonl") == (ROWS, 0)
    assert read_rows(tmp_path / "none.jsonl") == ([], 0)


def test_a_file_cut_anywhere_loses_one_row_at_most_and_can_be_added_to(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, ROWS)
    whole = path.read_bytes()

    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        append_row(path, {"step": 9})
        rows, damaged = read_rows(path)

        lines = whole[:end].count(b"\n")
        assert rows[:lines] == ROWS[:lines]
        assert rows[-1] == {"step": 9}
        # What is cut off just before the end of its line is a row all the same.
        assert len(rows) - 1 + damaged == lines + (whole[:end][-1:] not in (b"", b"\n"))


def test_a_line_that_is_no_row_is_counted_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 1}\n\x00\x00\xff\n[1]\n{"step": 2}\n{"step": 3}')

    rows, damaged = read_rows(path)

    assert rows == [{"step": 1}, {"step": 2}]
    assert damaged == 3


def test_a_row_that_does_not_fit_on_the_disk_leaves_the_lines_before_it_whole(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # no file may be longer, in bytes
    try:
        with pytest.raises(OSError, match="File too large"):
            append_row(path, {"step": 2, "text": "x" * 300})
        with pytest.raises(OSError, match="File too large"):
            write_rows(path, [{"step": 2, "text": "x" * 300}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert path.read_bytes() == b'{"step": 1}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_what_json_lacks_becomes_text_or_lists() -> None:
    row = {
        "a": math.nan,
        "b": -math.inf,
        "c": np.float32(0.5),
        "d": torch.tensor([1, 2]),
        "e": Path("x/y"),
        "f": ({"g": np.array([math.inf])},),
        "h": torch.tensor(3.0),
        "i": True,
        "j": None,
    }

    assert plain(row) == {
        "a": "nan",
        "b": "-inf",
        "c": 0.5,
        "d": [1, 2],
        "e": "x/y",
        "f": [{"g": ["inf"]}],
        "h": 3.0,
        "i": True,
        "j": None,
    }


def test_rows_are_strict_json_whatever_the_numbers_and_names(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    append_row(tmp_path / "rows.jsonl", {"loss": math.nan, "name": "\udcff.jpg"})

    line = (tmp_path / "rows.jsonl").read_text(encoding="ascii")
    assert json.loads(line, parse_constant=refuse) == {"loss": "nan", "name": "\udcff.jpg"}


def test_a_csv_file_has_a_column_for_every_key_of_any_row(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "top1": 40.0}])

    assert (tmp_path / "rows.csv").read_text() == "epoch,loss,top1\n1,0.5,\n2,,40.0\n"
