import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from wszoo.datasets.check_detection import inspect_detection
from wszoo.datasets.detection import read_detection

SIZE = (64, 48)
Edges = tuple[object, object, object, object]


def photo(grey: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", SIZE, grey).save(buffer, "PNG")
    return buffer.getvalue()


def thing(name: str = "cell", edges: Edges = (4, 5, 24, 35), difficult: int = 0) -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, edges, strict=True))
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{box}</bndbox></object>"
    )


def xml(things: Sequence[str] = (), file_name: str = "", size: tuple[int, int] = SIZE) -> bytes:
    extent = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return (
        f"<annotation>\n<filename>{file_name}</filename>{extent}{''.join(things)}</annotation>"
    ).encode()


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def voc(changed: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """A sound set but for what is changed: two photos in train, one in val, one in no list."""
    things = {"1": [thing("cell"), thing("apple")], "2": [], "3": [thing("cell")], "4": []}
    return {
        **{f"JPEGImages/{key}.png": photo(10 * int(key)) for key in things},
        **{f"Annotations/{key}.xml": xml(value) for key, value in things.items()},
        "ImageSets/Main/train.txt": b"1\n2\n",
        "ImageSets/Main/val.txt": b"3\n",
        "ImageSets/Main/trainval.txt": b"1\n2\n3\n",
        **(changed or {}),
    }


def codes(root: Path) -> dict[str, str]:
    """The first example of each finding."""
    return {finding.code: finding.examples[0] for finding in inspect_detection(root)}


@pytest.mark.parametrize("archived", [False, True])
def test_splits_and_boxes_are_read(archived: bool, tmp_path: Path) -> None:
    root = write(tmp_path / "set", voc())
    if archived:
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            tar.add(root, "VOCdevkit/VOC2007")
        root = tmp_path / "set.tar"

    train, val = read_detection(root, "train"), read_detection(root, "val")

    assert [Path(name).name for name in train.names] == ["1.png", "2.png"]
    assert [len(objects) for objects in train.objects] == [2, 0]
    assert train.target(0)["boxes"][0].tolist() == [4, 5, 24, 35]
    assert train.target(0)["area"].tolist() == [600, 600]
    assert len(val) == 1


def test_classes_are_those_of_all_splits(tmp_path: Path) -> None:
    root = write(tmp_path, voc())

    val = read_detection(root, "val")

    assert val.classes == val.class_ids == ("apple", "cell")
    assert val.target(0)["labels"].tolist() == [2]


def test_a_sound_set_has_no_findings_but_its_background(tmp_path: Path) -> None:
    assert set(codes(write(tmp_path, voc()))) == {"image-background"}


def test_difficult_objects_are_kept_and_ignored(tmp_path: Path) -> None:
    files = voc({"Annotations/1.xml": xml([thing(), thing(difficult=1)])})

    target = read_detection(write(tmp_path, files), "train").target(0)

    assert target["iscrowd"].tolist() == [0, 1]


def test_the_two_kinds_of_empty_boxes_are_named(tmp_path: Path) -> None:
    files = voc(
        {
            "Annotations/1.xml": xml([thing(), thing("RBC", (18, 32, 18, 32))]),
            "Annotations/3.xml": xml([thing("RBC", (18, 32, 18, 40)), *[thing()] * 9]),
        }
    )
    root = write(tmp_path, files)

    finding = inspect_detection(root)[0]

    assert (finding.code, finding.count) == ("box-empty", 2)
    assert finding.examples[0].endswith(
        "Annotations/1.xml: object 2 (RBC): x1, y1, x2, y2 = 18, 32, 18, 32 in a photo of 64 x 48"
    )
    assert len(read_detection(root, "train", quarantine=finding.images)) == 1


@pytest.mark.parametrize(
    ("code", "text", "data"),
    [
        ("file-unreadable", "1.xml:2:6: mismatched tag", b"<annotation>\n<a></annotation>"),
        ("file-unreadable", "1.xml:1:1: no element found", b""),
        ("file-unreadable", "its root is <svg>", b"<svg/>"),
        ("file-unreadable", "unknown encoding", b'<?xml version="1.0" encoding="x"?><a/>'),
        (
            "box-malformed",
            "object 1 (cell): xmin 'a', ymin '5'",
            xml([thing(edges=("a", 5, 6, 7))]),
        ),
        ("box-malformed", "xmax None", xml(["<object><name>cell</name></object>"])),
        ("box-nan", "= nan, 5, 24, 35", xml([thing(edges=("nan", 5, 24, 35))])),
        (
            "box-inverted",
            "= 24, 5, 4, 35",
            xml([thing(), thing(edges=(24, 5, 4, 35))] + [thing()] * 3),
        ),
        ("box-order", "= 30, 20, 20, 10", xml([thing(edges=(30, 20, 20, 10))] * 3)),
        ("label-unknown", "object 1: it has no <name>", xml([thing("")])),
        ("image-size", "64 x 48, annotated as 48 x 64", xml([thing()], size=(48, 64))),
    ],
)
def test_each_defect_of_an_xml_file_is_found(
    code: str, text: str, data: bytes, tmp_path: Path
) -> None:
    root = write(tmp_path, voc({"Annotations/1.xml": data}))

    findings = {finding.code: finding for finding in inspect_detection(root)}

    assert text in findings[code].examples[0]
    assert findings[code].images == (str(root / "JPEGImages/1.png"),)
    assert len(read_detection(root, "train", quarantine=findings[code].images)) == 1


def test_lists_that_name_what_is_not_there_are_found(tmp_path: Path) -> None:
    files = voc()
    files["ImageSets/Main/val.txt"] = b"3\n5\n6\n3\n"
    files["JPEGImages/5.png"] = photo(200)
    files["Annotations/6.xml"] = xml(file_name="elsewhere.png")

    findings = codes(write(tmp_path, files))

    assert "5.xml: no such file, " in findings["annotation-missing"]
    assert "elsewhere.png: no such photo, " in findings["image-missing"]
    assert findings["image-relisted"].endswith("val.txt:4: 3 is listed before")


def test_a_photo_in_two_lists_is_found(tmp_path: Path) -> None:
    files = voc()
    files["ImageSets/Main/val.txt"] = b"3\n1\n"

    assert "1.png: in train, val" in codes(write(tmp_path, files))["split-overlap"]


def test_a_list_without_photos_is_found_and_refused(tmp_path: Path) -> None:
    files = voc()
    files["ImageSets/Main/val.txt"] = b"\n"
    root = write(tmp_path, files)

    assert "val has no images" in codes(root)["images-none"]
    with pytest.raises(ValueError, match="val has no images: split without images; fill it"):
        read_detection(root, "val")


def test_lines_of_lists_may_carry_flags_and_names_spaces(tmp_path: Path) -> None:
    files = voc()
    files["ImageSets/Main/val.txt"] = b"\xef\xbb\xbf3 -1\nmy cells\n"
    files |= {"JPEGImages/my cells.png": photo(200), "Annotations/my cells.xml": xml([thing()])}

    images = read_detection(write(tmp_path, files), "val")

    assert [Path(name).name for name in images.names] == ["3.png", "my cells.png"]


def test_without_lists_xml_files_may_lie_beside_the_photos(tmp_path: Path) -> None:
    files = {
        **{"train/train_1.png": photo(1), "train/train_1.xml": xml([thing()])},
        **{"valid/train_2.png": photo(2), "valid/train_2.xml": xml([thing()])},
    }
    root = write(tmp_path, files)

    assert [Path(name).name for name in read_detection(root, "train").names] == ["train_1.png"]
    assert [Path(name).name for name in read_detection(root, "val").names] == ["train_2.png"]
    assert codes(root) == {}


def test_without_lists_all_xml_files_are_one_set(tmp_path: Path) -> None:
    files = {
        "annotations/1.xml": xml([thing()], file_name="photo of 1.png"),
        "images/photo of 1.png": photo(),
    }

    images = read_detection(write(tmp_path, files))

    assert [Path(name).name for name in images.names] == ["photo of 1.png"]


def test_photos_without_xml_file_are_left_out_with_a_warning(tmp_path: Path) -> None:
    files = {"1.png": photo(1), "1.xml": xml([thing()]), "2.png": photo(2)}
    root = write(tmp_path, files)

    assert len(read_detection(root)) == 1
    assert "2.png: no xml file is for it" in codes(root)["image-unlabelled"]


def test_sizes_that_are_not_told_are_measured(tmp_path: Path) -> None:
    files = {"1.png": photo(), "1.xml": xml([thing(edges=(4, 5, 65, 35))], size=(0, 0))}

    images = read_detection(write(tmp_path, files))

    assert images.objects[0].size == SIZE
    assert images.target(0)["boxes"][0].tolist() == [4, 5, 64, 35]


def test_a_photo_whose_size_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    files = {"1.png": b"text", "1.xml": xml([thing()], size=(0, 0))}

    with pytest.raises(ValueError, match=r"1\.png: it is no image of a known format: image that"):
        read_detection(write(tmp_path, files))


def test_labels_follow_the_classes_that_are_asked_for(tmp_path: Path) -> None:
    root = write(tmp_path, voc())

    images = read_detection(root, "val", classes=["leaf", "apple", "cell"])

    assert images.target(0)["labels"].tolist() == [3]
    with pytest.raises(ValueError, match=r"object 2 \(apple\): the class 'apple': label that is"):
        read_detection(root, "train", classes=["cell"])
