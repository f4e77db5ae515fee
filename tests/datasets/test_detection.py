import importlib
import io
import json
import os
import pickle
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wszoo.datasets.check_detection import inspect_detection
from wszoo.datasets.detection import DetectionImages, read_detection
from wszoo.datasets.instance_masks import decode_mask, parse_segmentation

WIDTH, HEIGHT = 32, 24
SQUARE = [[4, 6, 14, 6, 14, 12, 4, 12]]


def photo(grey: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, grey).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_shard(path: Path, files: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def sample(key: str, labels: list[Any], **more: Any) -> dict[str, bytes]:
    """A photo and its json, with one box per label."""
    boxes = [[4, 6, 14 + index, 12] for index in range(len(labels))]
    content = {"boxes": boxes, "labels": labels, **more}
    return {f"{key}.png": photo(int(key) % 250), f"{key}.json": json.dumps(content).encode()}


@pytest.fixture
def images(tmp_path: Path) -> DetectionImages:
    """Three photos of 2, 0 and 1 objects with masks; the second object is a crowd."""
    crowd = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    crowd[3:9, 5:20] = 1
    masks = [SQUARE, {"size": [HEIGHT, WIDTH], "counts": run_lengths(crowd)}]
    files = {
        **sample("1", ["cat", "dog"], iscrowd=[0, 1], segmentations=masks, area=[60, 90]),
        **sample("2", []),
        **sample("3", ["dog"], segmentations=[SQUARE]),
    }
    return read_detection(write(tmp_path, files))


def run_lengths(mask: np.ndarray) -> list[int]:
    """Column by column, outside first."""
    flat = mask.T.ravel().astype(bool)
    edges = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
    return [end - start for start, end in zip([0, *edges], [*edges, flat.size], strict=True)]


def test_targets_are_what_detectors_take(images: DetectionImages) -> None:
    target = images.target(0)

    assert {key: (tuple(value.shape), value.dtype) for key, value in target.items()} == {
        "boxes": ((2, 4), torch.float32),
        "labels": ((2,), torch.int64),
        "iscrowd": ((2,), torch.int64),
        "area": ((2,), torch.float32),
        "masks": ((2, HEIGHT, WIDTH), torch.bool),
    }
    assert target["boxes"].tolist() == [[4, 6, 14, 12], [4, 6, 15, 12]]
    assert target["area"].tolist() == [60, 90]
    assert target["masks"].sum(dim=(1, 2)).tolist() == [60, 90]
    assert target["masks"][0, 6:12, 4:14].all() and target["masks"][1, 3:9, 5:20].all()


def test_targets_of_photos_without_objects_are_empty(images: DetectionImages) -> None:
    shapes = {key: tuple(value.shape) for key, value in images.target(1).items()}

    assert shapes["boxes"] == (0, 4) and shapes["masks"] == (0, HEIGHT, WIDTH)
    assert images.target(1)["labels"].dtype == torch.int64


def test_crowds_are_left_out_for_training(images: DetectionImages) -> None:
    target = images.target(0, crowd=False)

    assert target["labels"].tolist() == [1]
    assert {len(value) for value in target.values()} == {1}
    assert target["masks"].sum() == 60


def test_writing_into_a_target_does_not_change_the_set(images: DetectionImages) -> None:
    images.target(0)["boxes"].zero_()

    assert images.target(0)["boxes"][0].tolist() == [4, 6, 14, 12]


def test_photos_are_decoded_to_rgb(images: DetectionImages) -> None:
    assert (images.image(2).mode, images.image(2).getpixel((0, 0))) == ("RGB", (3, 3, 3))


def test_photos_can_be_chosen_and_left_out(images: DetectionImages) -> None:
    chosen = images.select([2, 0])
    left = images.without([os.path.relpath(images.names[0]), "elsewhere.png"])

    assert chosen.names == (images.names[2], images.names[0])
    assert chosen.image(0).getpixel((0, 0)) == (3, 3, 3)
    assert len(chosen.target(1)["boxes"]) == 2
    assert left.names == images.names[1:]
    assert left.classes == chosen.classes == images.classes and left.has_masks


def test_a_set_survives_pickling(images: DetectionImages) -> None:
    copy = pickle.loads(pickle.dumps(images))

    assert copy.target(0)["masks"].equal(images.target(0)["masks"])


def test_a_set_has_masks_if_every_object_has_one(tmp_path: Path) -> None:
    files = {**sample("1", ["cat"], segmentations=[SQUARE]), **sample("2", ["cat"])}

    partly = read_detection(write(tmp_path, files))

    assert not partly.has_masks
    assert "masks" not in partly.target(0)


def test_labels_of_shards_may_be_numbers_with_names_in_a_file(tmp_path: Path) -> None:
    files = {**sample("1", [2, 1]), **sample("2", [3])}

    named = write(tmp_path / "named", {**files, "classes.txt": b"cat\ndog\nfox\ncow\n"})
    plain = write(tmp_path / "plain", files)

    assert read_detection(named).classes == ("cat", "dog", "fox", "cow")
    assert read_detection(plain).classes == ("1", "2", "3")
    assert read_detection(plain, classes=["a", "b", "c"]).target(0)["labels"].tolist() == [2, 1]


def test_shards_in_a_folder_are_read_by_split(tmp_path: Path) -> None:
    write_shard(tmp_path / "set-train-000000.tar", sample("1", ["cat"]))
    write_shard(tmp_path / "set-train-000001.tar", {**sample("1", ["dog"]), **sample("2", [])})
    write_shard(tmp_path / "set-val-000000.tar", sample("9", ["cat"]))

    train, val = read_detection(tmp_path, "train"), read_detection(tmp_path, default="val")

    assert train.names[1] == f"{tmp_path}/set-train-000001.tar:1.png"
    assert [len(objects) for objects in train.objects] == [1, 1, 0]
    assert val.classes == train.classes == ("cat", "dog")
    assert len(val) == 1


@pytest.mark.parametrize(
    ("code", "text", "change"),
    [
        ("label-unknown", "object 1: label 0, of 2 classes", {"labels": [0]}),
        ("label-unknown", "object 1: label -1, of 2 classes", {"labels": [-1]}),
        ("label-unknown", "object 1: label 3, of 2 classes", {"labels": [3]}),
        ("label-unknown", "object 1: label 'cow', of 2 classes", {"labels": ["cow"]}),
        ("label-unknown", "object 1: label True, of 2 classes", {"labels": [True]}),
        ("entry-malformed", "1 boxes, but labels: 2", {"labels": [1, 2]}),
        ("entry-malformed", "1 boxes, but iscrowd: 0", {"iscrowd": 0}),
        ("entry-malformed", "lacks a list of boxes", {"boxes": None}),
        ("box-malformed", "object 1: [1, 2]", {"boxes": [[1, 2]]}),
        ("box-relative", "= 0, 0.1, 0.5, 1", {"boxes": [[0, 0.1, 0.5, 1]]}),
        ("box-outside", "= 40, 2, 50, 9", {"boxes": [[40, 2, 50, 9]]}),
        ("polygon-malformed", "object 1: a polygon of 1 p", {"segmentations": [[[1, 2]]]}),
        (
            "image-size",
            "32 x 24, annotated as 9 x 9",
            {"width": 9, "height": 9, "boxes": [[1, 1, 5, 5]]},
        ),
    ],
)
def test_each_defect_of_a_sample_is_found(
    code: str, text: str, change: dict[str, Any], tmp_path: Path
) -> None:
    spoilt = sample("1", [1])
    content = {**json.loads(spoilt["1.json"]), **change}
    files = {
        **spoilt,
        "1.json": json.dumps(content).encode(),
        **sample("2", [1, 2]),
        "classes.txt": b"cat\ndog\n",
    }
    root = write(tmp_path, files)

    findings = {finding.code: finding for finding in inspect_detection(root)}

    assert text in findings[code].examples[0]
    assert findings[code].images == (f"{root}/1.png",)
    assert len(read_detection(root, quarantine=findings[code].images)) == 1


def test_a_sample_that_is_no_json_is_named_with_line_and_column(tmp_path: Path) -> None:
    files = {**sample("1", ["cat"]), **sample("2", ["cat"]), "2.json": b'{"boxes":\n [}'}

    with pytest.raises(ValueError, match=r"2\.json:2:3: Expecting value: annotation file that"):
        read_detection(write(tmp_path, files))


def test_a_sample_without_json_is_left_out_with_a_warning(tmp_path: Path) -> None:
    root = write(tmp_path, {**sample("1", ["cat"]), "2.png": photo(2)})

    (finding,) = inspect_detection(root)

    assert (finding.code, finding.level) == ("image-unlabelled", "warning")
    assert len(read_detection(root)) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.png": photo()}, "no annotations of boxes in .*: expected COCO json"),
        ({"1.png": photo(), "1.json": b'{"shapes": []}'}, "no annotations of boxes in"),
        ({}, "no annotations of boxes in"),
    ],
)
def test_a_folder_without_annotations_is_refused(
    files: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    for read in (read_detection, inspect_detection):
        with pytest.raises(ValueError, match=message):
            read(write(tmp_path, files))


def test_a_path_that_is_no_set_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.json": b"{}"})

    with pytest.raises(FileNotFoundError, match="no such folder or archive: .*none"):
        read_detection(tmp_path / "none")
    with pytest.raises(ValueError, match=r"a\.json is no folder and no archive \(\.tar, "):
        read_detection(tmp_path / "a.json")


def test_a_set_of_which_all_is_left_out_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, sample("1", ["cat"]))

    with pytest.raises(ValueError, match="all 1 images are quarantined"):
        read_detection(root, quarantine=[f"{root}/1.png"])


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", sample("1", ["cat"]))
    root = tmp_path / "set"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(root)

    assert read_detection(root).names == (f"{root}/linked/1.png",)


def test_polygons_are_drawn_and_runs_unpacked_as_cocos_tools_do() -> None:
    coco_masks = importlib.import_module("faster_coco_eval.core.mask")
    random = np.random.default_rng(0)
    for _ in range(20):
        points = (random.uniform(-3, 35, size=(2, 10)) * 100).round() / 100
        parts = coco_masks.frPyObjects(points.tolist(), HEIGHT, WIDTH)
        packed = coco_masks.merge(parts)
        expected = coco_masks.decode(packed).astype(bool)
        text = packed["counts"] if isinstance(packed["counts"], str) else packed["counts"].decode()
        size = [HEIGHT, WIDTH]

        for written in (
            points.tolist(),
            {"size": size, "counts": text},
            {"size": size, "counts": run_lengths(expected)},
        ):
            segmentation = parse_segmentation(written)
            assert segmentation is not None
            np.testing.assert_array_equal(decode_mask(segmentation, WIDTH, HEIGHT), expected)


def test_polygons_without_their_package_name_it(
    images: DetectionImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core.mask", None)

    with pytest.raises(ImportError, match=r"faster-coco-eval; pip install 'wszoo\[train\]'"):
        images.target(0)
