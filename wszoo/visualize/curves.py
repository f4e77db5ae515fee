"""Lines over one another, each named where it ends, so that no legend has to be decoded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wszoo.visualize.page import (
    FAINT,
    HEADING_LEADING,
    MUTED,
    area,
    heading_lines,
    new_page,
    page_size,
    resize,
    save,
    text_width,
    wrap,
    write,
    write_heading,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#8a6d00", "#3a9bdc", "#333333")
_STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))  # the second for the eighth line and on
_WIDTH, _HEIGHT, _MARGIN = 547.2, 316.8, 12.0  # points
_LEFT, _BOTTOM, _LEADER = 46.0, 44.0, 34.0  # points beside the axes: ticks, ticks, label lines
_SIZE, _LEADING = 10.5, 13.5  # points, of labels


class _End(NamedTuple):
    """Where a line ends and its label begins; ``x`` is None for a line across the picture."""

    name: str
    x: float | None
    y: float
    colour: str


def draw_curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    *,
    x_label: str,
    y_label: str,
    title: str | None = None,
    hlines: Mapping[str, float] | None = None,
) -> None:
    """Draw lines over one another, each named where it ends.

    Args:
        series: ``(x, y)`` points by the name of their line.
        path: PNG file to write.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit; written above the axis.
        title: Heading of the picture.
        hlines: Heights of reference lines across the picture, by name.

    Raises:
        ValueError: No lines, or one without points.
    """
    if not series:
        raise ValueError("no series to draw; give at least one")
    for name, points in series.items():
        if not points:
            raise ValueError(f"series {name!r} has no points; leave it out or give at least one")

    figure = new_page()
    resize(figure, _WIDTH, _HEIGHT)
    axes = figure.add_axes((0, 0, 1, 1))  # moved once the labels are measured
    ends = _draw_lines(axes, series, hlines or {})
    whole = all(float(x).is_integer() for points in series.values() for x, _ in points)
    _tidy(axes, x_label, whole=whole)
    measure = text_width(figure, _SIZE)
    labels = [wrap(f"{end.name}: {end.y:.3g}", 0.3 * _WIDTH, measure) for end in ends]
    widest = max(measure(line) for lines in labels for line in lines)
    _place(figure, axes, title, y_label, widest)
    _name_ends(figure, axes, ends, labels)
    save(figure, path)


def _draw_lines(
    axes: "Axes",
    series: Mapping[str, Sequence[tuple[float, float]]],
    hlines: Mapping[str, float],
) -> list[_End]:
    ends = []
    for name, y in hlines.items():
        axes.axhline(y, color=MUTED, linewidth=1.1, linestyle=(0, (2, 2)), zorder=1)
        ends.append(_End(name, None, y, MUTED))
    for index, (name, points) in enumerate(series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        style = _STYLES[index // len(_COLOURS) % len(_STYLES)]
        ordered = sorted(points)
        xs, ys = zip(*ordered, strict=True)
        few = len(ordered) <= 30
        look = {"marker": "o", "linewidth": 1.9} if few else {"linewidth": 1.4}
        axes.plot(xs, ys, color=colour, linestyle=style, markersize=4, **look)
        ends.append(_End(name, xs[-1], ys[-1], colour))
    return ends


def _tidy(axes: "Axes", x_label: str, *, whole: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(x_label, color=MUTED, fontsize=_SIZE, parse_math=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=10, length=0)
    axes.tick_params(axis="x", length=4)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=whole))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.margins(x=0.02, y=0.08)
    low, high = axes.dataLim.intervalx
    if low == high:
        axes.set_xlim(low - 1, low + 1)


def _place(
    figure: "Figure", axes: "Axes", title: str | None, y_label: str, widest_label: float
) -> None:
    """Give the axes the room that headings and labels leave, and write the headings."""
    width, height = page_size(figure)
    heading = heading_lines(figure, title, width - 2 * _MARGIN)
    head = _MARGIN + HEADING_LEADING * len(heading) + 24
    room = (width - _LEFT - widest_label - _LEADER, height - _BOTTOM - head)
    axes.set_position(area(figure, _LEFT, _BOTTOM, *room))
    write_heading(figure, heading, _MARGIN)
    write(figure, _MARGIN, height - head + 16, y_label, fontsize=_SIZE, color=MUTED)


def _name_ends(
    figure: "Figure", axes: "Axes", ends: Sequence[_End], labels: Sequence[Sequence[str]]
) -> None:
    """Write each label right of the axes, tied by a thin line to the end that it names."""
    from matplotlib.transforms import blended_transform_factory

    page_width, page_height = page_size(figure)
    width, height = axes.get_position().width * page_width, axes.get_position().height * page_height
    low, high = axes.get_ylim()
    wanted = [(end.y - low) / (high - low) * height for end in ends]
    placed = _spread(wanted, [_LEADING * len(lines) for lines in labels])
    edge = blended_transform_factory(axes.transAxes, axes.transData)
    for end, lines, centre in zip(ends, labels, placed, strict=True):
        axes.annotate(
            "\n".join(lines),
            xy=(1, end.y) if end.x is None else (end.x, end.y),
            xycoords=edge if end.x is None else "data",
            xytext=(1 + 22 / width, centre / height),
            textcoords="axes fraction",
            color=end.colour,
            fontsize=_SIZE,
            linespacing=1.1,
            verticalalignment="center",
            parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end.colour,
                "linewidth": 0.7,
                "shrinkA": 2,
                "shrinkB": 3,
            },
        )


def _spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Move the centres of labels as little as needed so that none overlaps another."""
    groups: list[list[int]] = [[index] for index in np.argsort(wanted, kind="stable").tolist()]

    def extent(group: list[int]) -> tuple[float, float]:
        total = sum(heights[index] for index in group)
        centre = sum(wanted[index] for index in group) / len(group)
        return centre - total / 2, centre + total / 2

    index = 0
    while index + 1 < len(groups):
        if extent(groups[index])[1] > extent(groups[index + 1])[0]:
            groups[index] += groups.pop(index + 1)
            index = max(0, index - 1)
        else:
            index += 1
    placed = [0.0] * len(wanted)
    for group in groups:
        bottom = extent(group)[0]
        for member in group:
            placed[member] = bottom + heights[member] / 2
            bottom += heights[member]
    return placed
