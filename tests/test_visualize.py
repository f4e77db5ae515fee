import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wszoo.visualize import draw_confusion, draw_curves, draw_predictions
from wszoo.visualize.curves import _spread
from wszoo.visualize.page import wrap

PHOTOS = [Image.new("RGB", (60, 80), colour) for colour in ("navy", "olive", "maroon", "teal")]
CAPTIONS = ["dress 91 %", "hat 50 %", "skirt, is a rather long dress 40 %", "price $5 to $6"]
RIGHT = [True, False, False, None]
CURVES = {"pretrained": [(0.0, 10.0), (1.0, 70.0)], "random": [(0.0, 10.0), (1.0, 25.0)]}


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.convert("RGB")


def predictions(path: Path, captions: list[str], correct: list[bool | None]) -> None:
    draw_predictions(PHOTOS, captions, correct, path, title="four photos", columns=3)


def curves(path: Path, series: dict[str, list[tuple[float, float]]]) -> None:
    draw_curves(series, path, x_label="epoch", y_label="top-1, %", hlines={"chance": 10.0})


def confusion(path: Path, count: int, most: int) -> None:
    matrix = np.diag(np.full(count, most)) + 1
    draw_confusion(matrix, [f"class {i}" for i in range(count)], path, title="confusions")


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: predictions(path, CAPTIONS, RIGHT),
        lambda path: curves(path, CURVES),
        lambda path: confusion(path, 10, 30),
        lambda path: confusion(path, 200, 30),
    ],
    ids=["predictions", "curves", "confusion of 10", "confusion of 200"],
)
def test_picture_is_a_png_that_fits_a_screen_and_is_drawn_the_same_twice(
    draw: Callable[[Path], None], tmp_path: Path
) -> None:
    draw(tmp_path / "first.png")
    draw(tmp_path / "second.png")

    width, height = opened(tmp_path / "first.png").size
    assert 300 < width < 2400
    assert 300 < height < 2400
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            lambda path: predictions(path, CAPTIONS, RIGHT),
            lambda path: predictions(path, CAPTIONS, [True, True, False, None]),
        ),
        (
            lambda path: predictions(path, CAPTIONS, RIGHT),
            lambda path: predictions(path, ["hat 91 %", *CAPTIONS[1:]], RIGHT),
        ),
        (
            lambda path: curves(path, CURVES),
            lambda path: curves(path, CURVES | {"random": [(0.0, 10.0), (1.0, 26.0)]}),
        ),
        (lambda path: confusion(path, 10, 30), lambda path: confusion(path, 10, 3)),
        (lambda path: confusion(path, 200, 30), lambda path: confusion(path, 200, 3)),
    ],
    ids=["marks", "captions", "curves", "confusion of 10", "confusion of 200"],
)
def test_other_data_gives_another_picture(
    one: Callable[[Path], None], other: Callable[[Path], None], tmp_path: Path
) -> None:
    one(tmp_path / "one.png")
    other(tmp_path / "other.png")

    assert opened(tmp_path / "one.png").tobytes() != opened(tmp_path / "other.png").tobytes()


def test_a_photo_is_seen_whole_in_its_own_colours(tmp_path: Path) -> None:
    draw_predictions([PHOTOS[0]], ["navy"], [None], tmp_path / "sheet.png")

    pixels = np.asarray(opened(tmp_path / "sheet.png"))
    rows, columns = np.nonzero((pixels == (0, 0, 128)).all(axis=2))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height > 200
    assert width / height == pytest.approx(60 / 80, abs=0.03)


def test_a_grey_photo_can_be_drawn(tmp_path: Path) -> None:
    draw_predictions([Image.new("L", (20, 20), 90)], ["grey"], [True], tmp_path / "sheet.png")

    assert ((np.asarray(opened(tmp_path / "sheet.png")) == 90).all(axis=2)).any()


def test_more_lines_of_caption_make_the_sheet_higher(tmp_path: Path) -> None:
    predictions(tmp_path / "short.png", ["a", "b", "c", "d"], RIGHT)
    predictions(tmp_path / "long.png", ["a", "b", "c " * 80, "d"], RIGHT)

    short, long = opened(tmp_path / "short.png").size, opened(tmp_path / "long.png").size
    assert short[0] == long[0]
    assert short[1] + 50 < long[1]


def test_numbers_of_photos_captions_and_marks_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"

    with pytest.raises(ValueError, match="captions has 3 entries for 4 images"):
        draw_predictions(PHOTOS, CAPTIONS[:3], RIGHT, path)
    with pytest.raises(ValueError, match="correct has 5 entries for 4 images"):
        draw_predictions(PHOTOS, CAPTIONS, [*RIGHT, True], path)
    with pytest.raises(ValueError, match="no images to draw"):
        draw_predictions([], [], [], path)
    with pytest.raises(ValueError, match="columns must be at least 1, got 0"):
        draw_predictions(PHOTOS, CAPTIONS, RIGHT, path, columns=0)
    assert not path.exists()


def test_curves_without_points_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="series 'empty' has no points"):
        curves(tmp_path / "curves.png", {**CURVES, "empty": []})
    with pytest.raises(ValueError, match="no series"):
        curves(tmp_path / "curves.png", {})


def test_a_curve_may_be_a_single_point(tmp_path: Path) -> None:
    curves(tmp_path / "curves.png", {"one": [(3.0, 10.0)]})

    assert opened(tmp_path / "curves.png").size[0] > 300


def test_confusion_matrix_must_fit_the_classes_and_hold_counts(tmp_path: Path) -> None:
    path = tmp_path / "confusion.png"

    with pytest.raises(ValueError, match=r"matrix has shape \(2, 3\) for 2 classes"):
        draw_confusion(np.ones((2, 3)), ["a", "b"], path)
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 2\) for 3 classes"):
        draw_confusion(np.ones((2, 2)), ["a", "b", "c"], path)
    with pytest.raises(ValueError, match="least entry is -1"):
        draw_confusion(np.array([[1, 0], [-1, 2]]), ["a", "b"], path)


def test_a_class_without_photos_is_no_division_by_zero(tmp_path: Path) -> None:
    draw_confusion(np.array([[0, 0], [0, 4]]), ["none", "some"], tmp_path / "confusion.png")

    assert opened(tmp_path / "confusion.png").size[0] > 300


def test_wrapped_lines_keep_to_the_width_and_lose_no_letter() -> None:
    text = "a few words, then averyverylongwordwithoutanybreak and\nanother line"

    lines = wrap(text, 12, lambda line: float(len(line)))

    assert max(map(len, lines)) <= 12
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert lines[-1] == "another line"


def test_spread_labels_do_not_overlap_and_move_only_where_they_must() -> None:
    wanted = [50.0, 52.0, 49.0, 100.0]

    placed = _spread(wanted, [10.0] * 4)

    ordered = sorted(placed)
    assert all(upper - lower >= 10 - 1e-9 for lower, upper in pairwise(ordered))
    assert placed[3] == 100
    assert placed[2] < placed[0] < placed[1]
    assert sum(placed[:3]) / 3 == pytest.approx(sum(wanted[:3]) / 3)


def test_importing_the_package_does_not_import_matplotlib() -> None:
    code = "import sys, wszoo.visualize; sys.exit('matplotlib' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
