import numpy as np
import pytest
import torch
from torch import Tensor

from wszoo.finetune.box_metrics import (
    Curve,
    Item,
    average_precision,
    match,
    pack_masks,
    photo_scores,
    precision_recall,
    unpack_masks,
)

CLASSES = ("red", "blue", "green")
BOXES = [[10.0, 10.0, 30.0, 30.0], [40.0, 40.0, 60.0, 60.0], [70.0, 10.0, 90.0, 30.0]]


def found(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> Item:
    return {
        "boxes": torch.tensor(boxes).float().reshape(-1, 4),
        "scores": torch.tensor(scores).float(),
        "labels": torch.tensor(labels or [1] * len(boxes), dtype=torch.long),
    }


def wanted(
    boxes: list[list[float]], labels: list[int] | None = None, crowd: tuple[int, ...] = ()
) -> Item:
    corners = torch.tensor(boxes).float().reshape(-1, 4)
    return {
        "boxes": corners,
        "labels": torch.tensor(labels or [1] * len(boxes), dtype=torch.long),
        "iscrowd": torch.tensor([int(place in crowd) for place in range(len(boxes))]).long(),
        "area": (corners[:, 2:] - corners[:, :2]).prod(1),
    }


def test_a_box_finds_the_object_that_it_overlaps_by_half() -> None:
    shifted = [10.0, 10, 30, 50]  # an IoU of exactly 0.5

    assert match(found([shifted], [0.9]), wanted(BOXES)) == [True]
    assert match(found([[10.0, 10, 30, 51]], [0.9]), wanted(BOXES)) == [False]
    assert match(found([shifted], [0.9]), wanted(BOXES), iou=0.6) == [False]


def test_the_surest_box_chooses_first_and_an_object_is_found_once() -> None:
    close = [11.0, 10, 31, 30]

    assert match(found([close, BOXES[0]], [0.5, 0.9]), wanted(BOXES)) == [False, True]
    assert match(found([close, BOXES[0]], [0.9, 0.5]), wanted(BOXES)) == [True, False]


def test_a_box_takes_the_object_that_it_overlaps_most_of_those_left() -> None:
    objects = wanted([[0, 0, 10, 10], [2, 0, 12, 10]])
    boxes = found([[2, 0, 12, 10], [1.5, 0, 11.5, 10]], [0.9, 0.8])

    assert match(boxes, objects) == [True, True]


def test_boxes_in_crowd_regions_count_neither_for_nor_against() -> None:
    region = [0.0, 0.0, 100.0, 100.0]
    inside = [[left, 10.0, left + 10, 20.0] for left in (10.0, 30.0, 95.0, 96.0)]

    verdicts = match(found(inside, [0.9, 0.8, 0.7, 0.6]), wanted([region], crowd=(0,)))

    assert verdicts == [None, None, None, False], "the last lies in it to four tenths"
    one_found = match(found([BOXES[0]], [0.9]), wanted([region, BOXES[0]], crowd=(0,)))
    assert one_found == [True], "an object goes before a region"


def test_without_objects_or_boxes_nothing_is_found() -> None:
    assert match(found([BOXES[0]], [0.9]), wanted([])) == [False]
    assert match(found([], []), wanted(BOXES)) == []


def test_precision_and_recall_are_those_worked_by_hand() -> None:
    pairs = [
        (found([BOXES[0], [0.0, 50.0, 9.0, 60.0]], [0.9, 0.7]), wanted(BOXES[:2])),
        (found([BOXES[2]], [0.8], [2]), wanted([BOXES[2]], [2])),
        (found([BOXES[1], BOXES[0]], [0.6, 0.95]), wanted([BOXES[1]])),
    ]

    curves = precision_recall(pairs, CLASSES)

    assert [*curves] == ["red", "blue"], "there is nothing green"
    red = curves["red"]
    assert red.scores.tolist() == pytest.approx([0.95, 0.9, 0.7, 0.6])
    assert red.precision.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert red.recall.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3])
    assert red.best_score == pytest.approx(0.6)
    assert curves["blue"].precision.tolist() == curves["blue"].recall.tolist() == [1]


def test_a_class_of_which_nothing_is_found_has_an_empty_curve() -> None:
    curve = precision_recall([(found([], []), wanted(BOXES))], CLASSES)["red"]

    assert len(curve.recall) == 0
    assert curve.best_score == 0.5
    assert Curve(np.zeros(1), np.zeros(1), np.array([0.9])).best_score == 0.5


def test_the_best_score_weighs_precision_against_recall() -> None:
    curve = Curve(
        recall=np.array([0.2, 0.4, 0.6, 0.6, 0.8]),
        precision=np.array([1, 1, 1, 0.75, 0.5]),
        scores=np.array([0.9, 0.8, 0.7, 0.6, 0.1]),
    )

    assert curve.best_score == 0.7


def test_precision_is_the_best_at_a_recall_or_beyond() -> None:
    curve = Curve(
        recall=np.array([0.205, 0.205, 0.405, 0.605]),
        precision=np.array([1, 0.5, 2 / 3, 0.75]),
        scores=np.array([0.9, 0.8, 0.7, 0.6]),
    )

    precision = curve.precision_at(np.array([0, 0.2, 0.3, 0.605, 0.61, 1]))

    assert precision.tolist() == [1, 1, 0.75, 0.75, 0, 0]
    assert curve.average_precision == pytest.approx((21 * 1 + 40 * 0.75) / 101)
    nothing = Curve(*np.zeros((3, 0)))
    assert nothing.average_precision == 0


def test_perfect_answers_have_an_average_precision_of_100() -> None:
    labels = [1, 2, 1]
    pairs = [(found(BOXES, [0.9, 0.8, 0.7], labels), wanted(BOXES, labels))] * 2

    figures = average_precision(pairs, CLASSES)

    assert figures == pytest.approx(
        dict.fromkeys(("box_ap", "box_ap50", "box_ap75", "box_ap/red", "box_ap/blue"), 100)
    )


def test_average_precision_is_that_worked_by_hand() -> None:
    # One of two objects is found, and looks the same at every overlap: precision is 1 up to a
    # recall of 0.5, which are 51 of the 101 points; the other class is found not at all.
    pairs = [(found([BOXES[0]], [0.9]), wanted(BOXES, [1, 1, 2]))]

    figures = average_precision(pairs, CLASSES)

    assert figures["box_ap/red"] == pytest.approx(100 * 51 / 101)
    assert figures["box_ap/blue"] == 0
    assert figures["box_ap"] == figures["box_ap50"] == pytest.approx(50 * 51 / 101)


def test_classes_without_objects_have_no_figure_and_none_counts_for_them() -> None:
    pairs = [(found(BOXES[:2], [0.5, 0.9], [1, 3]), wanted(BOXES[:1]))]

    figures = average_precision(pairs, CLASSES)

    assert figures["box_ap"] == pytest.approx(100)
    assert "box_ap/green" not in figures and "box_ap/blue" not in figures


def test_where_there_is_nothing_to_find_there_are_no_figures() -> None:
    nothing = [(found([BOXES[0]], [0.9]), wanted([])), (found([], []), wanted([]))]

    assert average_precision(nothing, CLASSES) == {}


def test_crowd_regions_change_no_average_precision() -> None:
    answers = found([*BOXES, [75, 75, 80, 80], [60, 70, 70, 80]], [0.5, 0.5, 0.5, 0.9, 0.9])

    ignored = average_precision([(answers, wanted([*BOXES, [50, 62, 99, 99]], crowd=(3,)))], "r")
    punished = average_precision([(answers, wanted(BOXES))], "r")

    assert ignored["box_ap"] == pytest.approx(100)
    assert punished["box_ap"] < 61


def scenes(seed: int, classes: int) -> list[tuple[Item, Item]]:
    """Objects and crowd regions, most of them found, some of them twice, and false boxes."""
    random = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        corner = random.uniform(0, 70, (count, 2))
        return np.hstack([corner, corner + random.uniform(8, 30, (count, 2))])

    pairs = []
    for _ in range(12):
        objects = boxes(int(random.integers(0, 7)))
        labels = random.integers(1, classes + 1, len(objects))
        crowd = tuple(np.flatnonzero(random.random(len(objects)) < 0.2).tolist())
        again = np.tile(np.arange(len(objects)), 2)
        near = objects[again] + random.normal(0, 3, (len(again), 4)).clip(-3.5, 3.5)
        given = np.vstack([near, boxes(4)])
        tags = np.concatenate([labels[again], random.integers(1, classes + 1, 4)])
        scores = random.choice(np.linspace(0.05, 0.95, 200), len(given), replace=False)
        pairs.append(
            (
                found(given.tolist(), scores.tolist(), tags.tolist()),
                wanted(objects.tolist(), labels.tolist(), crowd),
            )
        )
    return pairs


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [1, 3])
def test_ap50_from_the_curves_is_that_of_torchmetrics(classes: int, seed: int) -> None:
    pairs = scenes(seed, classes)

    curves = precision_recall(pairs, CLASSES[:classes])
    figures = average_precision(pairs, CLASSES[:classes])

    areas = [curve.average_precision for curve in curves.values()]
    assert 100 * np.mean(areas) == pytest.approx(figures["box_ap50"], abs=1e-3)
    assert 20 < figures["box_ap50"] < 95


def test_masks_are_judged_beside_boxes() -> None:
    masks = torch.zeros(2, 100, 100, dtype=torch.bool)
    masks[0, 10:30, 10:30] = masks[1, 40:60, 40:60] = True
    halves = masks.clone()
    halves[:, :, 22:] = False
    halves[0, 10:18, 22] = True  # an IoU of 0.62 for the first, and none for the second
    objects = wanted(BOXES[:2], [1, 2]) | {"masks": masks}
    answers = found(BOXES[:2], [0.9, 0.8], [1, 2])

    right = average_precision([(answers | {"masks": masks}, objects)], CLASSES, masks=True)
    half = average_precision([(answers | {"masks": halves}, objects)], CLASSES, masks=True)

    assert {key.replace("box", "mask") for key in right if "box" in key} == {
        key for key in right if "mask" in key
    }
    assert [*right.values()] == pytest.approx([100] * len(right))
    assert half["box_ap"] == pytest.approx(100)
    assert half["mask_ap50"] == pytest.approx(50)
    assert half["mask_ap75"] == 0
    assert half["mask_ap/red"] == pytest.approx(30), "3 of 10 overlaps"


def test_photos_are_ranked_by_what_is_found_in_them() -> None:
    pairs = [
        (found(BOXES, [0.9, 0.9, 0.9]), wanted(BOXES)),
        (found(BOXES[:1], [0.9]), wanted(BOXES)),
        (found(BOXES[:1], [0.9], [2]), wanted(BOXES[:1])),
        (found([], []), wanted([])),
        (found(BOXES[:1], [0.4]), wanted([])),
        (found(BOXES[:1], [0.9]), wanted([])),
        (found([[5, 5, 15, 15]], [0.9]), wanted([[0.0, 0, 100, 100]], crowd=(0,))),
    ]

    assert photo_scores(pairs, 0.5) == [1, 0.5, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_masks_come_back_as_they_were_packed(count: int) -> None:
    masks = torch.rand(count, 7, 5) > 0.5

    packed = pack_masks(masks)

    assert len(packed) == count
    assert torch.equal(unpack_masks(packed, 7, 5), masks)


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks_come_back(value: bool) -> None:
    masks: Tensor = torch.full((2, 4, 6), value)

    assert torch.equal(unpack_masks(pack_masks(masks), 4, 6), masks)
