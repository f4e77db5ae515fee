from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wszoo.datasets.check import check_data
from wszoo.visualize.data_report import draw_report
from wszoo.visualize.datasets import draw_class_counts, draw_objects, draw_sizes

COUNTS = {"train": {"hat": 30, "skirt": 4, "a coat of a rather long name for an axis": 0}}
SIZES = {"train": np.array([[40, 30], [40, 30], [64, 64]]), "val": np.array([[90, 10]])}
BOXES = {"train": [0.1, 0.2, 0.2], "val": [0.5]}
OBJECTS = {"train": [0, 2, 1], "val": [1]}


def counts(path: Path, classes: int, least: int) -> None:
    of_split = {f"class {number}": least + number for number in range(classes)}
    draw_class_counts({"train": of_split, "val": of_split}, path, unit="images", title="counts")


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.convert("RGB")


DRAWN: dict[str, Callable[[Path], None]] = {
    "few classes": lambda path: counts(path, 10, 3),
    "many classes": lambda path: counts(path, 300, 3),
    "pixels": lambda path: draw_class_counts(COUNTS, path, unit="pixels", title="shares"),
    "sizes": lambda path: draw_sizes(SIZES, path, title="sizes"),
    "objects": lambda path: draw_objects(BOXES, OBJECTS, path, title="objects"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_picture_is_a_png_that_fits_a_screen_and_is_drawn_the_same_twice(
    name: str, tmp_path: Path
) -> None:
    DRAWN[name](tmp_path / "first.png")
    DRAWN[name](tmp_path / "second.png")

    width, height = opened(tmp_path / "first.png").size
    assert 300 < width < 2400
    assert 150 < height < 2400
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


OTHERS: dict[str, Callable[[Path], None]] = {
    "few classes": lambda path: counts(path, 10, 4),
    "many classes": lambda path: counts(path, 300, 4),
    "pixels": lambda path: draw_class_counts(COUNTS, path, unit="images", title="shares"),
    "sizes": lambda path: draw_sizes({**SIZES, "val": np.array([[90, 20]])}, path, title="sizes"),
    "objects": lambda path: draw_objects(BOXES, {**OBJECTS, "val": [2]}, path, title="objects"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_data_gives_another_picture(name: str, tmp_path: Path) -> None:
    DRAWN[name](tmp_path / "one.png")
    OTHERS[name](tmp_path / "other.png")

    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "other.png").read_bytes()


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no classes to draw"):
        draw_class_counts({"train": {}}, tmp_path / "x.png", unit="images")
    with pytest.raises(ValueError, match="no sizes to draw"):
        draw_sizes({"train": np.zeros((0, 2))}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="no images to draw"):
        draw_objects({}, {"train": []}, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_every_kind_of_fault_can_be_drawn(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for number in range(6):
        save(root / f"images/{number}.png", np.full((30, 40, 3), 40 * number, np.uint8))
        save(root / f"masks/{number}.png", np.array([[0, 1] * 20] * 30, np.uint8))
    (root / "images/0.png").write_bytes(b"")
    (root / "images/1.png").unlink()
    (root / "masks/2.png").unlink()
    (root / "masks/3.png").write_bytes(b"text")
    save(root / "masks/4.png", np.zeros((30, 40, 3), np.uint8))
    report = check_data("segment", root)
    assert {"image-broken", "image-missing", "mask-missing", "mask-broken", "mask-channels"} == {
        finding.code for finding in report.findings
    }

    drawn = draw_report(report, tmp_path / "out" / "pictures")

    assert [path.name for path in drawn] == ["classes.png", "sizes.png", "faults.png"]
    assert all(opened(path).size > (100, 100) for path in drawn)


def test_a_sound_set_has_no_picture_of_faults(tmp_path: Path) -> None:
    for number in range(2):
        for label in ("dress", "hat"):
            pixels = np.full((8, 8, 3), number, np.uint8) + (100 if label == "hat" else 0)
            save(tmp_path / f"set/{label}/{number}.png", pixels.astype(np.uint8))

    drawn = draw_report(check_data("classify", tmp_path / "set"), tmp_path / "out")

    assert [path.name for path in drawn] == ["classes.png", "sizes.png"]
