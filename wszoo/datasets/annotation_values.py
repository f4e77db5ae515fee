"""Numbers in annotation files, which may hold anything instead."""

from typing import Any


def as_floats(values: Any, count: int | None = None) -> tuple[float, ...] | None:
    """Numbers of a JSON list, NaN and infinity among them.

    Args:
        values: What stands in the list's place.
        count: How many they must be; any number by default.

    Returns:
        None if it is no list of so many numbers.

    >>> as_floats([1, 2.5], 2), as_floats([1, "2"]), as_floats(None)
    ((1.0, 2.5), None, None)
    """
    if not isinstance(values, list) or count not in (None, len(values)):
        return None
    if not {*map(type, values)} <= {int, float}:  # bool is an int to isinstance
        return None
    try:
        return tuple(map(float, values))
    except OverflowError:
        return None


def as_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height in pixels, if both are that.

    >>> as_size(640, 480), as_size(0, 480), as_size("640", 480)
    ((640, 480), None, None)
    """
    values = as_floats([width, height])
    if values is None or not all(1 <= value < 1e9 for value in values):
        return None
    return int(values[0]), int(values[1])
