"""Masks of single objects as COCO writes them: polygons, or run lengths."""

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from wszoo.datasets.annotation_values import as_floats


@dataclass(frozen=True, kw_only=True)
class RunLengths:
    """A mask, column by column.

    Attributes:
        size: Height and width in pixels.
        counts: ``(n,)`` int64, lengths of the runs, outside and inside in turn.
    """

    size: tuple[int, int]
    counts: np.ndarray


Polygons = tuple[np.ndarray, ...]  # of each its x, y, x, y ... in pixels, float64
Segmentation = Polygons | RunLengths


def parse_segmentation(raw: Any) -> Segmentation | None:
    """The field ``segmentation`` of a COCO annotation; None where it says nothing.

    Raises:
        ValueError: It is no mask; the message says why.
    """
    if raw is None or raw in ([], {}, ""):
        return None
    if isinstance(raw, dict):
        return _parse_run_lengths(raw)
    if not isinstance(raw, list):
        raise ValueError(f"a segmentation is a list or run lengths, not {type(raw).__name__}")
    return tuple(_parse_polygon(polygon) for polygon in raw)


def _parse_polygon(values: Any) -> np.ndarray:
    if not isinstance(values, list):
        raise ValueError(f"a polygon is a list of numbers, not {values!r}")
    numbers = as_floats(values)
    if numbers is None:
        raise ValueError("a polygon with other things than numbers")
    if len(numbers) % 2:
        raise ValueError(f"a polygon of {len(numbers)} numbers, which are no x, y, x, y ...")
    if len(numbers) < 6:
        raise ValueError(f"a polygon of {len(numbers) // 2} points")
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a polygon with NaN or infinity")
    return np.array(numbers)


def _parse_run_lengths(raw: dict[str, Any]) -> RunLengths:
    size, counts = raw.get("size"), raw.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int for side in size):
        raise ValueError(f"run lengths of size {size!r}, which is no [height, width]")
    if isinstance(counts, str):
        counts = _decompress(counts)
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError("run lengths that are no list of integers")
    total = sum(counts)
    if min([*counts, *size], default=0) < 0 or total != size[0] * size[1]:
        raise ValueError(f"run lengths of {total} pixels in all, in a mask of {size[0] * size[1]}")
    return RunLengths(size=(size[0], size[1]), counts=np.array(counts, dtype=np.int64))


def _decompress(text: str) -> list[int]:
    """COCO's packing: five bits per character from ``0`` on, then a difference to the last but one.

    As in ``rleFrString`` of ``pycocotools/common/maskApi.c``.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"packed run lengths with {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more of this number follows
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("packed run lengths that end within a number")
    return counts


def decode_mask(segmentation: Segmentation, width: int, height: int) -> np.ndarray:
    """A mask ``(height, width)`` of bool, pixel for pixel as COCO's own tools make it.

    Raises:
        ImportError: Polygons need the package ``faster-coco-eval``.
    """
    if isinstance(segmentation, RunLengths):
        inside = np.arange(len(segmentation.counts)) % 2 == 1
        return np.repeat(inside, segmentation.counts).reshape(width, height).T
    tools = _coco_masks()
    parts = tools.frPyObjects([polygon.tolist() for polygon in segmentation], height, width)
    mask: np.ndarray = tools.decode(tools.merge(parts))
    return mask.astype(bool)


def _coco_masks() -> Any:
    try:
        return importlib.import_module("faster_coco_eval.core.mask")
    except ImportError as error:
        raise ImportError(
            "masks from polygons need the package faster-coco-eval; pip install 'wszoo[train]'"
        ) from error
