"""Rows of JSON and CSV that outlive a kill in the middle of a write."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wszoo.files import flush_to_disk

Row = dict[str, Any]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file of JSON lines: a whole line, or nothing.

    Numbers that are not finite become text, since JSON has none.

    Raises:
        OSError: The disk is full, or the file cannot be written to.
    """
    left = memoryview(_to_line(row))
    with path.open("a+b", buffering=0) as file:
        end = file.tell()
        try:
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                file.write(b"\n")  # after what a kill left of a line
            while left:  # a disk that fills up takes a part, and fails the next time
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            raise


def read_rows(path: Path) -> tuple[list[Row], int]:
    """The rows of a file of JSON lines, and how many damaged lines are between or after them.

    There are none of either where there is no file.
    """
    rows: list[Row] = []
    damaged = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and line.endswith(b"\n"):
            rows.append(row)
        else:
            damaged += 1
    return rows, damaged


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Make ``rows`` all that a file of JSON lines holds; a kill leaves the old file or the new."""
    replace_file(path, b"".join(map(_to_line, rows)))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Make ``rows`` all that a CSV file holds, under every key that one of them has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, text.getvalue().encode())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file aside and rename it into place."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        aside.write_bytes(data)
        flush_to_disk(aside)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _to_line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(row), allow_nan=False).encode() + b"\n"


def plain(value: Any) -> Any:
    """``value`` in terms of JSON: tensors as lists, paths and what is not finite as text."""
    if hasattr(value, "tolist"):  # of torch and NumPy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all rows, in the order of their first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))
