"""Names of classes, as data sets list them in a file beside the photos."""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from wszoo.datasets.listing import ListedFile

CLASS_FILES = ("classes.txt", "classes.tsv", "classes.csv", "classes.json", "labels.txt")
_LEADING = re.compile(r"((?:\d+[\s:,;]+)*)(.*)")
_TRAILING_COLOUR = re.compile(r"(.*?)(?:[\s,;]+\d+){3}")


def find_class_names(files: Iterable[ListedFile]) -> tuple[str, ...] | None:
    """Read the class file that lies nearest to the root; None where there is none.

    Raises:
        ValueError: It cannot be understood.
    """
    candidates = [file for file in files if file.place.name.lower() in CLASS_FILES]
    if not candidates:
        return None
    nearest = min(candidates, key=lambda file: (len(file.place.parts), file.name))
    return read_class_names(nearest)


def read_class_names(file: ListedFile) -> tuple[str, ...]:
    """Names in the order of their values, which start at 0.

    Args:
        file: JSON (a list of names, a dict of them by value, a list of ``{"id", "name"}``), or one
            class per line: a name, alone or with its value, its colour or both before it, or its
            colour behind it. A first line that names the columns is understood.

    Raises:
        ValueError: It is damaged, or holds no names, one twice, or values with gaps.
    """
    try:
        text = file.read().decode("utf-8-sig")
        is_json = file.place.suffix.lower() == ".json"
        found = _from_json(json.loads(text)) if is_json else _from_lines(text.splitlines())
        names = _in_order(found)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"it names {twice!r} twice")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"cannot read names of classes in {file.name}: {reason}; write one name per line, from "
            f"value 0 on"
        ) from error
    return names


def _in_order(found: Sequence[tuple[int | None, str]]) -> tuple[str, ...]:
    if not found or not all(name for _, name in found):
        raise ValueError("a name is empty" if found else "it holds none")
    if any(value is None for value, _ in found):
        return tuple(name for _, name in found)
    values = sorted(value for value, _ in found if value is not None)
    if values != list(range(len(found))):
        raise ValueError(f"the values are {values[0]} to {values[-1]} for {len(found)} names")
    return tuple(name for _, name in sorted(found, key=lambda pair: pair[0] or 0))


def _from_json(content: Any) -> list[tuple[int | None, str]]:
    if isinstance(content, dict):
        if all(isinstance(value, int) for value in content.values()):  # {"sky": 0}
            return [(value, name) for name, value in content.items()]
        return [(int(value), str(name)) for value, name in content.items()]
    if all(isinstance(entry, str) for entry in content):
        return [(None, entry.strip()) for entry in content]
    return [(int(entry["id"]), str(entry["name"])) for entry in content]


def _from_lines(lines: Iterable[str]) -> list[tuple[int | None, str]]:
    kept = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if columns := _columns(kept[:1]):
        return _from_table(kept, columns)
    matches = [_LEADING.fullmatch(line) for line in kept]
    leading = [re.findall(r"\d+", match[1]) for match in matches if match]
    numbers = {len(found) for found in leading}
    if len(numbers) != 1 or numbers == {0}:  # "2 door car" among names without values is a name
        stripped = [_TRAILING_COLOUR.fullmatch(line) for line in kept]
        return [(None, (m[1] if m else line)) for m, line in zip(stripped, kept, strict=True)]
    if numbers - {1, 3, 4}:
        raise ValueError(f"{numbers.pop()} numbers before each name")
    has_value = numbers <= {1, 4}
    names = [match[2].strip() for match in matches if match]
    return [
        (int(found[0]) if has_value else None, name)
        for found, name in zip(leading, names, strict=True)
    ]


def _columns(first: Sequence[str]) -> str | None:
    """What separates the columns, if the first line names them."""
    for separator in "\t,;":
        if any("name" in line.lower().split(separator) and separator in line for line in first):
            return separator
    return None


def _from_table(lines: Sequence[str], separator: str) -> list[tuple[int | None, str]]:
    rows = csv.reader(lines, delimiter=separator)
    header = [field.strip().lower() for field in next(rows)]
    name = header.index("name")
    value = next((header.index(key) for key in ("index", "id", "value") if key in header), None)
    found: list[tuple[int | None, str]] = []
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} fields in a line for {len(header)} columns")
        found.append((None if value is None else int(row[value]), row[name].strip()))
    return found
