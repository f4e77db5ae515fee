"""Confusion matrices, readable from two classes to some hundreds."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wszoo.visualize.page import (
    FAINT,
    HEADING_LEADING,
    INK,
    MUTED,
    area,
    heading_lines,
    new_page,
    resize,
    save,
    shorten,
    text_width,
    write_heading,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_COUNTS_UP_TO = 20  # classes whose cells have room for a number
_TICKS_UP_TO = 50  # classes that can all be named along an axis
_LONGEST_NAME = 130.0  # points
_SLANT = 50  # degrees, of the names below the matrix
_MARGIN, _BAR = 12.0, 78.0  # points; the latter right of the matrix, for the scale of its shades


def draw_confusion(
    matrix: np.ndarray, classes: Sequence[str], path: Path, *, title: str | None = None
) -> None:
    """Draw how often photos of each class are taken for each other one.

    Shades are shares of the true class; where there is room, the counts stand in the cells.

    Args:
        matrix: ``(classes, classes)`` counts; a row is a true class, a column a predicted one.
        classes: Names in the order of the rows. Of many, only some are written along the axes.
        path: PNG file to write.
        title: Heading of the picture.

    Raises:
        ValueError: ``matrix`` is not square with one row per class, or has negative counts.
    """
    count = len(classes)
    if count == 0 or matrix.shape != (count, count):
        raise ValueError(
            f"matrix has shape {matrix.shape} for {count} classes; it must be ({count}, {count})"
        )
    if (matrix < 0).any():
        raise ValueError(f"matrix holds counts, but its least entry is {matrix.min()}")

    figure = new_page()
    size = 9.5 if count <= _COUNTS_UP_TO else 7.5
    measure = text_width(figure, size)
    names = {
        index: shorten(classes[index], _LONGEST_NAME, measure) for index in _named_classes(count)
    }
    left = max(measure(name) for name in names.values()) + 30
    bottom = left * math.sin(math.radians(_SLANT)) + 16 + _MARGIN
    side = _side(count)
    heading = heading_lines(figure, title, left + side + _BAR - 2 * _MARGIN)
    head = 14 + (HEADING_LEADING * len(heading) + 6 if heading else 0)
    resize(figure, left + side + _BAR, head + side + bottom)
    write_heading(figure, heading, _MARGIN)
    axes = figure.add_axes(area(figure, left, bottom, side, side))
    shades = _draw_cells(axes, matrix)
    _name_classes(axes, names, size)
    _draw_scale(figure, shades, area(figure, left + side + 14, bottom, 10, side))
    save(figure, path)


def _named_classes(count: int) -> range:
    return range(0, count, 1 if count <= _TICKS_UP_TO else math.ceil(count / 25))


def _side(count: int) -> float:
    """Side of the matrix in points."""
    if count > _TICKS_UP_TO:
        return 560.0
    return max(210.0, count * (34.0 if count <= _COUNTS_UP_TO else 11.0))


def _draw_cells(axes: "Axes", matrix: np.ndarray) -> "AxesImage":
    from matplotlib.colors import PowerNorm

    count = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # On a linear scale, single mistakes among many classes would be invisible.
    norm = PowerNorm(1.0 if count <= _COUNTS_UP_TO else 0.5, vmin=0, vmax=1)
    shades = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest", aspect="auto")
    if count <= _COUNTS_UP_TO:
        for row, column in itertools.product(range(count), repeat=2):
            _draw_count(axes, row, column, matrix[row, column], shares[row, column])
    return shades


def _draw_count(axes: "Axes", row: int, column: int, count: float, share: float) -> None:
    if count:
        colour = "white" if share > 0.55 else INK
        text = f"{count:g}"
        size = min(9.5, 36 / len(text))
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def _name_classes(axes: "Axes", names: dict[int, str], size: float) -> None:
    """Write names along both axes, by the row they belong to."""
    shown, texts = list(names), list(names.values())
    axes.set_xticks(
        shown,
        texts,
        fontsize=size,
        rotation=_SLANT,
        ha="right",
        rotation_mode="anchor",
        parse_math=False,
    )
    axes.set_yticks(shown, texts, fontsize=size, parse_math=False)
    # Where only some classes are named, a tick says which.
    is_sparse = len(shown) > 1 and shown[1] > 1
    axes.tick_params(colors=INK, length=2 if is_sparse else 0, color=MUTED)
    axes.set_xlabel("predicted", color=MUTED, fontsize=10.5)
    axes.set_ylabel("true", color=MUTED, fontsize=10.5)
    for spine in axes.spines.values():
        spine.set(color=FAINT)


def _draw_scale(
    figure: "Figure", shades: "AxesImage", place: tuple[float, float, float, float]
) -> None:
    strip = figure.add_axes(place)
    scale = figure.colorbar(shades, cax=strip, format="{x:.0%}")
    scale.set_label("share of the true class", color=MUTED, fontsize=9.5)
    scale.outline.set_visible(False)
    strip.tick_params(colors=MUTED, labelsize=9, length=0)
