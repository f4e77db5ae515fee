"""What a run found, as pictures: ratios beside their goals, memory against batch size."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wszoo.bench.footprint import PEAK, level_label
from wszoo.bench.result import GROUPS, Comparison, Row
from wszoo.memory import MEMORY
from wszoo.visualize import draw_curves
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
    text_width,
    wrap,
    write,
    write_heading,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RATIOS, MEMORY_PICTURE = "ratios.png", "memory_{precision}_{layout}.png"
_COLOURS = {True: "#004c99", False: "#d55e00", None: "#8a8d91"}
_MEANINGS = {True: "within its goal", False: "beyond its goal", None: "without a goal"}
_WIDTH, _MARGIN, _LEFT, _RIGHT = 740.0, 12.0, 405.0, 64.0  # points
_LEADING, _FOOT, _SIZE = 15.0, 46.0, 9.5
_BAR = 0.62  # of a line
_MOST = 2.5  # longer bars are cut off; their figures stand beside them


def draw(result: Comparison, folder: Path) -> list[Path]:
    """Write the pictures that ``result`` has something for.

    Returns:
        The PNG files.
    """
    if not result.rows:
        return []
    goals = [row for row in result.rows if row.goal is not None]
    draw_ratios(result, goals or result.rows, folder / RATIOS)
    kinds = peaks_by_kind(result)
    for name, rows in kinds.items():
        draw_curves(
            peaks_by_net(rows),
            folder / name,
            x_label="images per step",
            y_label="peak above weights, gradients and momentum, MiB",
            title=f"{result.model}: memory of a training step, "
            f"{rows[0].precision} {rows[0].layout}",
        )
    return [folder / name for name in (RATIOS, *kinds)]


def peaks_by_kind(result: Comparison) -> dict[str, list[Row]]:
    """Rows about the peak of a step, by the picture of their precision and layout."""
    found: dict[str, list[Row]] = {}
    for row in result.rows:
        if row.group == "memory" and row.what.startswith(PEAK):
            name = MEMORY_PICTURE.format(precision=row.precision, layout=row.layout)
            found.setdefault(name, []).append(row)
    return found


def peaks_by_net(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Batch sizes and MiB of every net that ``rows`` of one precision and layout tell of."""
    found: dict[str, dict[float, float]] = {}
    names = {level_label(level): f"ours, {level}" for level in MEMORY}
    for row in rows:
        assert row.batch is not None
        level = row.what.removeprefix(PEAK).removeprefix(", ") or level_label(MEMORY[0])
        found.setdefault(names[level], {})[row.batch] = row.ours
        found.setdefault(names.get(row.peer, row.peer), {})[row.batch] = row.theirs
    return {net: sorted(points.items()) for net, points in found.items()}


def draw_ratios(result: Comparison, rows: Sequence[Row], path: Path) -> None:
    """Draw a bar per row, with a mark where its goal is, under the title of its group."""
    figure = new_page()
    lines = _lines(rows)
    title = f"{result.model} beside its peers: ours over theirs, below 1 is better"
    resize(figure, _WIDTH, 100)  # to measure text on
    heading = heading_lines(figure, title, _WIDTH - 2 * _MARGIN)
    told = "\n".join((result.clock, str(result.machine), *result.warnings))
    notes = wrap(told, _WIDTH - 2 * _MARGIN, text_width(figure, _SIZE))
    head = _MARGIN + HEADING_LEADING * len(heading) + 13 * len(notes) + 10
    height = head + _LEADING * len(lines) + _FOOT
    resize(figure, _WIDTH, height)
    write_heading(figure, heading, _MARGIN)
    top = height - _MARGIN - HEADING_LEADING * len(heading)
    for place, note in enumerate(notes):
        write(figure, _MARGIN, top - 13 * place, note, fontsize=_SIZE, color=MUTED)
    room = (_WIDTH - _LEFT - _RIGHT, _LEADING * len(lines))
    axes = figure.add_axes(area(figure, _LEFT, _FOOT, *room))
    for place, line in enumerate(lines):
        y = height - head - _LEADING * (place + 0.5)
        if isinstance(line, str):
            style = {"fontsize": 10.5, "color": INK, "weight": "bold"}
            write(figure, _MARGIN, y + 5.5, line, **style)
            continue
        label = f"{line.name}, {line.peer}"
        write(figure, _MARGIN, y + 4.5, label, fontsize=_SIZE, color=INK)
        _draw_bar(axes, place, line)
    _tidy(axes, rows, len(lines))
    save(figure, path)


def _lines(rows: Sequence[Row]) -> list[Row | str]:
    """Rows under the titles of their groups."""
    lines: list[Row | str] = []
    for group, title in GROUPS.items():
        of_group = [row for row in rows if row.group == group]
        lines += [title, *of_group] if of_group else []
    return lines


def _draw_bar(axes: "Axes", place: int, row: Row) -> None:
    axes.barh(place, min(row.ratio, _MOST), height=_BAR, color=_COLOURS[row.met], zorder=2)
    end = row.ratio
    if row.quartiles is not None:
        low, high = row.quartiles
        axes.plot([low, high], [place, place], color=INK, linewidth=1.0, zorder=4)
        end = max(end, high)
    told = f"{row.ratio:.2f}"
    if row.goal is not None:
        half = _BAR / 2 + 0.07
        axes.plot([row.goal] * 2, [place - half, place + half], color=INK, linewidth=2, zorder=3)
        told, end = f"{told} of {row.goal:.2f}", max(end, row.goal)
    axes.annotate(
        told,
        (min(end, _MOST), place),
        xytext=(5, 0),
        textcoords="offset points",
        verticalalignment="center",
        fontsize=_SIZE,
        color=_COLOURS[row.met],
    )


def _tidy(axes: "Axes", rows: Sequence[Row], count: int) -> None:
    from matplotlib.patches import Patch

    axes.set_ylim(count - 0.5, -0.5)
    longest = max(max(row.ratio, row.goal or 0) for row in rows)
    axes.set_xlim(0, min(max(1.0, longest), _MOST) * 1.06)
    axes.set_yticks([])
    axes.axvline(1, color=MUTED, linewidth=1.1, linestyle=(0, (2, 2)), zorder=1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=_SIZE, length=0)
    shown = {row.met for row in rows}
    patches = [
        Patch(color=_COLOURS[met], label=_MEANINGS[met]) for met in _MEANINGS if met in shown
    ]
    axes.legend(
        handles=patches,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=axes.transAxes,
        borderaxespad=1.9,
        ncols=3,
        frameon=False,
        fontsize=_SIZE,
    )
