import io
import json
import math
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wszoo.datasets.check_detection import inspect_detection
from wszoo.datasets.detection import read_detection
from wszoo.datasets.detection_problems import KINDS

WIDTH, HEIGHT = 64, 48
Entry = dict[str, Any]


def photo(number: int, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (8 * number, 90, 200)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def annotation(key: int, image: int, category: int, x: float = 8, y: float = 8) -> Entry:
    corners = [x, y, x + 20, y, x + 20, y + 16, x, y + 16]
    return {
        "id": key,
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, 20, 16],
        "area": 320,
        "iscrowd": 0,
        "segmentation": [corners],
    }


def listed(key: int, name: str) -> Entry:
    return {"id": key, "file_name": name, "width": WIDTH, "height": HEIGHT}


class CocoSet:
    """A sound set of five photos in two splits, to be spoiled."""

    def __init__(self) -> None:
        self.categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        self.train: dict[str, Any] = {
            "images": [listed(1, "a.jpg"), listed(2, "b.jpg"), listed(3, "c.jpg")],
            "annotations": [
                annotation(1, 1, 1),
                annotation(2, 1, 2, 30, 20),
                annotation(3, 2, 2),
                annotation(4, 3, 1),
            ],
            "categories": self.categories,
        }
        self.val: dict[str, Any] = {
            "images": [listed(1, "d.jpg"), listed(2, "e.jpg")],
            "annotations": [annotation(1, 1, 1), annotation(2, 2, 2)],
            "categories": [dict(category) for category in self.categories],
        }
        self.files = {f"train/{name}.jpg": photo(i) for i, name in enumerate("abc", start=1)}
        self.files |= {f"val/{name}.jpg": photo(i) for i, name in enumerate("de", start=4)}

    @property
    def first(self) -> Entry:
        """Of the objects."""
        return self.train["annotations"][0]

    def write(self, root: Path) -> Path:
        for split in ("train", "val"):
            content = json.dumps(getattr(self, split)).encode()
            self.files.setdefault(f"annotations/instances_{split}.json", content)
        for name, data in self.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root


def boxes(spoilt: CocoSet, *values: list[float]) -> None:
    for one, box in zip(spoilt.train["annotations"], values, strict=True):
        one.update(bbox=box)


def bomb() -> bytes:
    """A header that promises 400 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    data = buffer.getvalue()
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


TRAIN = "annotations/instances_train.json"
SQUARE = {"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]}
SPOILT: list[tuple[str, str, Callable[[CocoSet], Any]]] = [
    (
        "file-unreadable",
        "train.json:2:8: Exp",
        lambda s: s.files.update({TRAIN: b'{"a":\n1, "b" 2}'}),
    ),
    ("file-unreadable", "train.json:1:1: Exp", lambda s: s.files.update({TRAIN: b""})),
    ("file-unreadable", "it has no list 'images'", lambda s: s.train.update(images={})),
    ("file-unreadable", "it holds a list", lambda s: s.files.update({TRAIN: b"[]"})),
    ("file-unreadable", "nested too deeply", lambda s: s.files.update({TRAIN: b"[" * 200_000})),
    ("file-unreadable", "invalid start byte", lambda s: s.files.update({TRAIN: b"\xff\xfe{}"})),
    (
        "file-ambiguous",
        "instances_train_old.json: not read, since",
        lambda s: s.files.update({"annotations/instances_train_old.json": b"{}"}),
    ),
    (
        "file-unused",
        "instances_more.json: no train, val or test in it",
        lambda s: s.files.update({"annotations/instances_more.json": b"{}"}),
    ),
    ("entry-malformed", "image 2: file_name None", lambda s: s.val["images"][1].pop("file_name")),
    ("entry-malformed", "images, entry 4: id None", lambda s: s.train["images"].append({})),
    ("entry-malformed", "images, entry 4: 'x'", lambda s: s.train["images"].append("x")),
    ("entry-malformed", "category 2: name ''", lambda s: s.categories[1].update(name="")),
    ("images-none", "val has no images", lambda s: s.val.update(images=[], annotations=[])),
    ("image-missing", "a.jpg: no such photo", lambda s: s.files.pop("train/a.jpg")),
    (
        "image-ambiguous",
        "c.jpg may be",
        lambda s: s.files.update({"train/more/c.jpg": photo(30)}),
    ),
    ("image-id-repeated", "id 1 is", lambda s: s.train["images"][1].update(id=1)),
    (
        "image-repeated",
        "a.jpg is listed again",
        lambda s: s.train["images"].append(listed(9, "a.jpg")),
    ),
    ("image-unlisted", "x.jpg: in no", lambda s: s.files.update({"train/x.jpg": photo(9)})),
    ("image-empty-file", "a.jpg: it is empty", lambda s: s.files.update({"train/a.jpg": b""})),
    (
        "image-broken",
        "b.jpg: it is no image of a known format",
        lambda s: s.files.update({"train/b.jpg": b"text"}),
    ),
    (
        "image-broken",
        "b.jpg: image file is truncated",
        lambda s: s.files.update({"train/b.jpg": photo(2)[:-40]}),
    ),
    ("image-bomb", "a.jpg: Image size (400", lambda s: s.files.update({"train/a.jpg": bomb()})),
    (
        "image-size",
        "a.jpg: 64 x 50, annotated as 64 x 48",
        lambda s: s.files.update({"train/a.jpg": photo(1, (64, 50))}),
    ),
    (
        "image-sideways",
        "a.jpg: 48 x 64 upright, orientation 6, annotated as 64 x 48",
        lambda s: s.files.update({"train/a.jpg": photo(1, orientation=6)}),
    ),
    (
        "image-turned",
        "a.jpg: 64 x 48 upright, orientation 3",
        lambda s: s.files.update({"train/a.jpg": photo(1, orientation=3)}),
    ),
    (
        "category-repeated",
        "id 1 is 'cat' and 'fox'",
        lambda s: s.categories.append({"id": 1, "name": "fox"}),
    ),
    (
        "category-repeated",
        "'cat' is id 3, too",
        lambda s: s.categories.append({"id": 3, "name": "cat"}),
    ),
    (
        "classes-differ",
        "classes only here: dawg; missing here: dog",
        lambda s: (
            s.val["categories"][1].update(name="dawg"),
            s.val["annotations"][1].update(category_id=1),
        ),
    ),
    ("annotation-id-repeated", "id 1, 2 times", lambda s: s.train["annotations"][1].update(id=1)),
    ("annotation-orphan", "annotation 9: image_id 77", lambda s: orphan(s, 77)),
    ("annotation-orphan", "image_id '1', a string, but that image has", lambda s: orphan(s, "1")),
    ("annotation-orphan", "image_id None", lambda s: orphan(s, None)),
    ("label-unknown", "1 of a.jpg: category_id 0", lambda s: s.first.update(category_id=0)),
    ("label-unknown", "1 of a.jpg: category_id -1", lambda s: s.first.update(category_id=-1)),
    ("label-unknown", "1 of a.jpg: category_id 3", lambda s: s.first.update(category_id=3)),
    ("label-unknown", "1 of a.jpg: category_id '1'", lambda s: s.first.update(category_id="1")),
    ("label-unknown", "1 of a.jpg: category_id True", lambda s: s.first.update(category_id=True)),
    ("box-malformed", "a.jpg: bbox [1, 2, 3]", lambda s: s.first.update(bbox=[1, 2, 3])),
    ("box-malformed", "a.jpg: bbox None", lambda s: s.first.pop("bbox")),
    ("box-malformed", "bbox ['1', 2, 3, 4]", lambda s: s.first.update(bbox=["1", 2, 3, 4])),
    ("box-nan", "= nan, 8, nan, 24", lambda s: s.first.update(bbox=[math.nan, 8, 20, 16])),
    ("box-nan", "= 8, 8, inf, 24", lambda s: s.first.update(bbox=[8, 8, math.inf, 16])),
    (
        "box-relative",
        "= 0.5, 0.5, 0.75, 0.8",
        lambda s: s.train["annotations"][2].update(bbox=[0.5, 0.5, 0.25, 0.3]),
    ),
    (
        "box-order",
        "= 30, 20, 90, 60 in a photo of 64 x 48",
        lambda s: boxes(s, [30, 20, 60, 40], [2, 3, 20, 30], [5, 5, 9, 9], [40, 30, 50, 40]),
    ),
    ("box-inverted", "= 30, 8, 20, 24", lambda s: s.first.update(bbox=[30, 8, -10, 16])),
    ("box-empty", "= 8, 8, 8, 24", lambda s: s.first.update(bbox=[8, 8, 0, 16])),
    ("box-outside", "= 64, 8, 84, 24", lambda s: s.first.update(bbox=[64, 8, 20, 16])),
    ("box-outside", "= 8, -20, 28, -4", lambda s: s.first.update(bbox=[8, -20, 20, 16])),
    ("box-clipped", "= 50, 8, 70, 24", lambda s: s.first.update(bbox=[50, 8, 20, 16])),
    ("box-tiny", "= 8, 8, 9, 24", lambda s: s.first.update(bbox=[8, 8, 1, 16])),
    (
        "objects-many",
        "a.jpg: 10002 objects",
        lambda s: s.train["annotations"].extend(annotation(i, 1, 1) for i in range(9, 10_009)),
    ),
    ("polygon-malformed", "of 2 points", lambda s: s.first.update(segmentation=[[1, 1, 9, 9]])),
    ("polygon-malformed", "of 7 numbers", lambda s: s.first.update(segmentation=[[1.5] * 7])),
    ("polygon-malformed", "list of numbers, not 1", lambda s: s.first.update(segmentation=[1, 1])),
    ("polygon-malformed", "not str", lambda s: s.first.update(segmentation="none")),
    ("polygon-malformed", "NaN", lambda s: s.first.update(segmentation=[[math.nan] * 6])),
    ("polygon-malformed", "other things", lambda s: s.first.update(segmentation=[["1"] * 6])),
    (
        "rle-malformed",
        "run lengths of 9 pixels in all, in a mask of 3072",
        lambda s: s.first.update(segmentation={**SQUARE, "counts": [4, 5]}),
    ),
    ("rle-malformed", "size None", lambda s: s.first.update(segmentation={"counts": [4, 5]})),
    ("rle-malformed", "packed", lambda s: s.first.update(segmentation={**SQUARE, "counts": "p"})),
    ("rle-malformed", "with ' '", lambda s: s.first.update(segmentation={**SQUARE, "counts": " "})),
    (
        "mask-size",
        "annotation 1 of a.jpg: 2 x 3 in a photo of 64 x 48",
        lambda s: s.first.update(segmentation={"size": [3, 2], "counts": [6]}),
    ),
    ("mask-missing", "1 of a.jpg: no mask", lambda s: s.first.update(segmentation=[])),
    ("objects-none", "val: none of its 2 images", lambda s: s.val.update(annotations=[])),
    ("image-background", "b.jpg: no objects", lambda s: s.train["annotations"].pop(2)),
    (
        "class-absent",
        "fox: no objects in train, val",
        lambda s: both(s, {"id": 3, "name": "fox"}),
    ),
    (
        "class-untrained",
        "fox: 1 objects, none of them in train",
        lambda s: both(s, {"id": 3, "name": "fox"}).val["annotations"][0].update(category_id=3),
    ),
    (
        "class-spelling",
        "'cat' and 'Cat '",
        lambda s: both(s, {"id": 3, "name": "Cat "}).first.update(category_id=3),
    ),
    (
        "ids-gaps",
        "train.json: 3 ids in 1..90",
        lambda s: both(s, {"id": 90, "name": "fox"}).first.update(category_id=90),
    ),
    ("ids-strings", "train.json: 2 ids of categories", lambda s: as_strings(s.train)),
    (
        "split-overlap",
        "a.jpg: in train, val",
        lambda s: s.val["images"][0].update(file_name="train/a.jpg"),
    ),
    (
        "split-identical",
        "d.jpg (val) = b.jpg (train)",
        lambda s: s.files.update({"val/d.jpg": s.files["train/b.jpg"]}),
    ),
]


def orphan(spoilt: CocoSet, image: Any) -> None:
    spoilt.train["annotations"].append({**annotation(9, 1, 1), "image_id": image})


def both(spoilt: CocoSet, category: Entry) -> CocoSet:
    spoilt.train["categories"].append(category)
    spoilt.val["categories"].append(category)
    return spoilt


def as_strings(content: dict[str, Any]) -> None:
    for category in content["categories"]:
        category["id"] = str(category["id"])
    for one in content["annotations"]:
        one["category_id"] = str(one["category_id"])


# What a defect brings along, beside its own finding.
ALSO = {
    "file-unreadable": {"class-untrained"},
    "image-missing": set(),
    "image-ambiguous": set(),
    "image-id-repeated": {"image-background", "annotation-orphan"},
    "category-repeated": set(),
    "entry-malformed": {"annotation-orphan", "label-unknown", "classes-differ", "image-unlisted"},
    "images-none": {"image-unlisted"},
    "rle-malformed": {"mask-missing"},
    "polygon-malformed": {"mask-missing"},
    "split-overlap": {"image-unlisted"},
}


def test_a_sound_set_has_no_findings_and_is_read(tmp_path: Path) -> None:
    root = CocoSet().write(tmp_path)

    assert inspect_detection(root) == []
    assert len(read_detection(root, "train")) == 3


@pytest.mark.parametrize(("code", "text", "spoil"), SPOILT)
def test_each_defect_is_found_with_its_place(
    code: str, text: str, spoil: Callable[[CocoSet], Any], tmp_path: Path
) -> None:
    spoilt = CocoSet()
    spoil(spoilt)

    findings = {finding.code: finding for finding in inspect_detection(spoilt.write(tmp_path))}

    assert text in "\n".join(findings[code].examples)
    assert findings[code].level == KINDS[code].level
    assert findings[code].count >= 1
    assert set(findings) <= {code} | ALSO.get(code, set())


ONLY_DECODING_TELLS = {
    *("image-empty-file", "image-broken", "image-bomb", "image-size", "image-sideways"),
}


@pytest.mark.parametrize(("code", "text", "spoil"), SPOILT)
def test_reading_refuses_every_error_in_files_and_objects_and_nothing_else(
    code: str, text: str, spoil: Callable[[CocoSet], Any], tmp_path: Path
) -> None:
    spoilt = CocoSet()
    spoil(spoilt)
    root = spoilt.write(tmp_path)

    refused = []
    for split in ("train", "val"):
        try:
            read_detection(root, split)
        except ValueError as error:
            refused.append(str(error))

    if KINDS[code].level == "error" and code not in ONLY_DECODING_TELLS | {"classes-differ"}:
        assert "`wszoo check-data --task detect --data " in refused[0]
        assert "\n" not in refused[0]
    else:
        assert refused == []


def test_every_kind_of_defect_is_tried() -> None:
    elsewhere = {  # Pascal VOC, shards and archives
        *("archive-damaged", "annotation-missing", "image-relisted", "image-unlabelled"),
    }

    assert {code for code, _, _ in SPOILT} | elsewhere == set(KINDS)
    assert not elsewhere.intersection(code for code, _, _ in SPOILT)


def test_errors_stop_reading_unless_their_images_are_left_out(tmp_path: Path) -> None:
    spoilt = CocoSet()
    spoilt.first.update(bbox=[8, 8, 0, 16])
    root = spoilt.write(tmp_path)
    (finding,) = inspect_detection(root)

    with pytest.raises(ValueError, match=r"annotation 1 of a\.jpg: .*box without area; mend it"):
        read_detection(root, "train")
    images = read_detection(root, "train", quarantine=finding.images)

    assert finding.images == (str(root / "train/a.jpg"),)
    assert [Path(name).name for name in images.names] == ["b.jpg", "c.jpg"]


def test_warnings_do_not_stop_reading(tmp_path: Path) -> None:
    spoilt = CocoSet()
    spoilt.first.update(bbox=[50, 40, 20, 16])
    root = spoilt.write(tmp_path)

    images = read_detection(root, "train")

    assert images.target(0)["boxes"][0].tolist() == [50, 40, 64, 48]


def test_errors_come_first_and_examples_are_of_different_files(tmp_path: Path) -> None:
    spoilt = CocoSet()
    boxes(spoilt, [8, 8, 0, 9], [8, 8, 9, 0], [8, 8, 0, 0], [50, 8, 20, 16])

    first, second = inspect_detection(spoilt.write(tmp_path))

    assert (first.code, first.count, len(first.examples)) == ("box-empty", 3, 2)
    assert [Path(name).name for name in first.images] == ["a.jpg", "b.jpg"]
    assert second.code == "box-clipped"


def test_one_split_may_be_looked_at_alone(tmp_path: Path) -> None:
    spoilt = CocoSet()
    spoilt.first.update(bbox=[8, 8, 0, 16])
    root = spoilt.write(tmp_path)

    assert inspect_detection(root, "val") == []
    with pytest.raises(FileNotFoundError, match="has no split 'test'; its splits: train, val"):
        inspect_detection(root, "test")


def test_a_photo_annotated_upright_is_sound(tmp_path: Path) -> None:
    sound = CocoSet()
    sound.files["train/a.jpg"] = photo(1, (HEIGHT, WIDTH), orientation=6)

    root = sound.write(tmp_path)

    assert inspect_detection(root) == []
    assert read_detection(root, "train").image(0).size == (WIDTH, HEIGHT)


def test_boxes_are_held_against_the_photo_itself_where_its_size_is_not_told(
    tmp_path: Path,
) -> None:
    spoilt = CocoSet()
    for image in spoilt.train["images"]:
        del image["width"], image["height"]
    spoilt.first.update(bbox=[70, 8, 20, 16])
    root = spoilt.write(tmp_path)

    assert [finding.code for finding in inspect_detection(root)] == ["box-outside"]
    with pytest.raises(ValueError, match="x2, y2 = 70, 8, 90, 24 in a photo of 64 x 48"):
        read_detection(root, "train")


def test_rounding_beyond_the_edge_is_clipped_without_a_word(tmp_path: Path) -> None:
    sound = CocoSet()
    sound.first.update(bbox=[44.2, 8, 20, 16])
    root = sound.write(tmp_path)

    assert inspect_detection(root) == []
    assert read_detection(root, "train").target(0)["boxes"][0, 2] == WIDTH


def test_corner_boxes_with_an_odd_one_are_not_taken_for_another_order(tmp_path: Path) -> None:
    spoilt = CocoSet()
    boxes(spoilt, [40, 30, 24, 18], [2, 3, 20, 30], [5, 5, 9, 9], [50, 40, 20, 8])

    assert [finding.code for finding in inspect_detection(spoilt.write(tmp_path))] == [
        "box-clipped"
    ]


def test_a_damaged_archive_is_a_finding_and_refused(tmp_path: Path) -> None:
    root = CocoSet().write(tmp_path / "set")
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root, "set")
    archive.write_bytes(archive.read_bytes()[:-9000])

    codes = [finding.code for finding in inspect_detection(archive)]

    assert codes[0] == "archive-damaged"
    with pytest.raises(ValueError, match=r"set\.tar: .*archive that cannot be read; fetch it"):
        read_detection(archive, "train")


def test_photos_pass_through_the_progress_bar(tmp_path: Path) -> None:
    seen: list[Any] = []

    def progress(images: Any) -> Any:
        seen.extend(images)
        return iter(images)

    inspect_detection(CocoSet().write(tmp_path), progress=progress)

    assert len(seen) == 5
