"""A contact sheet of photos, each with what was predicted on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from wszoo.visualize.page import (
    FAINT,
    HEADING_LEADING,
    INK,
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
    from matplotlib.figure import Figure

_SIDE, _GAP, _MARGIN = 124.0, 14.0, 16.0  # points
_SIZE, _LEADING, _ABOVE_CAPTION = 9.5, 12.5, 5.0  # points
_RIGHT, _WRONG = "#00725a", "#bf4b00"  # bluish green and vermilion, dark enough for text
_COLOURS = {True: _RIGHT, False: _WRONG, None: INK}
_MARKS = {True: "✓ ", False: "✗ ", None: ""}


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
    _check(images, captions, correct, columns)
    columns = min(columns, len(images))
    figure = new_page()
    measure = text_width(figure, _SIZE)
    marked = [_MARKS[mark] + caption for caption, mark in zip(captions, correct, strict=True)]
    texts = [wrap(caption, _SIDE, measure) for caption in marked]
    rows = [range(len(images))[start : start + columns] for start in range(0, len(images), columns)]
    heights = [_row_height([texts[index] for index in row]) for row in rows]
    width = 2 * _MARGIN + columns * _SIDE + (columns - 1) * _GAP
    heading = heading_lines(figure, title, width - 2 * _MARGIN)
    head = _MARGIN + (HEADING_LEADING * len(heading) + 8 if heading else 0)
    top = sum(heights) + _MARGIN - _GAP
    resize(figure, width, head + top)
    write_heading(figure, heading, _MARGIN)
    for row, row_height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            left = _MARGIN + column * (_SIDE + _GAP)
            _draw_photo(figure, left, top, images[index], texts[index], _COLOURS[correct[index]])
        top -= row_height
    save(figure, path)


def _check(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    correct: Sequence[bool | None],
    columns: int,
) -> None:
    for what, count in (("captions", len(captions)), ("correct", len(correct))):
        if count != len(images):
            raise ValueError(
                f"{what} has {count} entries for {len(images)} images; give one for each"
            )
    if not images:
        raise ValueError("no images to draw; give at least one")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")


def _row_height(texts: Sequence[Sequence[str]]) -> float:
    return _SIDE + _ABOVE_CAPTION + _LEADING * max(map(len, texts)) + _GAP


def _draw_photo(
    figure: "Figure", left: float, top: float, image: Image.Image, text: Sequence[str], colour: str
) -> None:
    """Draw one photo and its caption; ``(left, top)`` is its upper left corner, in points."""
    axes = figure.add_axes(area(figure, left, top - _SIDE, _SIDE, _SIDE))
    axes.imshow(np.asarray(image.convert("RGB")), interpolation="bicubic")
    axes.set_anchor("SW")  # next to its caption
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=FAINT if colour == INK else colour, linewidth=1.5)
    for line, words in enumerate(text):
        y = top - _SIDE - _ABOVE_CAPTION - _LEADING * line
        write(figure, left, y, words, fontsize=_SIZE, color=colour)
