"""A list of photos to leave out: a tsv file that readers take and ``wszoo check-data`` writes."""

import csv
from collections.abc import Mapping
from pathlib import Path

_COLUMNS = ("name", "reason")


def write_quarantine(path: Path, reasons: Mapping[str, str]) -> None:
    """Write names of photos and why each is left out.

    Args:
        path: The file; one that exists is replaced.
        reasons: By name, as the readers have it.

    Raises:
        OSError: It cannot be written.
    """
    try:  # names that are no valid UTF-8 come back as they were
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.writer(file, "excel-tab", lineterminator="\n")
            rows.writerows([_COLUMNS, *reasons.items()])
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; name another file") from error


def read_quarantine(path: Path) -> frozenset[str]:
    """Names to hand to a reader as ``quarantine``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no list of names.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.reader(file, "excel-tab"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no such quarantine list: {path}") from None
    except csv.Error as error:
        raise ValueError(f"cannot read {path}: {error}; write it again") from error
    if not rows or rows[0][:1] != ["name"]:
        raise ValueError(
            f"{path} is no quarantine list: its first line must be 'name' and 'reason' with a tab "
            f"between; `wszoo check-data --quarantine FILE` writes one"
        )
    return frozenset(row[0] for row in rows[1:] if row)
