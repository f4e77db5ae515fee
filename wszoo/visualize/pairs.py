"""The page for truth beside prediction: a row per photo, a legend of classes below."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wszoo.visualize.page import (
    HEADING_LEADING,
    INK,
    MUTED,
    area,
    heading_lines,
    new_page,
    resize,
    shorten,
    text_width,
    wrap,
    write,
    write_heading,
)
from wszoo.visualize.palette import class_colour, hex_code, ink_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP, _MARGIN = 10.0, 16.0  # points
_SIZE, _LEADING = 9.5, 12.5  # points, of captions
_COLUMN_HEAD = 19.0  # points
_CHIP, _CHIP_SIZE = 13.0, 9.0  # points: side of a patch of colour, and the text in and beside it
_LEGEND_LEADING, _LONGEST_NAME = 18.0, 150.0  # points
_TALLEST = 1.25  # times the width


class Page(NamedTuple):
    """A page with its headings, captions and legend; only the photos are missing."""

    figure: "Figure"
    axes: list[list["Axes"]]


def best_median_worst(scores: Sequence[float]) -> list[tuple[int, str]]:
    """Which images to show: ``(index, "best" | "median" | "worst")``.

    An image whose score is NaN has none and is left out; two images have no median, one is best.

    Raises:
        ValueError: No image has a score.
    """
    scored = [index for index, score in enumerate(scores) if not math.isnan(score)]
    if not scored:
        raise ValueError("no image has a score; there is no best or worst to show")
    order = sorted(scored, key=lambda index: -scores[index])
    chosen = {order[0]: "best"}
    if len(order) > 1:
        chosen[order[-1]] = "worst"
    if len(order) > 2:
        chosen[order[(len(order) - 1) // 2]] = "median"
    return sorted(chosen.items(), key=lambda item: order.index(item[0]))


def require_one_each(images: Sequence[Any], **given: Sequence[Any]) -> None:
    """Raise ``ValueError`` where there are no images, or not one entry for each of them."""
    if not images:
        raise ValueError("no images to draw; give at least one")
    for what, entries in given.items():
        if len(entries) != len(images):
            raise ValueError(
                f"{what} has {len(entries)} entries for {len(images)} images; give one for each"
            )


def lay_out(
    sizes: Sequence[tuple[int, int]],
    columns: Sequence[str],
    captions: Sequence[str],
    legend: Sequence[tuple[int, str]],
    *,
    width: float,
    title: str | None,
    note: str | None,
) -> Page:
    """Make the page.

    Args:
        sizes: Width and height of each photo, in pixels.
        columns: What stands above each column.
        captions: What stands above each row.
        legend: Index and name of the classes to explain, see ``class_colour``.
        width: Of a column in points.
        title: Heading of the page.
        note: What else has to be explained, below the legend.
    """
    figure = new_page()
    measure = text_width(figure, _SIZE)
    page_width = 2 * _MARGIN + len(columns) * width + (len(columns) - 1) * _GAP
    inner = page_width - 2 * _MARGIN
    texts = [wrap(caption, inner, measure) if caption else [] for caption in captions]
    heights = [width * min(_TALLEST, height / across) for across, height in sizes]
    above = [_LEADING * len(lines) + 3 for lines in texts]
    heading = heading_lines(figure, title, inner)
    lines = _legend_lines(figure, legend, inner)
    notes = wrap(note, inner, measure) if note else []
    bottom = _MARGIN + _LEGEND_LEADING * len(lines) + _LEADING * len(notes)
    head = _MARGIN + (HEADING_LEADING * len(heading) + 4 if heading else 0) + _COLUMN_HEAD
    body = sum(heights) + sum(above) + _GAP * len(sizes)
    resize(figure, page_width, head + body + bottom)
    write_heading(figure, heading, _MARGIN)
    top = bottom + body
    for column, text in enumerate(columns):
        left = _MARGIN + column * (width + _GAP)
        write(figure, left, top + _COLUMN_HEAD - 2, text, fontsize=_SIZE, color=MUTED)
    axes = []
    for size, words, room, height in zip(sizes, texts, above, heights, strict=True):
        for line, text in enumerate(words):
            write(figure, _MARGIN, top - _LEADING * line, text, fontsize=_SIZE, color=INK)
        top -= room + height
        shown = min(width, height * size[0] / size[1])
        places = [_MARGIN + column * (width + _GAP) for column in range(len(columns))]
        axes.append([_panel(figure, left, top, shown, height, size) for left in places])
        top -= _GAP
    _write_legend(figure, lines, bottom - 4)
    for line, text in enumerate(notes):
        y = _MARGIN - 4 + _LEADING * (len(notes) - line)
        write(figure, _MARGIN, y, text, fontsize=_SIZE, color=MUTED)
    return Page(figure, axes)


def _panel(
    figure: "Figure", left: float, bottom: float, width: float, height: float, size: tuple[int, int]
) -> "Axes":
    """Axes in pixels of a photo, from its upper left corner."""
    axes = figure.add_axes(area(figure, left, bottom, width, height))
    axes.set_xlim(0, size[0])
    axes.set_ylim(size[1], 0)
    axes.set_axis_off()
    return axes


def show(axes: "Axes", pixels: np.ndarray) -> None:
    """Show ``(H, W, 3)`` bytes in a panel, pixel by pixel in its coordinates."""
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="antialiased", aspect="auto")


def _legend_lines(
    figure: "Figure", legend: Sequence[tuple[int, str]], width: float
) -> list[list[tuple[float, int, str]]]:
    """Lines of ``(left, index, text)`` that fit ``width``."""
    measure = text_width(figure, _CHIP_SIZE)
    lines: list[list[tuple[float, int, str]]] = []
    left = math.inf
    for index, name in legend:
        text = shorten(name, _LONGEST_NAME, measure)
        needed = _chip_width(index) + 4 + measure(text) + 14
        if left + needed - 14 > width:
            lines.append([])
            left = 0.0
        lines[-1].append((left, index, text))
        left += needed
    return lines


def _chip_width(index: int) -> float:
    return _CHIP + 5.0 * max(0, len(str(index)) - 2)


def _write_legend(
    figure: "Figure", lines: Sequence[Sequence[tuple[float, int, str]]], top: float
) -> None:
    for line, entries in enumerate(lines):
        y = top - _LEGEND_LEADING * line
        for left, index, text in entries:
            colour, chip = class_colour(index), _chip_width(index)
            axes = figure.add_axes(area(figure, _MARGIN + left, y - _CHIP, chip, _CHIP))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_facecolor(hex_code(colour))
            axes.spines[:].set_visible(False)
            style: dict[str, Any] = {
                "ha": "center",
                "va": "center_baseline",
                "fontsize": _CHIP_SIZE - 1,
            }
            axes.text(0.5, 0.5, str(index), color=ink_on(colour), **style)
            write(figure, _MARGIN + left + chip + 4, y - 1.5, text, fontsize=_CHIP_SIZE, color=INK)
