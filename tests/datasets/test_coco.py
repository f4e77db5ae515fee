import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wszoo.datasets.check_detection import inspect_detection
from wszoo.datasets.detection import DetectionImages, read_detection

ANIMALS = ((7, "cat"), (3, "dog"), (90, "fox"))


def photo(grey: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (32, 24), grey).save(buffer, "PNG")
    return buffer.getvalue()


def coco(
    names: Sequence[str],
    categories: Sequence[tuple[Any, str]] = ANIMALS,
    of: Sequence[tuple[int, Any]] = (),
    **more: Any,
) -> bytes:
    """An annotation file with photos 1, 2 ... and a box for each (image, category) in ``of``."""
    content = {
        "images": [
            {"id": number, "file_name": name, "width": 32, "height": 24}
            for number, name in enumerate(names, start=1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": [2, 3, 10, 8],
                **more,
            }
            for number, (image, category) in enumerate(of, start=1)
        ],
        "categories": [{"id": key, "name": name} for key, name in categories],
    }
    return json.dumps(content).encode()


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def found(images: DetectionImages) -> dict[str, list[str]]:
    """Names of the objects by file name."""
    return {
        name.replace(":", "/").rsplit("/", 1)[1]: [images.classes[k - 1] for k in objects.labels]
        for name, objects in zip(images.names, images.objects, strict=True)
    }


ONE_PHOTO = {"1.png": photo()}


def test_category_ids_with_gaps_become_labels_in_their_order(tmp_path: Path) -> None:
    files = {"all.json": coco(["1.png"], of=[(1, 90), (1, 3), (1, 7)]), **ONE_PHOTO}

    images = read_detection(write(tmp_path, files))

    assert images.classes == ("dog", "cat", "fox")
    assert images.class_ids == (3, 7, 90)
    assert images.target(0)["labels"].tolist() == [3, 1, 2]
    assert found(images) == {"1.png": ["fox", "dog", "cat"]}


def test_ids_may_be_strings_and_start_at_zero(tmp_path: Path) -> None:
    strings = coco(["1.png"], [("b", "cat"), ("a", "dog")], [(1, "b")])
    zero = coco(["1.png"], [(0, "cat"), (1, "dog")], [(1, 0), (1, 1.0)])

    named = read_detection(write(tmp_path / "strings", {"all.json": strings, **ONE_PHOTO}))
    counted = read_detection(write(tmp_path / "zero", {"all.json": zero, **ONE_PHOTO}))

    assert (named.classes, named.class_ids) == (("dog", "cat"), ("a", "b"))
    assert named.target(0)["labels"].tolist() == [2]
    assert counted.target(0)["labels"].tolist() == [1, 2]


def test_boxes_become_corners_and_areas_are_those_told(tmp_path: Path) -> None:
    told = coco(["1.png"], of=[(1, 3)], area=17.5)
    untold = coco(["1.png"], of=[(1, 3)])

    first = read_detection(write(tmp_path / "1", {"all.json": told, **ONE_PHOTO})).target(0)
    second = read_detection(write(tmp_path / "2", {"all.json": untold, **ONE_PHOTO})).target(0)

    assert first["boxes"].tolist() == second["boxes"].tolist() == [[2, 3, 12, 11]]
    assert (first["area"].item(), second["area"].item()) == (17.5, 80)


def test_crowds_are_kept_and_marked(tmp_path: Path) -> None:
    files = {"all.json": coco(["1.png"], of=[(1, 3)], iscrowd=1), **ONE_PHOTO}

    images = read_detection(write(tmp_path, files))

    assert images.target(0)["iscrowd"].tolist() == [1]
    assert len(images.target(0, crowd=False)["boxes"]) == 0


def test_images_without_objects_are_kept(tmp_path: Path) -> None:
    files = {"all.json": coco(["1.png", "2.png"], of=[(1, 3)]), **ONE_PHOTO, "2.png": photo(9)}

    images = read_detection(write(tmp_path, files))

    assert found(images) == {"1.png": ["dog"], "2.png": []}
    assert images.target(1)["boxes"].shape == (0, 4)


LAYOUTS = {
    "coco": ("annotations/instances_{}2017.json", "{}2017/{}.png", "{}.png"),
    "roboflow": ("{}/_annotations.coco.json", "{}/{}.png", "{}.png"),
    "images": ("annotations/{}.json", "images/{}/{}.png", "{}.png"),
    "file names with folders": ("{}.json", "photos/{}/{}.png", "photos/train/{}.png"),
    "paths of another machine": ("{}.json", "{}/{}.png", "/home/me/{}.png"),
    "paths of Windows": ("{}.json", "{}/{}.png", "C:\\me\\{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("archived", [False, True])
def test_photos_are_found_in_every_layout(layout: str, archived: bool, tmp_path: Path) -> None:
    annotations, place, file_name = LAYOUTS[layout]
    root = write(
        tmp_path / "set",
        {
            annotations.format("train"): coco([file_name.format("1")], of=[(1, 3)]),
            annotations.format("val"): coco(
                [file_name.replace("train", "val").format("2")], of=[(1, 7)]
            ),
            place.format("train", "1"): photo(1),
            place.format("val", "2"): photo(2),
            place.format("val", "1"): photo(3),  # never meant by train
        },
    )
    if archived:
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            tar.add(root, "./set")
        root = tmp_path / "set.tar"

    train, val = read_detection(root, "train"), read_detection(root, "val")

    assert (found(train), found(val)) == ({"1.png": ["dog"]}, {"2.png": ["cat"]})
    assert train.image(0).getpixel((0, 0)) == (1, 1, 1)
    with pytest.raises(ValueError, match=r"several splits \(train, val\); name one"):
        read_detection(root)


def test_a_photo_of_another_split_does_not_stand_in_for_a_missing_one(tmp_path: Path) -> None:
    files = {"annotations/train.json": coco(["1.png"], of=[(1, 3)]), "val/1.png": photo()}

    with pytest.raises(ValueError, match=r"1\.png: no such photo, .*train\.json lists it: missing"):
        read_detection(write(tmp_path, files))


def test_file_names_do_not_lead_out_of_the_set(tmp_path: Path) -> None:
    write(tmp_path, {"secret.png": photo()})
    files = {"all.json": coco(["../secret.png", "/etc/passwd"]), "x.png": photo()}

    (finding,) = (
        finding
        for finding in inspect_detection(write(tmp_path / "set", files))
        if finding.code == "image-missing"
    )

    assert finding.count == 2


def test_captions_and_keypoints_beside_instances_are_left_alone(tmp_path: Path) -> None:
    files = {
        "annotations/instances_val2017.json": coco(["1.png"], of=[(1, 3)]),
        "annotations/captions_val2017.json": b'{"images": [], "annotations": []}',
        "annotations/person_keypoints_val2017.json": coco(["1.png"], [(1, "person")]),
        "val2017/1.png": photo(),
    }
    root = write(tmp_path, files)

    assert read_detection(root).classes == ("dog", "cat", "fox")
    assert "file-ambiguous" not in {finding.code for finding in inspect_detection(root)}


def test_json_files_of_other_content_are_left_alone(tmp_path: Path) -> None:
    files = {"all.json": coco(["1.png"]), "info.json": b'{"by": "me"}', **ONE_PHOTO}

    assert len(read_detection(write(tmp_path, files))) == 1


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    files = {"all.json": b"\xef\xbb\xbf" + coco(["1.png"]), **ONE_PHOTO}

    assert len(read_detection(write(tmp_path, files))) == 1


def test_labels_follow_the_classes_that_are_asked_for(tmp_path: Path) -> None:
    files = {"all.json": coco(["1.png"], of=[(1, 7)]), **ONE_PHOTO}
    root = write(tmp_path, files)

    images = read_detection(root, classes=["cow", "cat"])

    assert (images.classes, images.class_ids) == (("cow", "cat"), ("cow", 7))
    assert images.target(0)["labels"].tolist() == [2]
    with pytest.raises(ValueError, match=r"category_id 7 \(cat\): label that is no class"):
        read_detection(root, classes=["dog", "fox"])


def test_splits_with_the_same_categories_in_other_order_agree(tmp_path: Path) -> None:
    other = [(2, "dog"), (1, "fox"), (5, "cat")]
    files = {
        "train.json": coco(["1.png"], of=[(1, 3), (1, 7), (1, 90)]),
        "val.json": coco(["2.png"], other, [(1, 5)]),
        "1.png": photo(1),
        "2.png": photo(2),
    }

    findings = inspect_detection(write(tmp_path, files))

    assert {finding.code for finding in findings} == {"ids-gaps"}
