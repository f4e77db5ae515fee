"""Pictures and tables of a fine-tuned net on the photos it was judged by, in the run's report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from wszoo.finetune.results import (
    Classified,
    Detected,
    Segmented,
    find_objects,
    label_image,
)
from wszoo.training.rows import replace_file
from wszoo.visualize import draw_confusion, draw_predictions
from wszoo.visualize.boxes import draw_boxes
from wszoo.visualize.masks import draw_masks
from wszoo.visualize.precision_recall import draw_precision_recall

EXAMPLES, CONFUSION, CURVES = "examples.png", "confusion.png", "precision_recall.png"
_RECALL = np.linspace(0, 1, 101)  # COCO's steps
_CLASSIFIED_EACH, _DRAWN_EACH = 6, 2  # photos: of the best, of the median and of the worst ones
_BEFORE = "\n## Plan\n"  # heading of ``wszoo.training.report`` that the pictures stand before


def ranked(scores: Mapping[int, float], each: int) -> dict[int, str]:
    """The best, the median and the worst photos.

    Args:
        scores: By number of the photo, larger is better.
        each: How many of each kind, if there are as many.

    Returns:
        Number of the photo to what it is: ``"best"``, ``"median"`` or ``"worst"``.
    """
    order = sorted(scores, key=lambda index: -scores[index])
    each = max(1, min(each, len(order) // 3))
    middle = (len(order) - each) // 2
    parts = (
        ("best", order[:each]),
        ("median", order[middle : middle + each]),
        ("worst", order[max(0, len(order) - each) :]),
    )
    chosen: dict[int, str] = {}
    for kind, indices in parts:
        for index in indices:
            chosen.setdefault(index, kind)
    return chosen


def draw_classified(found: Classified, folder: Path, title: str) -> str:
    """Draw the answers of a classifier, and describe them.

    Returns:
        Markdown with the pictures, which lie in ``folder``, and the figures of each class.
    """
    images, classes = found.images, found.images.classes
    answers = found.probabilities.argmax(1).tolist()
    scores = found.scores()
    chosen = ranked(scores, _CLASSIFIED_EACH)
    captions = [
        f"{classes[answers[index]]} {found.probabilities[index, answers[index]]:.0%}\n"
        f"truth: {classes[images.targets[index]]}\n({kind})"
        for index, kind in chosen.items()
    ]
    draw_predictions(
        [images.image(index) for index in chosen],
        captions,
        [answers[index] == images.targets[index] for index in chosen],
        folder / EXAMPLES,
        title=f"{title}: best, median and worst photos",
    )
    draw_confusion(found.confusion.numpy(), list(classes), folder / CONFUSION, title=title)
    right, wanted, given = (
        found.confusion.diagonal(),
        found.confusion.sum(1),
        found.confusion.sum(0),
    )
    rows = [
        (name, f"{wanted[row]:,}", _share(right[row], wanted[row]), _share(right[row], given[row]))
        for row, name in enumerate(classes)
    ]
    return _sections(
        "Photos are ranked by the probability that was given to their true class.",
        {"best, median and worst photos": EXAMPLES, "true class by answer": CONFUSION},
        table(("class", "photos", "recognised, %", "right where named, %"), rows),
    )


def draw_detected(
    found: Detected, model: nn.Module, min_score: float, folder: Path, title: str
) -> str:
    """Draw the answers of a detector, and describe them; see ``draw_classified``."""
    images, metrics, curves = found.images, found.metrics, found.curves()
    scores = found.scores(min_score)
    chosen = ranked(scores, _DRAWN_EACH)
    photos = [images.image(index) for index in chosen]
    answers = [find_objects(model, photo) for photo in photos]  # once more, for their masks
    truth = replace(images, has_masks=all("masks" in answer for answer in answers))
    draw_boxes(
        photos,
        [truth.target(index) for index in chosen],
        answers,
        list(images.classes),
        folder / EXAMPLES,
        captions=[
            f"{kind}: F1 {100 * scores[index]:.0f} %, {Path(images.names[index]).name}"
            for index, kind in chosen.items()
        ],
        title=f"{title}: best, median and worst photos",
        min_score=min_score,
    )
    pictures = {"best, median and worst photos": EXAMPLES}
    if curves:
        lines = {name: curve.precision_at(_RECALL) for name, curve in curves.items()}
        draw_precision_recall(_RECALL, lines, folder / CURVES, title=f"{title}, at an IoU of 0.5")
        pictures["precision and recall at an IoU of 0.5"] = CURVES
    ap50 = {name: curve.average_precision for name, curve in curves.items()}
    rows = [
        (
            name,
            f"{_objects(found, label):,}",
            _figure(metrics.get(f"box_ap/{name}")),
            _figure(100 * ap50[name] if name in ap50 else None),
            _figure(curves[name].best_score if ap50.get(name) else None, 2),
        )
        for label, name in enumerate(images.classes, 1)
    ]
    return _sections(
        f"Photos are ranked by F1 of the boxes scored {min_score:.2f} or more, which is the mean "
        f"over the classes found of the score with the best F1.",
        pictures,
        table(("class", "objects", "AP", "AP50", "score of the best F1"), rows),
    )


def _objects(found: Detected, label: int) -> int:
    return sum(
        int(((wanted["labels"] == label) & (wanted["iscrowd"] == 0)).sum())
        for _, wanted in found.pairs
    )


def draw_segmented(
    found: Segmented, model: nn.Module, max_size: int, folder: Path, title: str
) -> str:
    """Draw the answers of a segmenter, and describe them; see ``draw_classified``."""
    images, metrics, scores = found.images, found.metrics, found.scores()
    chosen = ranked(scores, _DRAWN_EACH)
    photos = [images.image(index) for index in chosen]
    draw_masks(
        photos,
        [images.mask(index) for index in chosen],
        [label_image(model, photo, max_size).numpy() for photo in photos],
        list(images.classes),
        folder / EXAMPLES,
        captions=[
            f"{kind}: mean IoU {scores[index]:.0f} %, {Path(images.names[index]).name}"
            for index, kind in chosen.items()
        ],
        title=f"{title}: best, median and worst photos",
    )
    confusion = found.confusion
    unit, many = _unit(int(confusion.max()))
    draw_confusion(
        (confusion.double() / unit).round().long().numpy(),
        list(images.classes),
        folder / CONFUSION,
        title=f"{title}, in {many}",
    )
    wanted = confusion.sum(1)
    rows = [
        (
            name,
            _share(wanted[row], wanted.sum()),
            _figure(metrics.get(f"iou/{name}")),
            _figure(metrics.get(f"dice/{name}")),
        )
        for row, name in enumerate(images.classes)
    ]
    return _sections(
        "Photos are ranked by their mean IoU over the classes in them.",
        {"best, median and worst photos": EXAMPLES, "true class by answer": CONFUSION},
        table(("class", "share of pixels, %", "IoU, %", "Dice, %"), rows),
    )


def _unit(largest: int) -> tuple[int, str]:
    """In which a count of pixels has at most four digits, and what it is called."""
    names = ((1, "pixels"), (10**3, "thousands of pixels"), (10**6, "millions of pixels"))
    return next(((unit, name) for unit, name in names if largest < 10_000 * unit), names[-1])


def _share(part: Tensor, whole: Tensor) -> str:
    return _figure(100 * float(part) / float(whole) if whole else None)


def _figure(value: float | None, decimals: int = 1) -> str:
    return "n/a" if value is None else f"{value:.{decimals}f}"


def _sections(note: str, pictures: Mapping[str, str], classes: str) -> str:
    shown = "\n\n".join(f"![{what}]({name})" for what, name in pictures.items())
    return f"{note}\n\n{shown}\n\n{classes}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first hold numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def add_to_report(report: Path, heading: str, text: str) -> None:
    """Put a section into the report of a run, between its curves and its plan.

    Raises:
        ValueError: It is no such report.
    """
    before = report.read_text(encoding="utf-8")
    if before.count(_BEFORE) != 1:
        raise ValueError(f"{report} is not the report of a run; repeat the run's command")
    after = before.replace(_BEFORE, f"\n## {heading}\n\n{text}\n{_BEFORE}")
    replace_file(report, after.encode(errors="backslashreplace"))
