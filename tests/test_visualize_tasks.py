"""Pictures of segmentation and detection: what must be seen is there, and nothing else changes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wszoo.visualize.boxes import draw_boxes, match
from wszoo.visualize.masks import draw_masks, label_borders, overlay_mask
from wszoo.visualize.pairs import best_median_worst
from wszoo.visualize.palette import class_colour, ink_on
from wszoo.visualize.precision_recall import draw_precision_recall

VOID = 255
CLASSES = ["road", "car", "tree"]
PHOTOS = [Image.new("RGB", (120, 80), "gray"), Image.new("L", (60, 90), 100)]
RECALL = np.linspace(0, 1, 11)
CURVES = {"car": 1 - RECALL, "road": np.ones(11), "none": np.full(11, -1.0)}


def mask_of(photo: Image.Image, label: int = 2) -> np.ndarray:
    mask = np.zeros(photo.size[::-1], dtype=np.uint8)
    mask[20:40, 10:50] = label
    mask[:5] = VOID
    return mask


def objects(*boxes: tuple[float, float, float, float], **more: Any) -> dict[str, Any]:
    return {"boxes": np.array(boxes).reshape(-1, 4), "labels": np.full(len(boxes), 2), **more}


TRUTHS = [objects((10, 10, 60, 50)), objects()]
FOUND = [
    objects((12, 11, 61, 52), (70, 20, 110, 70), scores=np.array([0.9, 0.6])),
    objects((5, 5, 30, 30), scores=np.array([0.7])),
]


def masks(path: Path, label: int = 2, **kwargs: Any) -> None:
    truths, found = ([mask_of(photo, value) for photo in PHOTOS] for value in (2, label))
    draw_masks(PHOTOS, truths, found, CLASSES, path, **kwargs)


def boxes(path: Path, found: Any = FOUND, **kwargs: Any) -> None:
    draw_boxes(PHOTOS, TRUTHS, found, CLASSES, path, **kwargs)


def curves(path: Path, **more: np.ndarray) -> None:
    draw_precision_recall(RECALL, CURVES | more, path, title="three classes")


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def has_colour(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((pixels == colour).all(axis=2).any())


@pytest.mark.parametrize("draw", [masks, boxes, curves])
def test_picture_is_a_png_that_fits_a_screen_and_is_drawn_the_same_twice(
    draw: Callable[[Path], None], tmp_path: Path
) -> None:
    draw(tmp_path / "first.png")
    draw(tmp_path / "second.png")

    height, width, _ = pixels_of(tmp_path / "first.png").shape
    assert 300 < width < 2400
    assert 300 < height < 2400
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


SHIFTED = [objects((11, 15, 60, 50), scores=np.array([0.9])), FOUND[1]]
LESS_SURE = [FOUND[0] | {"scores": np.array([0.9, 0.61])}, FOUND[1]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (masks, lambda path: masks(path, label=1)),
        (masks, lambda path: masks(path, captions=["best", "worst"])),
        (masks, lambda path: masks(path, title="photos")),
        (boxes, lambda path: boxes(path, SHIFTED)),
        (boxes, lambda path: boxes(path, LESS_SURE)),
        (boxes, lambda path: boxes(path, min_score=0.65)),
        (curves, lambda path: curves(path, car=1 - RECALL**2)),
        (curves, lambda path: curves(path, tree=RECALL * 0)),
    ],
    ids=["labels", "captions", "title", "boxes", "scores", "threshold", "precision", "classes"],
)
def test_other_data_gives_another_picture(
    one: Callable[[Path], None], other: Callable[[Path], None], tmp_path: Path
) -> None:
    one(tmp_path / "one.png")
    other(tmp_path / "other.png")

    shown = [pixels_of(tmp_path / name) for name in ("one.png", "other.png")]
    assert shown[0].shape != shown[1].shape or (shown[0] != shown[1]).any()


def test_any_number_of_classes_have_colours_of_their_own() -> None:
    colours = [class_colour(index) for index in range(200)]

    assert len(set(colours)) == 200
    assert all(0 <= part <= 255 for colour in colours for part in colour)
    chosen = np.array(colours[:20], dtype=float)
    distances = np.linalg.norm(chosen[:, None] - chosen, axis=2) + 1000 * np.eye(20)
    assert distances.min() > 30


@pytest.mark.parametrize("index", range(40))
def test_text_on_a_colour_can_be_read(index: int) -> None:
    colour = class_colour(index)

    def luminance(code: tuple[int, ...]) -> float:  # of WCAG 2
        linear = [(p / 255 / 12.92 if p < 11 else ((p / 255 + 0.055) / 1.055) ** 2.4) for p in code]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ink = 0.0 if ink_on(colour) == "#000000" else 1.0
    lighter, darker = sorted((luminance(colour), ink), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 3, "WCAG's least contrast of graphics"


def test_an_overlay_keeps_the_photo_visible_under_the_colour_of_its_class() -> None:
    photo = Image.new("RGB", (40, 30), (50, 50, 50))
    photo.paste((200, 200, 200), (0, 0, 20, 30))
    mask = np.full((30, 40), 1)
    mask[:, 30:] = VOID

    pixels = overlay_mask(photo, mask)

    bright, dark, void = pixels[15, 5], pixels[15, 25], pixels[15, 35]
    assert (bright > dark).all()
    assert np.argmax(bright) == np.argmax(dark) == np.argmax(class_colour(1))
    assert (void == 0).all()
    assert (pixels[15, 29] < dark).all(), "a dark line where labels meet"


def test_borders_are_where_labels_meet() -> None:
    mask = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])

    assert label_borders(mask).tolist() == [[False, True, False], [True, True, True], [False] * 3]


def test_what_is_predicted_where_nothing_is_labelled_is_not_shown(tmp_path: Path) -> None:
    truth, found = mask_of(PHOTOS[0]), mask_of(PHOTOS[0])
    other = found.copy()
    other[truth == VOID] = 2

    draw_masks(PHOTOS[:1], [truth], [found], CLASSES, tmp_path / "one.png")
    draw_masks(PHOTOS[:1], [truth], [other], CLASSES, tmp_path / "other.png")

    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_where_nobody_knows_the_truth_no_column_claims_it(tmp_path: Path) -> None:
    found = [mask_of(PHOTOS[0])]

    draw_boxes(PHOTOS[:1], None, FOUND[:1], CLASSES, tmp_path / "boxes.png")
    draw_boxes(PHOTOS[:1], TRUTHS[:1], FOUND[:1], CLASSES, tmp_path / "two.png")
    draw_masks(PHOTOS[:1], None, found, CLASSES, tmp_path / "masks.png")
    draw_masks(PHOTOS[:1], found, found, CLASSES, tmp_path / "three.png")

    widths = [
        pixels_of(tmp_path / name).shape[1]
        for name in ("boxes.png", "two.png", "masks.png", "three.png")
    ]
    assert widths[0] < 0.6 * widths[1] and widths[2] < 0.7 * widths[3]
    seen = [pixels_of(tmp_path / name) for name in ("boxes.png", "masks.png")]
    assert all(has_colour(pixels, class_colour(2)) for pixels in seen)


def test_the_legend_shows_the_classes_that_occur_and_no_other(tmp_path: Path) -> None:
    masks(tmp_path / "masks.png")
    boxes(tmp_path / "boxes.png")

    seen = [[has_colour(pixels_of(tmp_path / name), class_colour(k)) for k in range(4)]
            for name in ("masks.png", "boxes.png")]  # fmt: skip
    assert seen == [[True, False, True, False], [False, False, True, False]]


def test_tensors_of_torchvision_are_drawn_like_arrays(tmp_path: Path) -> None:
    pair: list[Any] = []
    for kind in (np.asarray, torch.as_tensor):
        masks = np.zeros((2, 1, 80, 120), dtype=np.float32)
        masks[0, 0, 10:50, 10:60] = 0.8
        pair.append({key: kind(value) for key, value in (FOUND[0] | {"masks": masks}).items()})
    truth = [{key: torch.as_tensor(value) for key, value in TRUTHS[0].items()}]

    for name, found, expected in (("one", pair[0], TRUTHS[:1]), ("other", pair[1], truth)):
        draw_boxes(PHOTOS[:1], expected, [found], CLASSES, tmp_path / f"{name}.png")

    one, other = (tmp_path / f"{name}.png" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    boxes(tmp_path / "without.png")
    assert not np.array_equal(pixels_of(one)[:200], pixels_of(tmp_path / "without.png")[:200])


def test_each_object_has_one_counterpart_of_its_class_at_most() -> None:
    truth = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]), np.array([1, 1, 2])
    found = (
        np.array([[0, 1, 10, 11], [0, 0, 10, 10], [20, 6, 30, 16], [40, 0, 50, 10]]),
        np.array([1, 1, 1, 1]),
    )

    of_truth, of_found = match(truth, found)

    assert of_truth.tolist() == [True, False, False], "the third is of another class"
    assert of_found.tolist() == [True, False, False, False], "the second comes too late"


def test_photos_without_objects_have_no_counterparts() -> None:
    none, some = (np.zeros((0, 4)), np.zeros(0)), (np.array([[0.0, 0, 5, 5]]), np.array([1]))

    assert [len(part) for part in match(none, none)] == [0, 0]
    assert [part.tolist() for part in match(none, some)] == [[], [False]]
    assert [part.tolist() for part in match(some, none)] == [[False], []]


def test_best_median_and_worst_are_told_by_their_scores() -> None:
    scores = [0.2, math.nan, 0.9, 0.5, 0.7, 0.1]

    assert best_median_worst(scores) == [(2, "best"), (3, "median"), (5, "worst")]
    assert best_median_worst([0.2, 0.9]) == [(1, "best"), (0, "worst")]
    assert best_median_worst([math.nan, 0.9]) == [(1, "best")]
    with pytest.raises(ValueError, match="no image has a score"):
        best_median_worst([math.nan])


def test_of_very_many_classes_the_weakest_are_drawn(tmp_path: Path) -> None:
    some = {f"class {k}": np.full(11, k / 100) for k in range(48)}

    draw_precision_recall(RECALL, some, tmp_path / "48.png")
    draw_precision_recall(RECALL, some | {"best": np.ones(11)}, tmp_path / "49.png")

    assert pixels_of(tmp_path / "48.png").shape[0] < 2400
    # The same panels, below a line that says so.
    below = [pixels_of(tmp_path / name)[-1500:] for name in ("48.png", "49.png")]
    assert (below[0] == below[1]).all()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda p: draw_masks([], [], [], CLASSES, p), "no images to draw"),
        (lambda p: draw_masks([], None, [], CLASSES, p), "no images to draw"),
        (
            lambda p: draw_boxes(PHOTOS, None, FOUND[:1], CLASSES, p),
            "predictions has 1 entries for 2 images",
        ),
        (
            lambda p: draw_masks(PHOTOS, [], [], CLASSES, p),
            "truths has 0 entries for 2 images; give one for each",
        ),
        (lambda p: masks(p, captions=["one"]), "captions has 1 entries for 2 images"),
        (lambda p: masks(p, label=3), r"a mask holds label 3, but there are 3 classes, 0\.\.2"),
        (
            lambda p: draw_masks(
                PHOTOS[:1], [mask_of(PHOTOS[1])], [mask_of(PHOTOS[0])], CLASSES, p
            ),
            r"mask has shape \(90, 60\), its photo wants \(80, 120\)",
        ),
        (lambda p: boxes(p, FOUND[:1]), "predictions has 1 entries for 2 images"),
        (
            lambda p: boxes(p, [FOUND[0] | {"labels": np.array([2, 4])}, FOUND[1]]),
            r"an object has label 4, but there are 3 classes, 1\.\.3",
        ),
        (
            lambda p: boxes(p, [FOUND[0] | {"labels": np.array([2])}, FOUND[1]]),
            "2 boxes come with 1 labels",
        ),
        (
            lambda p: boxes(p, [FOUND[0] | {"masks": np.zeros((2, 1, 8, 8))}, FOUND[1]]),
            r"masks have shape \(2, 8, 8\), their photo wants \(2, 80, 120\)",
        ),
        (lambda p: draw_precision_recall(RECALL, {}, p), "no classes to draw"),
        (
            lambda p: curves(p, tree=np.ones(3)),
            r"precision of 'tree' has shape \(3,\), recall wants \(11,\)",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused_by_its_numbers(
    draw: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()
