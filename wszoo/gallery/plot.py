"""The plots that readers without JavaScript see; ``page.js`` draws the same with more to it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from wszoo.gallery.rows import DataSet, Row

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 14, 44
_RADIUS = 5.0
_LETTER = 7.2  # width of one in the widest of the usual fonts, on average
_LINE = 13.0  # height of a label


# One path around the origin per family; page.js gets them with the data.
SHAPES = {
    "ResNet": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "ResNet-D": "M0-6.4L6.4 0 0 6.4-6.4 0z",
    "ResNeXt": "M-4.6-4.6h9.2v9.2h-9.2z",
    "Wide ResNet": "M0-5.8L6 4.6H-6z",
}


@dataclass(frozen=True)
class Box:
    """A rectangle by its edges."""

    left: float
    top: float
    right: float
    bottom: float

    def touches(self, other: "Box") -> bool:
        apart = (
            self.right <= other.left
            or other.right <= self.left
            or self.bottom <= other.top
            or other.bottom <= self.top
        )
        return not apart


_PAGE = Box(_LEFT, 0, _WIDTH, _HEIGHT - _BOTTOM)


def address(row: Row) -> str:
    """The fragment that leads to a model; the script reads it, too."""
    return f"#model={row.name}"


def static_plot(rows: Iterable[Row], data: DataSet) -> str:
    """Accuracy against parameters as SVG, one point per model that has a figure for ``data``."""
    shown = [row for row in rows if data.key in row.top1]
    x = LogScale([row.parameters / 1e6 for row in shown], _LEFT, _WIDTH - _RIGHT)
    y = LinearScale([row.top1[data.key] for row in shown], _HEIGHT - _BOTTOM, _TOP)
    points = [(row, x(row.parameters / 1e6), y(row.top1[data.key])) for row in shown]
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" '
        f'aria-label="{escape(f"Top-1 on {data.title} against parameters")}">'
        f"{_grid(x, y)}{_points(points, data)}</svg>"
    )


def _grid(x: "LogScale", y: "LinearScale") -> str:
    floor = _HEIGHT - _BOTTOM
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>']
    for value in y.ticks:
        at = f"{y(value):.1f}"
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>'
        )
        parts.append(_text(_LEFT - 8, y(value) + 4, f"{value:g}", "tick end"))
    for value in x.ticks:
        parts.append(_text(x(value), floor + 17, f"{value:g}", "tick middle"))
    parts.append(_text(_WIDTH - _RIGHT, _HEIGHT - 6, "parameters, millions", "title end"))
    parts.append(_text(_LEFT, _TOP - 3, "top-1, %", "title"))
    return "".join(parts)


def _points(points: Sequence[tuple[Row, float, float]], data: DataSet) -> str:
    taken = [Box(px - _RADIUS, py - _RADIUS, px + _RADIUS, py + _RADIUS) for _, px, py in points]
    parts = []
    for row, px, py in points:
        told = f"{row.name}: {row.top1[data.key]:.2f} %, {row.parameters / 1e6:.2f} M parameters"
        place = f"translate({px:.1f} {py:.1f})"
        mark = f'<path class="mark" d="{SHAPES[row.family]}" transform="{place}"/>'
        parts.append(
            f'<a class="point {row.norm.lower()}" href="{escape(address(row))}" '
            f'aria-label="{escape(told)}"><title>{escape(told)}</title>{mark}</a>'
        )
        label = _label(row, points)
        if spot := _free(len(label) * _LETTER, px, py, taken):
            box, anchor, at = spot
            taken.append(box)
            parts.append(_text(at, box.bottom - 3, label, f"label {anchor}"))
    return "".join(parts)


def _label(row: Row, points: Sequence[tuple[Row, float, float]]) -> str:
    twins = sum(other.model == row.model for other, _, _ in points)
    return (
        f"{row.label} {row.name.partition('.')[2].rpartition('_')[0]}" if twins > 1 else row.label
    )


def _free(width: float, x: float, y: float, taken: Sequence[Box]) -> tuple[Box, str, float] | None:
    """Where beside a point a label fits, and what it is anchored at; None where it fits nowhere."""
    gap = _RADIUS + 4
    corners = (
        (x + gap, y - _LINE / 2, "start", x + gap),
        (x - gap - width, y - _LINE / 2, "end", x - gap),
        (x - width / 2, y - gap - _LINE, "middle", x),
        (x - width / 2, y + gap, "middle", x),
    )
    for left, top, anchor, at in corners:
        box = Box(left, top, left + width, top + _LINE)
        is_inside = _PAGE.left <= left and box.right <= _PAGE.right and box.bottom <= _PAGE.bottom
        if is_inside and top >= 0 and not any(box.touches(other) for other in taken):
            return box, anchor, at
    return None


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


class LogScale:
    """Positions of positive numbers, equal ratios equally far apart.

    Attributes:
        ticks: Round numbers within the domain.
    """

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        margin = max(0.12 * (high - low), 0.06)
        self._low, self._high = low - margin, high + margin
        self._start, self._end = start, end
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        every = [m * 10.0**d for d in decades for m in range(1, 10)]
        within = [v for v in every if self._low <= math.log10(v) <= self._high]
        round_ones = [v for v in within if str(f"{v:e}")[0] in "125"]
        self.ticks = round_ones if len(round_ones) > 2 else within

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


class LinearScale:
    """Positions of percentages.

    Attributes:
        ticks: Round numbers within the domain.
    """

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        margin = max(0.12 * (max(values) - min(values)), 0.5)
        self._low = max(0.0, min(values) - margin)
        self._high = min(100.0, max(values) + margin)
        self._start, self._end = start, end
        span = self._high - self._low
        step = next(s for s in (0.5, 1, 2, 5, 10, 20) if span / s <= 6)
        first = math.ceil(self._low / step)
        self.ticks = [n * step for n in range(first, math.floor(self._high / step) + 1)]

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)
