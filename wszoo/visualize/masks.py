"""Label masks on photos, predicted ones alone or beside true ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from wszoo.visualize.page import save
from wszoo.visualize.pairs import lay_out, require_one_each, show
from wszoo.visualize.palette import class_colour, hex_code, ink_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 236.0  # points, of a photo
_OPACITY = 0.6  # of the colours
_SMALLEST = 0.015  # share of the photo that a region needs to get a number


def overlay_mask(image: Image.Image, mask: np.ndarray, *, ignore_index: int = 255) -> np.ndarray:
    """A photo under the colours of its labels, and dark lines between them.

    Args:
        image: Any photo.
        mask: ``(H, W)`` labels of the photo's size.
        ignore_index: Label of pixels without class; they are black.

    Returns:
        ``(H, W, 3)`` bytes.

    Raises:
        ValueError: The mask has another size than the photo.
    """
    _require_size(image, mask)
    # Grey below, so that the photo's own colours are not mistaken for those of classes.
    photo = np.asarray(image.convert("L"), dtype=np.float32)[..., None].repeat(3, axis=2)
    colours = np.zeros_like(photo)
    for label in np.unique(mask):
        if label != ignore_index:
            colours[mask == label] = class_colour(int(label))
    mixed = (1 - _OPACITY) * photo + _OPACITY * colours
    mixed[mask == ignore_index] = 0
    mixed[label_borders(mask)] *= 0.35
    return mixed.round().astype(np.uint8)


def _require_size(image: Image.Image, mask: np.ndarray) -> None:
    wanted = image.size[::-1]
    if mask.shape != wanted:
        raise ValueError(f"mask has shape {mask.shape}, its photo wants {wanted}")


def label_borders(mask: np.ndarray) -> np.ndarray:
    """Where the right or lower neighbour of a pixel has another label, ``(H, W)`` of bools."""
    borders = np.zeros(mask.shape, dtype=bool)
    borders[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    borders[:-1] |= mask[:-1] != mask[1:]
    return borders


def draw_masks(
    images: Sequence[Image.Image],
    truths: Sequence[np.ndarray] | None,
    predictions: Sequence[np.ndarray],
    classes: Sequence[str],
    path: Path,
    *,
    captions: Sequence[str] | None = None,
    title: str | None = None,
    ignore_index: int = 255,
) -> None:
    """Draw each photo, its true labels where they are known, and the predicted ones side by side.

    Args:
        images: Photos of any size.
        truths: ``(H, W)`` labels of each photo, or ``ignore_index``; None: nobody knows them.
        predictions: ``(H, W)`` labels of each photo.
        classes: Name of each label. Those that occur are explained below, by colour and number.
        path: PNG file to write.
        captions: What to say above each photo, such as its score.
        title: Heading of the picture.
        ignore_index: Label of pixels that are not scored; they are black.

    Raises:
        ValueError: Numbers or sizes do not agree, or a label has no name.
    """
    captions = captions if captions is not None else [""] * len(images)
    given = {} if truths is None else {"truths": truths}
    require_one_each(images, **given, predictions=predictions, captions=captions)
    columns = [[np.asarray(m) for m in each] for each in (*given.values(), predictions)]
    masks = [mask for column in columns for mask in column]
    for column in columns:
        for image, mask in zip(images, column, strict=True):
            _require_size(image, mask)
    present = sorted({int(label) for mask in masks for label in np.unique(mask)} - {ignore_index})
    unnamed = [label for label in present if not 0 <= label < len(classes)]
    if unnamed:
        raise ValueError(
            f"a mask holds label {unnamed[0]}, but there are {len(classes)} classes, "
            f"0..{len(classes) - 1}"
        )
    has_void = any((mask == ignore_index).any() for mask in masks)
    page = lay_out(
        [image.size for image in images],
        ("photo", *(["truth"] if given else []), "prediction"),
        captions,
        [(label, classes[label]) for label in present],
        width=_WIDTH,
        title=title,
        note="black: not labelled, not scored" if has_void else None,
    )
    for axes, image, *shown in zip(page.axes, images, *columns, strict=True):
        show(axes[0], np.asarray(image.convert("RGB")))
        # What is predicted where nothing is labelled would look like mistakes.
        shown[-1] = np.where(shown[0] == ignore_index, ignore_index, shown[-1])
        for panel, mask in zip(axes[1:], shown, strict=True):
            show(panel, overlay_mask(image, mask, ignore_index=ignore_index))
            _number_regions(panel, mask, present)
    save(page.figure, path)


def _number_regions(axes: "Axes", mask: np.ndarray, labels: Sequence[int]) -> None:
    """Write the number of each class where most of it is."""
    side = min(max(3, min(mask.shape) // 12), *mask.shape)
    for label in labels:
        region = mask == label
        if region.mean() < _SMALLEST:
            continue
        y, x = _densest(region, side)
        colour = class_colour(label)
        box = {"boxstyle": "round,pad=0.15", "facecolor": hex_code(colour), "linewidth": 0}
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5, "bbox": box}
        axes.text(x, y, str(label), color=ink_on(colour), **style)


def _densest(region: np.ndarray, side: int) -> tuple[float, float]:
    """Centre (y, x) of the square of ``side`` pixels with most of the region in it."""
    sums = np.pad(region.astype(np.int64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    # Of many squares that are filled alike, one in the middle of them.
    rows, columns = np.nonzero(inside == inside.max())
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return float(rows[middle]) + side / 2, float(columns[middle]) + side / 2
