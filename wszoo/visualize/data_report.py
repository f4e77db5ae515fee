"""All pictures of one check of a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from wszoo.datasets.classification import open_image
from wszoo.datasets.findings import Finding
from wszoo.datasets.listing import ListedFile, read_named
from wszoo.datasets.masks import IGNORED, open_mask
from wszoo.datasets.segmentation_layouts import Pair, list_segmentation
from wszoo.visualize.datasets import draw_class_counts, draw_objects, draw_sizes
from wszoo.visualize.palette import class_colour
from wszoo.visualize.predictions import draw_predictions

if TYPE_CHECKING:
    from wszoo.datasets.check import Report

Box = tuple[float, float, float, float]

_SHEET, _PER_FINDING = 24, 6  # images on the sheet of faults: in all, and of one kind
_TILE = 372  # pixels: side of an image on that sheet
_PALE, _RED = "#eceef0", "#bf4b00"


def draw_report(report: "Report", folder: Path) -> list[Path]:
    """Draw classes, image sizes, objects and the first images with faults.

    Args:
        report: Of ``check_data``.
        folder: Where to; it is made if need be.

    Returns:
        The PNG files: ``classes.png``, ``sizes.png``, for detection ``objects.png``, and where
        images have faults ``faults.png``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    splits, unit, name = report.survey.splits, report.survey.unit, Path(report.path).name
    if report.survey.classes:
        drawn.append(folder / "classes.png")
        counts = {split.split: split.per_class for split in splits}
        draw_class_counts(counts, drawn[-1], unit=unit, title=f"{name}: {unit} of each class")
    sizes = {split.split: split.sizes for split in splits}
    if any(map(len, sizes.values())):
        drawn.append(folder / "sizes.png")
        draw_sizes(sizes, drawn[-1], title=f"{name}: sizes of images")
    if unit == "objects" and any(split.images for split in splits):
        drawn.append(folder / "objects.png")
        boxes = {split.split: split.box_sizes for split in splits}
        objects = {split.split: split.objects for split in splits}
        draw_objects(boxes, objects, drawn[-1], title=f"{name}: objects")
    if faults := _first_faults(report):
        drawn.append(folder / "faults.png")
        _draw_faults(report, faults, drawn[-1])
    return drawn


def _first_faults(report: "Report") -> list[tuple[Finding, str]]:
    """Some images of each finding, until the sheet is full."""
    return [
        (finding, name)
        for finding in report.findings
        if finding.level != "note"
        for name in finding.images[:_PER_FINDING]
    ][:_SHEET]


def _draw_faults(report: "Report", faults: list[tuple[Finding, str]], path: Path) -> None:
    """Draw a contact sheet: the photo, with its mask or its boxes."""
    contents = read_named({name for _, name in faults})
    pairs = _pairs(report) if report.task == "segment" else {}
    boxes = _boxes(report) if report.task == "detect" else {}
    tiles = []
    for _, name in faults:
        pair = pairs.get(name)
        is_photo = pair is None or pair.image is not None
        tile = _photo(contents.get(name) if is_photo else None, name)
        _draw_boxes(tile, boxes.get(name, ()))
        tile.thumbnail((_TILE, _TILE))
        if pair is not None and pair.mask is not None:
            tile = _beside(tile, _mask(pair.mask, tile.size))
        tiles.append(tile)
    captions = [f"{finding.code}\n{name.rpartition('/')[2]}" for finding, name in faults]
    title = f"{Path(report.path).name}: first faults"
    draw_predictions(tiles, captions, [None] * len(tiles), path, title=title)


def _photo(content: bytes | None, name: str) -> Image.Image:
    """The photo; a grey field with a cross where there is none to see."""
    if content is not None:
        try:
            return open_image(content, name)
        except ValueError:
            pass  # the caption says so
    tile = Image.new("RGB", (_TILE, _TILE), _PALE)
    ends = ((0, 0, _TILE, _TILE), (0, _TILE, _TILE, 0))
    for end in ends:
        ImageDraw.Draw(tile).line(end, "#c4c7cb", width=3)
    return tile


def _boxes(report: "Report") -> dict[str, list[Box]]:
    """By image, its boxes in pixels."""
    from wszoo.datasets.detection import read_annotations

    found, _ = read_annotations(Path(report.path), None, all_splits=True)
    return {image.name: [one.box for one in image.annotations] for image in found.images}


def _draw_boxes(tile: Image.Image, boxes: Sequence[Box]) -> None:
    width = max(2, max(tile.size) // 150)
    for box in boxes:
        if not np.isfinite(box).all():
            continue
        x, y = sorted((box[0], box[2])), sorted((box[1], box[3]))
        # A box without area would not be seen.
        edges = (x[0] - width, y[0] - width, x[1] + width, y[1] + width)
        ImageDraw.Draw(tile).rectangle(edges, outline=_RED, width=width)


def _pairs(report: "Report") -> dict[str, Pair]:
    """By image, or by mask where that is alone."""
    return {pair.names[0]: pair for pair in list_segmentation(report.path).pairs}


def _mask(file: ListedFile, size: tuple[int, int]) -> Image.Image:
    """A mask of at most ``size`` with a colour for each value, and black for 255."""
    try:
        labels = open_mask(file.source, file.name)
        colours = np.array([*map(class_colour, range(IGNORED)), (0, 0, 0)], dtype=np.uint8)
        picture = Image.fromarray(colours[labels])
    except ValueError:  # of several channels, or broken
        picture = _photo(file.read(), file.name)
    picture.thumbnail(size, Image.Resampling.NEAREST)
    return picture


def _beside(photo: Image.Image, mask: Image.Image) -> Image.Image:
    """Both in one picture: the mask below the photo, or right of an upright one."""
    gap = 6
    below = photo.width >= photo.height
    corner = (0, photo.height + gap) if below else (photo.width + gap, 0)
    size = (max(photo.width, corner[0] + mask.width), max(photo.height, corner[1] + mask.height))
    both = Image.new("RGB", size, "white")
    both.paste(photo, (0, 0))
    both.paste(mask, corner)
    return both
