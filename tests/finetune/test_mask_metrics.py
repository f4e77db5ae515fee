import pytest
import torch

from wszoo.finetune.mask_metrics import count_pixels, summary

CLASSES = ("sky", "road", "car")


def test_pixels_are_counted_by_true_and_given_class() -> None:
    target = torch.tensor([[0, 0, 1], [1, 1, 255]], dtype=torch.uint8)
    given = torch.tensor([[0, 2, 1], [1, 0, 0]])

    counts = count_pixels(given, target, 3)

    assert counts.dtype == torch.int64
    assert counts.tolist() == [[1, 0, 1], [1, 2, 0], [0, 0, 0]]


def test_labels_up_to_254_do_not_overflow() -> None:
    target = torch.full((2, 2), 253, dtype=torch.uint8)

    counts = count_pixels(torch.full((2, 2), 252), target, 254)

    assert counts[253, 252] == 4
    assert counts.sum() == 4


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    target, given = torch.randint(0, 3, (2, 40, 50))

    parts = sum(count_pixels(g, t, 3) for g, t in zip(given.split(7), target.split(7), strict=True))

    assert torch.equal(torch.as_tensor(parts), count_pixels(given, target, 3))


def test_figures_are_those_worked_by_hand() -> None:
    # sky: 3 of 4 right, and one road pixel is called sky; road: 1 of 2; there is no car.
    figures = summary(torch.tensor([[3, 0, 1], [1, 1, 0], [0, 0, 0]]), CLASSES)

    assert figures == pytest.approx(
        {
            "miou": 100 * (3 / 5 + 1 / 2) / 2,
            "dice": 100 * (6 / 8 + 2 / 3) / 2,
            "pixel_accuracy": 100 * 4 / 6,
            "iou/sky": 60,
            "iou/road": 50,
            "dice/sky": 75,
            "dice/road": 200 / 3,
        }
    )


def test_perfect_answers_have_100_percent() -> None:
    figures = summary(torch.diag(torch.tensor([5, 0, 2])), CLASSES)

    assert set(figures.values()) == {100.0}
    assert not any("road" in name for name in figures)


def test_a_class_that_is_never_found_has_0_and_not_nothing() -> None:
    figures = summary(torch.tensor([[5, 0, 0], [2, 0, 0], [0, 0, 0]]), CLASSES)

    assert figures["iou/road"] == figures["dice/road"] == 0
    assert figures["miou"] == pytest.approx(100 * 5 / 7 / 2)


def test_without_labelled_pixels_there_are_no_figures() -> None:
    assert summary(torch.zeros(3, 3, dtype=torch.long), CLASSES) == {}
