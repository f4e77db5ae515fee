"""What can be wrong with a detection set, and the way out of each."""

from collections.abc import Iterable
from typing import NamedTuple

from wszoo.datasets.findings import SHOWN, Finding, Level


class Problem(NamedTuple):
    """One defect at one place.

    Attributes:
        code: A key of ``KINDS``.
        where: The file, and what is wrong there, with the value.
        image: Name of the photo that it concerns, if it is one.
    """

    code: str
    where: str
    image: str | None = None


class Kind(NamedTuple):
    """One kind of defect, as in ``Finding``."""

    level: Level
    message: str
    fix: str


_LEAVE_OUT = "mend it, or leave the image out with --quarantine"

KINDS = {
    # The files
    "archive-damaged": Kind("error", "archive that cannot be read", "fetch it again"),
    "file-unreadable": Kind(
        "error", "annotation file that cannot be read", "mend it at the place named"
    ),
    "file-ambiguous": Kind(
        "error", "split with several annotation files", "keep one, and move the others away"
    ),
    "file-unused": Kind(
        "note", "annotation file of no split, not read", "name the split in its file name"
    ),
    "entry-malformed": Kind("error", "entry that lacks something", "complete or remove it"),
    # Images
    "images-none": Kind("error", "split without images", "fill it, or remove its list"),
    "image-missing": Kind(
        "error", "missing image", "bring it back, or leave it out with --quarantine"
    ),
    "image-ambiguous": Kind(
        "error", "image found at several places", "write its folder into file_name"
    ),
    "image-id-repeated": Kind("error", "image id given twice", "give each image its own id"),
    "image-repeated": Kind(
        "error", "image listed twice in one split", "join its objects under one entry"
    ),
    "image-relisted": Kind("warning", "image listed twice, read once", "remove the second line"),
    "image-unlabelled": Kind(
        "warning", "image without annotation file, left out", "write one without objects if so"
    ),
    "image-unlisted": Kind(
        "note", "image that no annotation file lists, left out", "list it, or remove it"
    ),
    "image-empty-file": Kind(
        "error", "image file of zero bytes", "bring it back, or leave it out with --quarantine"
    ),
    "image-broken": Kind(
        "error", "image that cannot be decoded", "replace it, or leave it out with --quarantine"
    ),
    "image-bomb": Kind(
        "error",
        "image of implausibly many pixels",
        "make it smaller, or leave it out with --quarantine",
    ),
    "image-size": Kind(
        "error",
        "image of another size than its annotations say",
        "see which of the two is right, or leave it out with --quarantine",
    ),
    "image-sideways": Kind(
        "error",
        "image annotated as it is stored, which its orientation tag turns",
        "turn its boxes, or turn the pixels and remove the tag",
    ),
    "image-turned": Kind(
        "warning",
        "image whose orientation tag keeps its size",
        "make sure that the boxes fit the upright image",
    ),
    # Objects
    "category-repeated": Kind(
        "error", "category given twice", "give each category its own id and name"
    ),
    "classes-differ": Kind(
        "error", "split with other classes than the first", "give all splits the same categories"
    ),
    "class-spelling": Kind(
        "warning", "class names that differ by capitals or spaces only", "make them one class"
    ),
    "ids-gaps": Kind("note", "gap in category ids", "none needed: labels count from 1 in order"),
    "ids-strings": Kind("note", "ids that are strings", "none needed: they are kept as they are"),
    "annotation-id-repeated": Kind(
        "warning", "annotation id given twice", "see whether the object is there twice"
    ),
    "annotation-orphan": Kind(
        "error", "annotation of an image that is not listed", "list this image, or remove it"
    ),
    "annotation-missing": Kind("error", "listed image without annotation file", _LEAVE_OUT),
    "label-unknown": Kind("error", "label that is no class of the set", _LEAVE_OUT),
    "box-malformed": Kind("error", "box that is not four numbers", _LEAVE_OUT),
    "box-nan": Kind("error", "box that is NaN or infinite", _LEAVE_OUT),
    "box-relative": Kind(
        "error", "box that counts in image sizes, not in pixels", "multiply by width and height"
    ),
    "box-order": Kind(
        "error",
        "box in a set that mixes up corners and sizes",
        "write COCO boxes as x, y, width, height, others as x1, y1, x2, y2",
    ),
    "box-inverted": Kind("error", "box whose right is left of its left", _LEAVE_OUT),
    "box-empty": Kind("error", "box without area", _LEAVE_OUT),
    "box-outside": Kind("error", "box wholly outside its image", _LEAVE_OUT),
    "box-clipped": Kind("warning", "box partly outside its image", "none needed: it is clipped"),
    "box-tiny": Kind(
        "warning", "box of at most one pixel in width or height", "see if it is meant"
    ),
    "objects-many": Kind(
        "warning", "image with more than 1000 objects", "cut it into tiles, or memory runs out"
    ),
    # Masks
    "polygon-malformed": Kind("error", "polygon that encloses nothing", _LEAVE_OUT),
    "rle-malformed": Kind("error", "run lengths that are no mask", _LEAVE_OUT),
    "mask-size": Kind("error", "mask of another size than its image", _LEAVE_OUT),
    "mask-missing": Kind(
        "warning", "object without mask among others with one", "add it, or train on boxes alone"
    ),
    # The whole
    "objects-none": Kind("warning", "split without any object", "annotate some, or go without it"),
    "image-background": Kind("note", "image without objects, kept", "none needed"),
    "class-absent": Kind("warning", "class without objects", "add some, or remove the class"),
    "class-untrained": Kind(
        "warning", "class with objects in other splits but none in train", "move some to train"
    ),
    "split-overlap": Kind(
        "warning", "image listed in two splits", "keep it in one, or the metrics flatter"
    ),
    "split-identical": Kind(
        "warning", "image of the same bytes in two splits", "keep one, or the metrics flatter"
    ),
}
_LEVELS: tuple[Level, ...] = ("error", "warning", "note")


def to_findings(problems: Iterable[Problem]) -> list[Finding]:
    """One finding per kind, errors first; its examples are of as many files as possible."""
    grouped: dict[str, list[Problem]] = {}
    for problem in problems:
        grouped.setdefault(problem.code, []).append(problem)
    findings = [_finding(code, of_kind) for code, of_kind in grouped.items()]
    return sorted(findings, key=lambda finding: _LEVELS.index(finding.level))


def _finding(code: str, problems: list[Problem]) -> Finding:
    kind = KINDS[code]
    first: dict[str, str] = {}  # of each image
    for problem in problems:
        first.setdefault(problem.image or problem.where, problem.where)
    return Finding(
        code=code,
        level=kind.level,
        message=kind.message,
        fix=kind.fix,
        count=len(problems),
        examples=tuple(first.values())[:SHOWN],
        images=tuple(dict.fromkeys(problem.image for problem in problems if problem.image)),
    )
