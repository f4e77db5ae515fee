"""Precision over recall, a small panel per class."""

import math
from collections.abc import Mapping
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
    write,
    write_heading,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LARGE, _SMALL, _GAP, _MARGIN = 150.0, 92.0, 16.0, 16.0  # points; sides of panels first
_LEFT, _BOTTOM = 30.0, 32.0  # points left of and below the panels, for ticks and their meaning
_ABOVE, _SIZE = 27.0, 9.0  # points: two lines above a panel
_LARGE_UP_TO, _MOST = 8, 48  # classes
_LINE = "#0072b2"


def draw_precision_recall(
    recall: np.ndarray,
    precision: Mapping[str, np.ndarray],
    path: Path,
    *,
    title: str | None = None,
) -> None:
    """Draw how precision falls as more objects are found, for each class in a panel.

    The class of the highest average precision comes first, classes without objects last. Of more
    than 48 classes, the 48 of the lowest average precision are drawn, which the picture says.

    Args:
        recall: ``(R,)``, ascending in 0..1; COCO's are 101 steps.
        precision: ``(R,)`` per class, in 0..1, by name. NaN, or COCO's -1, throughout, where the
            class has no objects. Its mean is the average precision that is written above.
        path: PNG file to write.
        title: Heading of the picture.

    Raises:
        ValueError: No classes, or a curve of another length than ``recall``.
    """
    if not precision:
        raise ValueError("no classes to draw; give at least one")
    curves = {name: np.asarray(curve, dtype=np.float64) for name, curve in precision.items()}
    for name, curve in curves.items():
        if curve.shape != (len(recall),):
            raise ValueError(
                f"precision of {name!r} has shape {curve.shape}, recall wants ({len(recall)},)"
            )
    average = {name: _average(curve) for name, curve in curves.items()}
    order = sorted(curves, key=lambda name: (average[name] is None, -(average[name] or 0)))
    shown = order
    note = ""
    if len(order) > _MOST:
        scored = [name for name in order if average[name] is not None]
        shown = scored[-_MOST:]
        note = f"{len(shown)} of {len(order)} classes, those of the lowest average precision"
    figure = new_page()
    side = _LARGE if len(shown) <= _LARGE_UP_TO else _SMALL
    corners = _lay_out(figure, len(shown), side, title, note)
    measure = text_width(figure, _SIZE)
    for name, (left, top) in zip(shown, corners, strict=True):
        said = average[name]
        text = "no objects" if said is None else f"AP {100 * said:.1f} %"
        write(figure, left, top, shorten(name, side, measure), fontsize=_SIZE, color=INK)
        write(figure, left, top - 12, text, fontsize=_SIZE, color=MUTED)
        place = area(figure, left, top - _ABOVE - side, side, side)
        axes = _draw_panel(figure, place, recall, None if said is None else curves[name])
        axes.tick_params(labelleft=left == corners[0][0])
    save(figure, path)


def _average(curve: np.ndarray) -> float | None:
    if np.isnan(curve).any() or (curve < 0).any():
        return None
    return float(curve.mean())


def _lay_out(
    figure: "Figure", count: int, side: float, title: str | None, note: str
) -> list[tuple[float, float]]:
    """Size the page, write what is said once, and give the upper left corners of the panels."""
    columns = min(count, 4 if side == _LARGE else 8)
    rows = math.ceil(count / columns)
    across, down = side + _GAP, _ABOVE + side + _GAP
    width = max(300.0, _MARGIN + _LEFT + columns * across)
    heading = heading_lines(figure, title, width - 2 * _MARGIN)
    head = _MARGIN + HEADING_LEADING * len(heading) + (16 if note else 4)
    height = head + rows * down + _BOTTOM
    resize(figure, width, height)
    write_heading(figure, heading, _MARGIN)
    if note:
        write(figure, _MARGIN, height - head + 14, note, fontsize=_SIZE, color=MUTED)
    axis = "across: recall, share of all objects that are found; up: precision, share that is right"
    write(figure, _MARGIN, 18, axis, fontsize=_SIZE, color=MUTED)
    return [
        (_MARGIN + _LEFT + index % columns * across, height - head - index // columns * down)
        for index in range(count)
    ]


def _draw_panel(
    figure: "Figure",
    place: tuple[float, float, float, float],
    recall: np.ndarray,
    curve: np.ndarray | None,
) -> "Axes":
    axes = figure.add_axes(place)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(colors=MUTED, labelsize=7, length=0)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set(color=FAINT)
    if curve is not None:
        axes.fill_between(recall, curve, color=_LINE, alpha=0.15, linewidth=0)
        axes.plot(recall, curve, color=_LINE, linewidth=1.5)
    return axes
