"""Boxes and instance masks on photos, predicted ones alone or beside true ones."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from wszoo.visualize.masks import label_borders
from wszoo.visualize.page import page_size, save, text_width
from wszoo.visualize.pairs import lay_out, require_one_each, show
from wszoo.visualize.palette import class_colour, hex_code, ink_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 356.0  # points, of a photo
_SIZE = 6.5  # points, of labels
_OPACITY = 0.45  # of instance masks
_IOU = 0.5  # from which on a prediction counts as right
_NOTE = "dashed: no counterpart of its class with an IoU of 0.5; found too much, or missed"
_Extent = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class _Drawn(NamedTuple):
    """The objects of one photo as arrays, best scores first."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None
    masks: np.ndarray | None


def draw_boxes(
    images: Sequence[Image.Image],
    truths: Sequence[Mapping[str, Any]] | None,
    predictions: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    path: Path,
    *,
    captions: Sequence[str] | None = None,
    title: str | None = None,
    min_score: float = 0.5,
) -> None:
    """Draw the objects that are in each photo, where they are known, beside those found in it.

    Args:
        images: Photos of any size.
        truths: Per photo ``boxes`` ``(n, 4)`` as x1, y1, x2, y2 in pixels, ``labels`` ``(n,)``
            from 1, and if there are any, ``masks`` ``(n, H, W)``: torchvision's targets, as
            arrays or as tensors on the CPU. None: nobody knows them.
        predictions: The same with ``scores`` ``(n,)``, and masks as true or in 0..1.
        classes: Names without a background: label k is ``classes[k - 1]``.
        path: PNG file to write.
        captions: What to say above each photo, such as its score.
        title: Heading of the picture.
        min_score: Predictions below are not drawn, which the heading of their column says.

    Raises:
        ValueError: Numbers or shapes do not agree, or a label has no name.
    """
    captions = captions if captions is not None else [""] * len(images)
    given = {} if truths is None else {"truths": truths}
    require_one_each(images, **given, predictions=predictions, captions=captions)
    found = [
        _read(prediction, image, classes, min_score)
        for prediction, image in zip(predictions, images, strict=True)
    ]
    columns = [found]
    heads = [f"prediction, scores of {100 * min_score:.0f} % and more"]
    if truths is not None:
        true = [_read(truth, image, classes) for truth, image in zip(truths, images, strict=True)]
        columns, heads = [true, found], ["truth", *heads]
    present = sorted({int(label) for each in columns for drawn in each for label in drawn.labels})
    page = lay_out(
        [image.size for image in images],
        heads,
        captions,
        [(label, classes[label - 1]) for label in present],
        width=_WIDTH,
        title=title,
        note=None if truths is None else _NOTE,
    )
    measure = text_width(page.figure, _SIZE)
    for axes, image, *shown in zip(page.axes, images, *columns, strict=True):
        points = axes[0].get_position().width * page_size(page.figure)[0]
        in_pixels = _scaled(measure, image.width / points)
        for panel, drawn, matched in zip(axes, shown, _matched(shown), strict=True):
            show(panel, _under_masks(image, drawn))
            _draw_objects(panel, drawn, matched, classes, image.size, in_pixels)
    save(page.figure, path)


def _matched(shown: Sequence[_Drawn]) -> Sequence[np.ndarray]:
    """Which objects are outlined as right: all where there is nothing to hold them against."""
    if len(shown) == 1:
        return (np.ones(len(shown[0].labels), dtype=bool),)
    true, found = shown
    return match((true.boxes, true.labels), (found.boxes, found.labels))


def _scaled(measure: Callable[[str], float], factor: float) -> Callable[[str], float]:
    return lambda text: measure(text) * factor


def _read(
    entry: Mapping[str, Any],
    image: Image.Image,
    classes: Sequence[str],
    min_score: float | None = None,
) -> _Drawn:
    boxes = np.asarray(entry["boxes"], dtype=np.float64).reshape(-1, 4)
    labels = np.asarray(entry["labels"], dtype=np.int64)
    scores = None if min_score is None else np.asarray(entry["scores"], dtype=np.float64)
    masks = np.asarray(entry["masks"]) if "masks" in entry else None
    if masks is not None:
        masks = masks.reshape(-1, *masks.shape[-2:]) >= 0.5  # torchvision's are (n, 1, H, W)
        if masks.shape != (len(boxes), *image.size[::-1]):
            wanted = (len(boxes), *image.size[::-1])
            raise ValueError(f"masks have shape {masks.shape}, their photo wants {wanted}")
    if len(labels) != len(boxes) or (scores is not None and len(scores) != len(boxes)):
        raise ValueError(f"{len(boxes)} boxes come with {len(labels)} labels or other scores")
    unnamed = [int(label) for label in labels if not 1 <= label <= len(classes)]
    if unnamed:
        raise ValueError(
            f"an object has label {unnamed[0]}, but there are {len(classes)} classes, "
            f"1..{len(classes)}"
        )
    kept = np.arange(len(boxes))
    if scores is not None and min_score is not None:
        kept = np.argsort(-scores, kind="stable")
        kept = kept[scores[kept] >= min_score]
        scores = scores[kept]
    return _Drawn(boxes[kept], labels[kept], scores, None if masks is None else masks[kept])


def match(
    truth: tuple[np.ndarray, np.ndarray], found: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Which true and which found objects have a counterpart, each at most one.

    The best found object chooses first, as in COCO's evaluation.

    Args:
        truth, found: Boxes ``(n, 4)`` and labels ``(n,)``; found ones with the best score first.

    Returns:
        Two arrays of bools.
    """
    overlaps = _iou(found[0], truth[0]) * (found[1][:, None] == truth[1])
    of_truth, of_found = (np.zeros(len(labels), dtype=bool) for labels in (truth[1], found[1]))
    if not len(of_truth):
        return of_truth, of_found
    for index, row in enumerate(overlaps):
        free = np.where(of_truth, 0.0, row)
        best = int(free.argmax())
        if free[best] >= _IOU:
            of_truth[best] = of_found[index] = True
    return of_truth, of_found


def _iou(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    low = np.maximum(ones[:, None, :2], others[None, :, :2])
    high = np.minimum(ones[:, None, 2:], others[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (ones, others)]
    union = areas[0][:, None] + areas[1] - common
    return common / np.where(union > 0, union, 1)


def _under_masks(image: Image.Image, drawn: _Drawn) -> np.ndarray:
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32).copy()
    if drawn.masks is not None:
        for mask, label in reversed(list(zip(drawn.masks, drawn.labels, strict=True))):
            colour = np.array(class_colour(int(label)), dtype=np.float32)
            pixels[mask] = (1 - _OPACITY) * pixels[mask] + _OPACITY * colour
            pixels[label_borders(mask)] = 0.5 * colour
    return pixels.round().astype(np.uint8)


def _draw_objects(
    axes: "Axes",
    drawn: _Drawn,
    matched: np.ndarray,
    classes: Sequence[str],
    size: tuple[int, int],
    measure: Callable[[str], float],
) -> None:
    """Outline the objects and name them; ``measure`` gives the width of a text in pixels."""
    from matplotlib.patches import Rectangle

    line_height = 1.45 * measure("M")  # wider than high, as capitals are, with some air
    taken: list[_Extent] = []
    for index, (box, label) in enumerate(zip(drawn.boxes, drawn.labels, strict=True)):
        x1, y1, x2, y2 = box
        colour = class_colour(int(label))
        style: Any = "-" if matched[index] else (0, (3, 2))
        for edge, width in (("#000000", 2.2), (hex_code(colour), 1.4)):  # seen on any background
            outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge)
            outline.set(linestyle=style, linewidth=width)
            axes.add_patch(outline)
        text = classes[label - 1]
        if drawn.scores is not None:
            text += f" {100 * drawn.scores[index]:.0f} %"
        extent = (measure(text), line_height)
        left, top = _place(box, extent, size, taken)
        taken.append((left, top, left + extent[0], top + extent[1]))
        pad = {"boxstyle": "square,pad=0.12", "facecolor": hex_code(colour), "linewidth": 0}
        look: dict[str, Any] = {"fontsize": _SIZE, "parse_math": False, "bbox": pad}
        axes.text(left, top, text, color=ink_on(colour), ha="left", va="top", clip_on=True, **look)


def _place(
    box: np.ndarray,
    extent: tuple[float, float],
    size: tuple[int, int],
    taken: Sequence[_Extent],
) -> tuple[float, float]:
    """Upper left corner of a label at its box, where it hides least of other labels."""
    (x1, y1, x2, y2), (width, height) = box, extent
    edge = 0.15 * height  # what a label is padded by
    corners = [
        (x1, y1 - height),  # above, inside at the top, inside at the bottom, below
        (x2 - width, y1 - height),
        (x1, y1),
        (x1, y2 - height),
        (x1, y2),
        (x2 - width, y2),
    ]
    inside = [
        (
            min(max(left, edge), max(size[0] - width - edge, edge)),
            min(max(top, edge), max(size[1] - height - edge, edge)),
        )
        for left, top in corners
    ]

    def hidden(corner: tuple[float, float]) -> float:
        left, top = corner
        return sum(
            max(0.0, min(left + width, right) - max(left, other_left))
            * max(0.0, min(top + height, below) - max(top, other_top))
            for other_left, other_top, right, below in taken
        )

    return min(inside, key=hidden)
