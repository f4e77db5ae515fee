import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wszoo.datasets.check_segmentation import inspect_segmentation, survey_segmentation
from wszoo.datasets.findings import Finding
from wszoo.datasets.segmentation import read_segmentation

Files = dict[str, bytes]
SIZE = (12, 8)


def photo(number: int, size: tuple[int, int] = SIZE, orientation: int = 1) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (number, 90, 200)).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def mask(*values: int, size: tuple[int, int] = SIZE, mode: str = "L", kind: str = "PNG") -> bytes:
    """Columns of these values, from left to right."""
    columns = np.resize(np.array(values, dtype=np.uint8), size[0])
    buffer = io.BytesIO()
    Image.fromarray(np.tile(columns, (size[1], 1))).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def sound() -> Files:
    """Three photos to train on and two to measure with, of three classes and void."""
    files = {}
    for number, place in enumerate(("train/a", "train/b", "train/c", "val/d", "val/e")):
        split, name = place.split("/")
        files[f"{split}/images/{name}.png"] = photo(20 * number)
        files[f"{split}/masks/{name}.png"] = mask(0, 1, 2, 255)
    return files


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def by_code(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.code for finding in findings}) == len(findings)
    return {finding.code: finding for finding in findings}


def test_nothing_is_said_of_a_sound_set(tmp_path: Path) -> None:
    path = write(tmp_path, sound())

    assert inspect_segmentation(path) == []
    assert inspect_segmentation(path, "train", classes=["sky", "road", "tree"]) == []


def test_pixels_are_counted_by_split_and_class(tmp_path: Path) -> None:
    survey = survey_segmentation(write(tmp_path, sound()), classes=["sky", "road", "tree"])

    assert survey.classes == ("sky", "road", "tree")
    assert [(s.split, s.images) for s in survey.splits] == [("train", 3), ("val", 2)]
    quarter = 12 * 8 // 4
    assert survey.splits[0].per_class == dict.fromkeys(survey.classes, 3 * quarter)
    assert survey.splits[1].sizes.tolist() == [[12, 8], [12, 8]]


def put(name: str, data: bytes) -> Callable[[Files], Files]:
    return lambda files: {**files, name: data}


def drop(name: str) -> Callable[[Files], Files]:
    return lambda files: {other: data for other, data in files.items() if other != name}


def everywhere(data: bytes) -> Callable[[Files], Files]:
    return lambda files: {k: data if "/masks/" in k else v for k, v in files.items()}


FAULTS: dict[str, tuple[Callable[[Files], Files], str, str, int, str]] = {
    "photo empty": (put("train/images/a.png", b""), "image-broken", "error", 1, "it is empty"),
    "photo text": (
        put("val/images/d.png", b"x"),
        "image-broken",
        "error",
        1,
        "no image of a known",
    ),
    "photo gone": (drop("train/images/a.png"), "image-missing", "error", 1, "train/masks/a.png"),
    "mask gone": (drop("train/masks/a.png"), "mask-missing", "error", 1, "train/images/a.png"),
    "mask empty": (put("train/masks/a.png", b""), "mask-broken", "error", 1, "a.png: it is empty"),
    "mask size": (
        put("train/masks/a.png", mask(0, 1, 2, size=(6, 4))),
        *("mask-size", "error", 1, "masks/a.png: has 6 x 4 pixels, its photo 12 x 8"),
    ),
    "mask RGB": (
        put("train/masks/a.png", mask(0, 1, 2, mode="RGB")),
        *("mask-channels", "error", 1, "a.png: has the mode RGB, not one label per pixel"),
    ),
    "mask JPEG": (
        put("train/masks/a.png", mask(0, 1, 2, kind="JPEG")),
        *("mask-lossy", "error", 1, "a.png: is a JPEG"),
    ),
    "all ignored": (
        put("train/masks/a.png", mask(255)),
        *("mask-ignored", "warning", 1, "train/masks/a.png"),
    ),
    "two photos": (
        put("train/images/a.jpg", photo(99)),
        *("name-shared", "error", 1, "a.jpg = "),
    ),
    "0 and 255": (everywhere(mask(0, 255)), "mask-binary", "error", 5, "train/masks/a.png"),
    "one class": (everywhere(mask(0, 0)), "class-single", "error", 1, "0"),
    "gaps": (everywhere(mask(0, 1, 4)), "value-gap", "warning", 2, "2"),
    "wide gaps": (everywhere(mask(0, 128)), "value-gap", "error", 127, "1"),
    "leak": (
        lambda f: {**f, "val/images/d.png": f["train/images/a.png"]},
        *("split-identical", "warning", 1, "a.png = "),
    ),
    "conflict": (
        lambda f: {**f, "train/images/b.png": photo(0), "train/masks/b.png": mask(2, 1, 0)},
        *("copy-conflict", "warning", 1, "b.png"),
    ),
    "copy": (put("train/images/b.png", photo(0)), "copy", "note", 1, "b.png"),
    "orientation": (
        put("train/images/a.png", photo(0, orientation=3)),
        *("mask-orientation", "warning", 1, "train/images/a.png"),
    ),
    "unmeasured": (
        lambda f: {k: mask(0, 1) if k.startswith("val/masks") else v for k, v in f.items()},
        *("class-unmeasured", "note", 1, "2: not in val"),
    ),
    "untrained": (put("val/masks/d.png", mask(0, 1, 2, 3)), "class-untrained", "warning", 1, "3"),
    "rare": (
        lambda f: {
            **f,
            "train/images/z.png": photo(99, (400, 300)),
            "train/masks/z.png": mask(0, 1, size=(400, 300)),
        },
        *("class-rare", "note", 1, "2: 0.060%"),
    ),
    "outside": (put("preview.png", photo(99)), "file-unread", "note", 1, "preview.png"),
    "no split": (
        lambda f: {**f, "images/x.png": photo(99), "masks/x.png": mask(0, 1, 2)},
        *("split-unknown", "note", 1, "images/x.png"),
    ),
    "case": (
        lambda f: {**f, "train/images/A.png": photo(99), "train/masks/A.png": mask(0, 1, 2)},
        *("name-case", "warning", 1, "A.png = "),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_told_with_its_place(fault: str, tmp_path: Path) -> None:
    change, code, level, count, example = FAULTS[fault]

    found = by_code(inspect_segmentation(write(tmp_path, change(sound()))))

    finding = found[code]
    assert (finding.level, finding.count) == (level, count)
    assert any(example in line for line in finding.examples), finding.examples
    assert finding.fix
    assert [other.code for other in found.values() if other.level == level] == [code]


def test_values_beyond_the_classes_are_told_with_their_files(tmp_path: Path) -> None:
    path = write(tmp_path, {**sound(), "train/masks/b.png": mask(0, 7, 9, 128)})

    found = by_code(inspect_segmentation(path, classes=["sky", "road", "tree"]))

    finding = found["mask-value"]
    assert finding.message == "masks with values beyond the classes (0 to 2)"
    assert finding.examples == (f"{path}/train/masks/b.png: 7, 9, 128",)
    assert finding.images == (f"{path}/train/images/b.png",)
    assert list(found) == ["mask-value"]
    ignoring = inspect_segmentation(path, classes=["sky", "road", "tree"], ignore=[7, 9, 128])
    assert ignoring == []


def test_named_classes_that_no_mask_holds_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, {**sound(), "classes.txt": b"sky\nroad\ntree\nCar\ncar"})

    found = by_code(inspect_segmentation(path))

    assert found["class-absent"].examples == ("Car", "car")
    assert found["class-spelling"].examples == ("Car = car",)


def test_what_is_ignored_is_no_class(tmp_path: Path) -> None:
    path = write(tmp_path, {**sound(), "val/masks/d.png": mask(0, 1, 2, 11)})

    assert inspect_segmentation(path, ignore={11}) == []
    assert survey_segmentation(path, ignore={11}).classes == ("0", "1", "2")
    assert "value-gap" in by_code(inspect_segmentation(path))


def test_listed_names_without_files_are_told(tmp_path: Path) -> None:
    files = {f"JPEGImages/{name}.png": photo(n) for n, name in enumerate("abc")}
    files |= {f"SegmentationClass/{name}.png": mask(0, 1) for name in "ab"}
    files["ImageSets/Segmentation/train.txt"] = b"a\nb\ngone\n"

    found = by_code(inspect_segmentation(write(tmp_path, files)))

    assert list(found) == ["image-missing"]
    assert found["image-missing"].examples == ("gone, listed in train",)


OF_THE_WHOLE_SET = ("0 and 255", "one class", "wide gaps")


@pytest.mark.parametrize(
    "fault", [k for k, row in FAULTS.items() if row[2] == "error" and k not in OF_THE_WHOLE_SET]
)
def test_without_the_images_with_errors_a_set_can_be_read(fault: str, tmp_path: Path) -> None:
    path = write(tmp_path, FAULTS[fault][0](sound()))
    errors = [f for f in inspect_segmentation(path) if f.level == "error"]
    names = {name for finding in errors for name in finding.images}

    for split in ("train", "val"):
        images = read_segmentation(path, split, quarantine=names)

        for index in range(len(images)):
            assert images.image(index).size == images.mask(index).shape[::-1]


def test_small_photos_are_noted_where_the_size_of_the_input_is_known(tmp_path: Path) -> None:
    path = write(tmp_path, sound())

    assert [f.code for f in survey_segmentation(path, input_size=17).findings] == ["image-small"]
    assert survey_segmentation(path, input_size=16).findings == ()


def test_one_split_is_looked_at_alone(tmp_path: Path) -> None:
    path = write(tmp_path, {**sound(), "val/masks/d.png": b""})

    assert inspect_segmentation(path, "train") == []
    with pytest.raises(FileNotFoundError, match="no split 'test'; its splits: train, val"):
        inspect_segmentation(path, "test")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"classes": ["a", "a"]}, "name 'a' twice"), ({"ignore": [-1]}, "ignore holds -1")],
)
def test_arguments_that_cannot_be_are_refused(
    arguments: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told):
        inspect_segmentation(write(tmp_path, sound()), **arguments)
