"""Figures as data: what is plotted is kept beside the picture, and can be compared."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wszoo.training.rows import replace_file
from wszoo.visualize.page import (
    FAINT,
    HEADING_LEADING,
    MUTED,
    area,
    heading_lines,
    new_page,
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

PLOTTED = "figures.json"
# Okabe and Ito's colours but for two darkened ones: apart for every kind of colour vision.
COLOURS = {
    "BN": "#d55e00",
    "GN": "#3a9bdc",
    "BN+WS": "#8a6d00",
    "GN+WS": "#004c99",
    "BCN+WS": "#009e73",
}
_OTHERS = ("#aa4499", "#333333", "#8a6d00")
_MARKERS = {"BN": "s", "GN": "o", "BN+WS": "D", "GN+WS": "o", "BCN+WS": "^"}
_WIDTH, _HEIGHT, _MARGIN = 547.2, 330.0, 12.0  # points
_LEFT, _BOTTOM, _GAP, _LEADING, _SIZE = 46.0, 44.0, 16.0, 13.5, 10.5


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a figure.

    Attributes:
        name: Where it begins with a kind of net, the line has its colour.
        x: Where.
        y: How much.
        half: Half width of the 95 % interval of each y, None where there is none.
        dashed: Drawn so, for what is a variation of another line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    half: Sequence[float | None] | None = None
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Plot:
    """All that a figure shows.

    Attributes:
        title: The heading.
        x_label: With the unit.
        y_label: With the unit; written above the axis.
        series: Lines.
        x_log2: Space x by powers of two.
        x_falling: Let x fall from left to right.
        y_log: Space y by powers of ten.
        y_from_zero: Begin y at zero, which may cut a bar.
        joined: Draw lines between the points.
        note: Below the title: how much was run, and what the bars are.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series] = field(default_factory=tuple)
    x_log2: bool = False
    x_falling: bool = False
    y_log: bool = False
    y_from_zero: bool = False
    joined: bool = True
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON takes it, with the numbers as they are compared."""
        facts: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return facts


def write_figures(out: Path, plots: Mapping[str, Plot]) -> None:
    """Draw each plot as ``out/NAME.png``, and keep what was plotted in figures.json."""
    out.mkdir(parents=True, exist_ok=True)
    plotted = {name: plot.to_json() for name, plot in plots.items()}
    replace_file(out / PLOTTED, (json.dumps(plotted, indent=1) + "\n").encode())
    for name, plot in plots.items():
        draw(plot, out / f"{name}.png")


def differences(plotted: Any, found: Any, path: str = "") -> list[str]:
    """Where what was plotted is not what the results give; numbers may differ by rounding."""
    if isinstance(plotted, dict) and isinstance(found, dict):
        keys = [*dict.fromkeys([*plotted, *found])]
        pairs = [(f"{path}.{key}".lstrip("."), plotted.get(key), found.get(key)) for key in keys]
    elif isinstance(plotted, list) and isinstance(found, list) and len(plotted) == len(found):
        pairs = [
            (f"{path}[{i}]", old, new)
            for i, (old, new) in enumerate(zip(plotted, found, strict=True))
        ]
    elif isinstance(plotted, float) and isinstance(found, float):
        same = math.isclose(plotted, found, rel_tol=1e-9, abs_tol=1e-12)
        return [] if same else [f"{path} is {plotted}, and the results give {found}"]
    else:
        return (
            [] if plotted == found else [f"{path} is {plotted!r}, and the results give {found!r}"]
        )
    return [line for name, old, new in pairs for line in differences(old, new, name)]


def draw(plot: Plot, path: Path) -> None:
    """Draw the lines of ``plot``, each named where it ends, as a PNG file."""
    figure = new_page()
    measure = text_width(figure, _SIZE)
    heading = heading_lines(figure, plot.title, _WIDTH - 2 * _MARGIN)
    notes = wrap(plot.note, _WIDTH - 2 * _MARGIN, measure) if plot.note else []
    head = _MARGIN + HEADING_LEADING * len(heading) + _LEADING * len(notes) + 26
    height = _HEIGHT + _LEADING * len(notes)
    resize(figure, _WIDTH, height)
    names = [series.name for series in plot.series]
    widest = max(measure(name) for name in names)
    room = (_WIDTH - _LEFT - widest - _GAP - _MARGIN, height - _BOTTOM - head)
    axes = figure.add_axes(area(figure, _LEFT, _BOTTOM, *room))
    colours = _colours(names)
    _plot_series(axes, plot, colours)
    _tidy(axes, plot)
    write_heading(figure, heading, _MARGIN)
    top = height - _MARGIN - HEADING_LEADING * len(heading)
    for line, text in enumerate(notes):
        write(figure, _MARGIN, top - _LEADING * line, text, fontsize=_SIZE, color=MUTED)
    write(figure, _MARGIN, height - head + 17, plot.y_label, fontsize=_SIZE, color=MUTED)
    _name_ends(figure, axes, plot.series, colours, room[1])
    save(figure, path)


def _colours(names: Sequence[str]) -> dict[str, str]:
    """The colour of each line: that of its kind of net, or one that is free."""
    free = iter(_OTHERS * len(names))
    return {name: COLOURS.get(name.split(",")[0]) or next(free) for name in names}


def _plot_series(axes: "Axes", plot: Plot, colours: Mapping[str, str]) -> None:
    for series in plot.series:
        kind = series.name.split(",")[0]
        few = len(series.x) <= 20
        look: dict[str, Any] = {
            "color": colours[series.name],
            "linestyle": ((0, (4, 2)) if series.dashed else "-") if plot.joined else "none",
            "linewidth": 1.8 if few else 1.3,
        }
        if few:
            look |= {"marker": _MARKERS.get(kind, "o"), "markersize": 5}
        if series.dashed or kind == "GN":  # hollow: told apart from the others in grey, too
            look |= {"markerfacecolor": "white"}
        if series.half is not None and any(series.half):
            bars = [half or 0.0 for half in series.half]
            axes.errorbar(series.x, series.y, yerr=bars, capsize=3, elinewidth=1.1, **look)
        else:
            axes.plot(series.x, series.y, **look)


def _tidy(axes: "Axes", plot: Plot) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, ScalarFormatter

    axes.set_xlabel(plot.x_label, color=MUTED, fontsize=_SIZE, parse_math=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    if plot.y_log:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    if plot.x_log2:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted({x for s in plot.series for x in s.x})))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
    axes.tick_params(colors=MUTED, labelsize=10, length=0)
    axes.tick_params(axis="x", length=4)
    axes.margins(x=0.03, y=0.08)
    if plot.y_from_zero:
        axes.set_ylim(bottom=0)
    if plot.x_falling:
        axes.invert_xaxis()


def _name_ends(
    figure: "Figure",
    axes: "Axes",
    lines: Sequence[Series],
    colours: Mapping[str, str],
    height: float,
) -> None:
    """Write each name right of the axes, as near to its end as the others allow."""
    figure.canvas.draw()  # settles the limits
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = {
        line.name: float(to_axes.transform((line.x[-1], line.y[-1]))[1]) * height for line in lines
    }
    placed = _apart(wanted, _LEADING)
    for line in lines:
        axes.annotate(
            line.name,
            (line.x[-1], line.y[-1]),
            xytext=(1 + _GAP / (axes.get_position().width * _WIDTH), placed[line.name] / height),
            textcoords="axes fraction",
            color=colours[line.name],
            fontsize=_SIZE,
            va="center",
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "relpos": (0, 0.5)},
        )


def _apart(wanted: Mapping[str, float], least: float) -> dict[str, float]:
    """Heights at least ``least`` apart, in the order of those wanted and near to them."""
    names = sorted(wanted, key=lambda name: wanted[name])
    placed = [wanted[name] for name in names]
    for _ in range(200):  # neighbours that are too near push one another away
        for low in range(len(placed) - 1):
            if (lack := least - (placed[low + 1] - placed[low])) > 0:
                placed[low] -= lack / 2
                placed[low + 1] += lack / 2
    return dict(zip(names, placed, strict=True))
