"""Pictures of results: predictions on photos, curves, confusion matrices, as PNG files.

Colours are told apart by colour-blind readers too, and no meaning rests on colour alone.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # matplotlib takes half a second to import; each picture imports it itself
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _MUTED, _FAINT = "#1a1a1a", "#5f6368", "#d9dbde"
_RIGHT, _WRONG = "#00725a", "#bf4b00"  # bluish green and vermilion, dark enough for text
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#8a6d00", "#3a9bdc", "#333333")
_STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))  # the second for the eighth line and on
_POINTS = 72  # per inch
_COUNTS_UP_TO = 20  # classes whose cells have room for a number
_TICKS_UP_TO = 50  # classes that can all be named along an axis


def draw_predictions(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    correct: Sequence[bool | None],
    path: Path,
    *,
    title: str | None = None,
    columns: int = 6,
) -> None:
    """Draw a contact sheet of photos with a caption below each.

    Args:
        images: Photos of any size; each is fitted into a square, nothing is cut off.
        captions: Wrapped to the width of the photo; line breaks stay.
        correct: Whether each caption is right, which marks and colours it; None where unknown.
        path: PNG file to write.
        title: Heading of the sheet.
        columns: Photos in a row.

    Raises:
        ValueError: No photos, no columns, or another number of captions or marks than of photos.
    """
    for what, values in (("captions", captions), ("correct", correct)):
        if len(values) != len(images):
            raise ValueError(
                f"{what} has {len(values)} entries for {len(images)} images; give one for each"
            )
    if not images:
        raise ValueError("no images to draw; give at least one")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")

    side, gap, margin, size, leading = 124.0, 14.0, 16.0, 9.5, 12.5  # points
    columns = min(columns, len(images))
    figure = _figure()
    measure = _text_width(figure, size)
    marks = {True: "✓ ", False: "✗ ", None: ""}
    texts = [
        _wrap(marks[mark] + caption, side, measure)
        for caption, mark in zip(captions, correct, strict=True)
    ]
    rows = [
        range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)
    ]
    heights = [side + 5 + leading * max(len(texts[index]) for index in row) + gap for row in rows]
    width = 2 * margin + columns * side + (columns - 1) * gap
    heading = _wrap(title, width - 2 * margin, _text_width(figure, 13, "bold")) if title else []
    head = margin + (18.0 * len(heading) + 8 if heading else 0)
    height = head + sum(heights) + margin - gap

    figure.set_size_inches(width / _POINTS, height / _POINTS)
    for line, text in enumerate(heading):
        y = 1 - (margin + 18 * line) / height
        _text(figure, margin / width, y, text, fontsize=13, color=_INK, weight="bold")
    top = height - head
    for row, row_height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            left = margin + column * (side + gap)
            colour = {True: _RIGHT, False: _WRONG, None: _INK}[correct[index]]
            box = (left / width, (top - side) / height, side / width, side / height)
            _draw_photo(figure.add_axes(box), images[index], colour)
            for line, text in enumerate(texts[index]):
                y = (top - side - 5 - leading * line) / height
                _text(figure, left / width, y, text, fontsize=size, color=colour)
        top -= row_height
    _save(figure, path)


def _draw_photo(axes: "Axes", image: Image.Image, colour: str) -> None:
    axes.imshow(np.asarray(image.convert("RGB")), interpolation="bicubic")
    axes.set_anchor("SW")  # next to its caption
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=_FAINT if colour == _INK else colour, linewidth=1.5)


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

    figure = _figure()
    figure.set_size_inches(7.6, 4.4)
    axes = figure.add_axes((0, 0, 1, 1))  # moved once the labels are measured
    ends: list[tuple[str, float, float, str]] = []
    for name, y in (hlines or {}).items():
        axes.axhline(y, color=_MUTED, linewidth=1.1, linestyle=(0, (2, 2)), zorder=1)
        ends.append((name, math.nan, y, _MUTED))
    for index, (name, points) in enumerate(series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        style = _STYLES[index // len(_COLOURS) % len(_STYLES)]
        ordered = sorted(points)
        xs, ys = zip(*ordered, strict=True)
        few = len(ordered) <= 30
        look = {"marker": "o", "linewidth": 1.9} if few else {"linewidth": 1.4}
        axes.plot(xs, ys, color=colour, linestyle=style, markersize=4, **look)
        ends.append((name, xs[-1], ys[-1], colour))
    _tidy(axes, x_label, whole=all(float(x).is_integer() for p in series.values() for x, _ in p))
    _place(figure, axes, title, y_label, ends)
    _save(figure, path)


def _tidy(axes: "Axes", x_label: str, *, whole: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(x_label, color=_MUTED, fontsize=10.5, parse_math=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.grid(axis="y", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, labelsize=10, length=0)
    axes.tick_params(axis="x", length=4)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=whole))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.margins(x=0.02, y=0.08)
    low, high = axes.dataLim.intervalx
    if low == high:
        axes.set_xlim(low - 1, low + 1)


def _place(
    figure: "Figure",
    axes: "Axes",
    title: str | None,
    y_label: str,
    ends: Sequence[tuple[str, float, float, str]],
) -> None:
    """Give the axes the room that headings and labels leave, and write those."""
    from matplotlib.transforms import blended_transform_factory

    size, leading = 10.5, 13.5  # points
    width, height = (inches * _POINTS for inches in figure.get_size_inches())
    measure = _text_width(figure, size)
    texts = [_wrap(f"{name}: {y:.3g}", 0.3 * width, measure) for name, _, y, _ in ends]
    widest = max(measure(line) for lines in texts for line in lines)
    heading = _wrap(title, width - 24, _text_width(figure, 13, "bold")) if title else []
    head = 12 + (18 * len(heading) + 4) + 20
    box = (46, 44, width - 46 - widest - 34, height - 44 - head)
    axes.set_position((box[0] / width, box[1] / height, box[2] / width, box[3] / height))

    for line, text in enumerate(heading):
        y = 1 - (12 + 18 * line) / height
        _text(figure, 12 / width, y, text, fontsize=13, color=_INK, weight="bold")
    y = 1 - (head - 16) / height
    _text(figure, 12 / width, y, y_label, fontsize=size, color=_MUTED)

    low, high = axes.get_ylim()
    wanted = [(y - low) / (high - low) * box[3] for _, _, y, _ in ends]
    placed = _spread(wanted, [leading * len(lines) for lines in texts])
    edge = blended_transform_factory(axes.transAxes, axes.transData)
    for (_, x, y, colour), lines, centre in zip(ends, texts, placed, strict=True):
        is_reference = math.isnan(x)
        axes.annotate(
            "\n".join(lines),
            xy=(1, y) if is_reference else (x, y),
            xycoords=edge if is_reference else "data",
            xytext=(1 + 22 / box[2], centre / box[3]),
            textcoords="axes fraction",
            color=colour,
            fontsize=size,
            linespacing=1.1,
            verticalalignment="center",
            parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "shrinkA": 2,
                "shrinkB": 3,
            },
        )


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
    from matplotlib.colors import PowerNorm

    count = len(classes)
    if count == 0 or matrix.shape != (count, count):
        raise ValueError(
            f"matrix has shape {matrix.shape} for {count} classes; it must be ({count}, {count})"
        )
    if (matrix < 0).any():
        raise ValueError(f"matrix holds counts, but its least entry is {matrix.min()}")

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = 9.5 if count <= _COUNTS_UP_TO else 7.5
    step = 1 if count <= _TICKS_UP_TO else math.ceil(count / 25)
    shown = range(0, count, step)
    figure = _figure()
    measure = _text_width(figure, size)
    names = [_shorten(classes[index], 130.0, measure) for index in shown]
    room = max(measure(name) for name in names) + 30
    per_class = 34.0 if count <= _COUNTS_UP_TO else 11.0
    side = max(210.0, min(count, _TICKS_UP_TO) * per_class) if count <= _TICKS_UP_TO else 560.0
    slant = room * math.sin(math.radians(50)) + 16
    bar = 78.0
    width = room + side + bar
    heading = _wrap(title, width - 24, _text_width(figure, 13, "bold")) if title else []
    head = 14 + (18.0 * len(heading) + 6 if heading else 0)
    height = head + side + slant + 12

    figure.set_size_inches(width / _POINTS, height / _POINTS)
    for line, text in enumerate(heading):
        y = 1 - (12 + 18 * line) / height
        _text(figure, 12 / width, y, text, fontsize=13, color=_INK, weight="bold")
    bottom = (slant + 12) / height
    axes = figure.add_axes((room / width, bottom, side / width, side / height))
    # On a linear scale, single mistakes among many classes would be invisible.
    norm = PowerNorm(1.0 if count <= _COUNTS_UP_TO else 0.5, vmin=0, vmax=1)
    picture = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest", aspect="auto")
    turned: dict[str, Any] = {
        "rotation": 50,
        "ha": "right",
        "rotation_mode": "anchor",
        "parse_math": False,
    }
    axes.set_xticks(shown, names, fontsize=size, **turned)
    axes.set_yticks(shown, names, fontsize=size, parse_math=False)
    axes.tick_params(colors=_INK, length=2 if step > 1 else 0, color=_MUTED)
    axes.set_xlabel("predicted", color=_MUTED, fontsize=10.5)
    axes.set_ylabel("true", color=_MUTED, fontsize=10.5)
    for spine in axes.spines.values():
        spine.set(color=_FAINT)
    if count <= _COUNTS_UP_TO:
        for row, column in itertools.product(range(count), repeat=2):
            _draw_count(axes, row, column, matrix[row, column], shares[row, column])
    strip = figure.add_axes(((room + side + 14) / width, bottom, 10 / width, side / height))
    scale = figure.colorbar(picture, cax=strip, format="{x:.0%}")
    scale.set_label("share of the true class", color=_MUTED, fontsize=9.5)
    scale.outline.set_visible(False)
    strip.tick_params(colors=_MUTED, labelsize=9, length=0)
    _save(figure, path)


def _draw_count(axes: "Axes", row: int, column: int, count: float, share: float) -> None:
    if count:
        colour = "white" if share > 0.55 else _INK
        text = f"{count:g}"
        size = min(9.5, 36 / len(text))
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def _figure() -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=_POINTS, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: Path) -> None:
    # Without the version of matplotlib, the same data gives the same file.
    figure.savefig(path, format="png", dpi=150, metadata={"Software": None})


def _text(figure: "Figure", x: float, y: float, text: str, **style: Any) -> None:
    figure.text(x, y, text, va="top", ha="left", parse_math=False, **style)


def _text_width(figure: "Figure", size: float, weight: str = "normal") -> Callable[[str], float]:
    """A function from a line of text to its width in points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.font_manager import FontProperties

    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer = figure.canvas.get_renderer()
    font = FontProperties(size=size, weight=weight)
    return lambda text: float(renderer.get_text_width_height_descent(text, font, False)[0])


def _wrap(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Break ``text`` into lines of at most ``width``; words that are longer are broken too."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}".strip()
            if measure(joined) <= width:
                line = joined
                continue
            if line:
                lines.append(line)
            while measure(word) > width and len(word) > 1:
                cut = next(
                    n for n in range(len(word) - 1, 0, -1) if n == 1 or measure(word[:n]) <= width
                )
                lines.append(word[:cut])
                word = word[cut:]
            line = word
        lines.append(line)
    return lines


def _shorten(text: str, width: float, measure: Callable[[str], float]) -> str:
    """Cut ``text`` to ``width``, with an ellipsis where something went."""
    if measure(text) <= width:
        return text
    while text and measure(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


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
