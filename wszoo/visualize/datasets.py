"""Pictures of a data set: classes, image sizes, objects, and the first images with faults."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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

_BLUE = "#0072b2"
_MARGIN, _GAP = 14.0, 26.0  # points
_PANEL = 190.0  # points: width of one split's bars
_BAR = 15.0  # points: height of one class, where there are few
_NAMED_UP_TO = 60  # classes that can all be named
_MANY = 520.0  # points: height of the bars of more classes than that
_LONGEST_NAME = 150.0  # points
_SIZE = 9.0  # points, of text
_SQUARE = 250.0  # points: side of a scatter or histogram


class _Page(NamedTuple):
    """A page with its heading on, and the room below it in points."""

    figure: "Figure"
    top: float


def _page(title: str | None, width: float, height: float) -> _Page:
    figure = new_page()
    lines = heading_lines(figure, title, width - 2 * _MARGIN)
    head = _MARGIN + (HEADING_LEADING * len(lines) + 8 if lines else 0)
    resize(figure, width, head + height)
    write_heading(figure, lines, _MARGIN)
    return _Page(figure, height)


def draw_class_counts(
    counts: Mapping[str, Mapping[str, int]],
    path: Path,
    *,
    unit: str,
    title: str | None = None,
) -> None:
    """Draw how often each class occurs, one column of bars per split.

    Bars are shares of their split, so that splits of different sizes can be compared; the counts
    stand beside them where there is room. The most frequent class comes first.

    Args:
        counts: By split, and then by class.
        path: PNG file to write.
        unit: What is counted, such as ``"images"``. Of ``"pixels"``, only shares are written.
        title: Heading of the picture.

    Raises:
        ValueError: No splits, or no classes.
    """
    totals: Counter[str] = Counter()
    for of_split in counts.values():
        totals.update(of_split)
    if not totals:
        raise ValueError("no classes to draw; give the counts of at least one split")
    classes = sorted(totals, key=lambda name: (-totals[name], name))
    few = len(classes) <= _NAMED_UP_TO
    height = _BAR * len(classes) if few else _MANY
    measure = text_width(new_page(), _SIZE)
    named = range(0, len(classes), 1 if few else math.ceil(len(classes) / 25))
    names = {index: shorten(classes[index], _LONGEST_NAME, measure) for index in named}
    left = _MARGIN + max(map(measure, names.values())) + 8
    width = left + len(counts) * (_PANEL + _GAP) - _GAP + _MARGIN
    page = _page(title, width, height + 52)
    shares = {
        split: np.array([of_split.get(name, 0) for name in classes])
        / max(sum(of_split.values()), 1)
        for split, of_split in counts.items()
    }
    most = max(float(share.max()) for share in shares.values()) or 1.0
    for column, (split, of_split) in enumerate(counts.items()):
        x = left + column * (_PANEL + _GAP)
        axes = page.figure.add_axes(area(page.figure, x, 28, _PANEL, height))
        _draw_bars(axes, shares[split], most * (1.3 if few else 1.04))
        if few:
            _write_counts(axes, [of_split.get(name, 0) for name in classes], shares[split], unit)
        _name_bars(axes, names if column == 0 else {})
        total = f"{sum(of_split.values()):,} {unit}".replace(",", " ")
        write(page.figure, x, height + 46, f"{split}: {total}", fontsize=10.5, color=INK)
    save(page.figure, path)


def _name_bars(axes: "Axes", names: Mapping[int, str]) -> None:
    axes.set_yticks([*names], [*names.values()], fontsize=_SIZE, color=INK, parse_math=False)


def _draw_bars(axes: "Axes", shares: np.ndarray, most: float) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if len(shares) <= _NAMED_UP_TO:
        axes.barh(np.arange(len(shares)), shares, height=0.76, color=_BLUE)
    else:  # as one outline: single bars would be thinner than a pixel
        edges = np.arange(len(shares) + 1) - 0.5
        axes.stairs(shares, edges, orientation="horizontal", fill=True, color=_BLUE)
    axes.set_xlim(0, most)
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    axes.tick_params(colors=MUTED, labelsize=_SIZE, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))


def _write_counts(axes: "Axes", counts: Sequence[int], shares: np.ndarray, unit: str) -> None:
    for row, (count, share) in enumerate(zip(counts, shares, strict=True)):
        told = f"{share:.2%}" if unit == "pixels" else str(count)
        text = told if count else "none"
        axes.annotate(
            text,
            (share, row),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=MUTED if count else "#bf4b00",
        )


def draw_sizes(sizes: Mapping[str, np.ndarray], path: Path, *, title: str | None = None) -> None:
    """Draw width against height of all images, one panel per split.

    Args:
        sizes: ``(N, 2)`` width and height in pixels, by split.
        path: PNG file to write.
        title: Heading of the picture.

    Raises:
        ValueError: There is no image.
    """
    filled = {split: array for split, array in sizes.items() if len(array)}
    if not filled:
        raise ValueError("no sizes to draw; give those of at least one image")
    step = _SQUARE + _GAP + 34
    page = _page(title, _MARGIN + len(filled) * step + _MARGIN, _SQUARE + 78)
    most = 1.08 * max(int(array.max()) for array in filled.values())
    for column, (split, array) in enumerate(filled.items()):
        x = _MARGIN + 44 + column * step
        axes = page.figure.add_axes(area(page.figure, x, 44, _SQUARE, _SQUARE))
        distinct, counts = np.unique(array, axis=0, return_counts=True)
        _draw_points(axes, distinct, counts, most)
        told = f"{split}: {len(array)} images, {len(distinct)} size{'s' * (len(distinct) > 1)}"
        write(page.figure, x, page.top - 6, told, fontsize=10.5, color=INK)
        common = distinct[counts.argmax()]
        share = counts.max() / len(array)
        if share >= 0.01:
            told = f"{share:.0%} of them {common[0]} x {common[1]}"
            write(page.figure, x, page.top - 19, told, fontsize=_SIZE, color=MUTED)
    save(page.figure, path)


def _draw_points(axes: "Axes", sizes: np.ndarray, counts: np.ndarray, most: float) -> None:
    axes.plot([0, most], [0, most], color=FAINT, linewidth=1, zorder=1)
    axes.scatter(
        sizes[:, 0],
        sizes[:, 1],
        s=8 + 160 * counts / counts.sum(),  # an area for each size by its share
        color=_BLUE,
        alpha=0.45 if len(sizes) > 1 else 1,
        linewidths=0,
        zorder=2,
    )
    axes.set_xlim(0, most)
    axes.set_ylim(0, most)
    axes.set_xlabel("width, pixels", color=MUTED, fontsize=_SIZE)
    axes.set_ylabel("height, pixels", color=MUTED, fontsize=_SIZE)
    _tidy(axes)


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=_SIZE, length=3)


def draw_objects(
    box_sizes: Mapping[str, Sequence[float]],
    objects: Mapping[str, Sequence[int]],
    path: Path,
    *,
    title: str | None = None,
) -> None:
    """Draw how large objects are and how many there are in an image, one row per split.

    Args:
        box_sizes: Square root of the share of the image that each box takes, by split.
        objects: Objects in each image, by split.
        path: PNG file to write.
        title: Heading of the picture.

    Raises:
        ValueError: There is no image.
    """
    if not any(map(len, objects.values())):
        raise ValueError("no images to draw; give the objects of at least one")
    row_height = 150.0
    step = row_height + 66
    page = _page(title, 2 * _MARGIN + 2 * (_SQUARE + 50) + _GAP, len(objects) * step + 8)
    for row, split in enumerate(objects):
        y = page.top - row * step - row_height - 20
        for column, draw in enumerate((_draw_box_sizes, _draw_object_counts)):
            x = _MARGIN + 40 + column * (_SQUARE + 50 + _GAP)
            axes = page.figure.add_axes(area(page.figure, x, y, _SQUARE, row_height))
            values = (box_sizes.get(split, ()), objects[split])[column]
            told = draw(axes, np.asarray(values, dtype=float))
            write(page.figure, x, y + row_height + 16, f"{split}: {told}", fontsize=10, color=INK)
            _tidy(axes)
    save(page.figure, path)


def _draw_box_sizes(axes: "Axes", values: np.ndarray) -> str:
    from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

    edges = np.geomspace(0.005, 1, 41)
    axes.hist(values.clip(edges[0], 1), bins=edges.tolist(), color=_BLUE)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], 1)
    axes.xaxis.set_major_locator(FixedLocator([0.01, 0.03, 0.1, 0.3, 1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("side of a box, as a share of the image's", color=MUTED, fontsize=_SIZE)
    axes.set_ylabel("objects", color=MUTED, fontsize=_SIZE)
    middle = f", half of them under {np.median(values):.1%}" if len(values) else ""
    axes.set_ylim(bottom=0)
    return f"{len(values)} boxes{middle}"


def _draw_object_counts(axes: "Axes", values: np.ndarray) -> str:
    from matplotlib.ticker import MaxNLocator

    most = int(values.max(initial=1))
    width = math.ceil((most + 1) / 40)
    edges = [edge - 0.5 for edge in range(0, most + width + 1, width)]
    axes.hist(values, bins=edges, color=_BLUE, rwidth=0.9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set_xlabel("objects in an image", color=MUTED, fontsize=_SIZE)
    axes.set_ylabel("images", color=MUTED, fontsize=_SIZE)
    return f"{len(values)} images, {int((values == 0).sum())} without objects"
