import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wszoo.datasets.quarantine import read_quarantine, write_quarantine
from wszoo.datasets.segmentation import SegmentationImages, read_segmentation


def photo(number: int = 0, size: tuple[int, int] = (6, 4), orientation: int = 1) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (number, 90, 200)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def mask(*values: int, size: tuple[int, int] = (6, 4)) -> bytes:
    """Columns of these values, from left to right."""
    columns = np.resize(np.array(values, dtype=np.uint8), size[0])
    buffer = io.BytesIO()
    Image.fromarray(np.tile(columns, (size[1], 1))).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def contents(images: SegmentationImages) -> dict[str, tuple[int, list[int]]]:
    """Red of each photo, which JPEG changes a little, and values of its mask, by file name."""
    found = {}
    for index, name in enumerate(images.names):
        pixel = images.image(index).getpixel((0, 0))
        assert isinstance(pixel, tuple)
        key = name.replace(":", "/").rpartition("/")[2]
        found[key] = (round(pixel[0], -1), np.unique(images.mask(index)).tolist())
    return found


LAYOUTS = {
    "camvid": ("{split}/{name}.jpg", "{split}annot/{name}.png"),
    "splits inside": ("images/{split}/{name}.jpg", "masks/{split}/{name}.png"),
    "annotations": ("set/images/{split}/{name}.jpg", "set/annotations/{split}/{name}.png"),
    "splits outside": ("{split}/images/{name}.jpg", "{split}/labels/{name}.png"),
    "an ending": ("images/{split}/{name}.jpg", "masks/{split}/{name}_mask.png"),
    "sub-folders": ("{split}/images/town/{name}.jpg", "{split}/masks/town/{name}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_photos_meet_their_masks_in_every_usual_layout(
    kind: str, layout: str, tmp_path: Path
) -> None:
    image, label = LAYOUTS[layout]
    files = {}
    for number, (split, name) in enumerate([("train", "a"), ("train", "b"), ("val", "c")]):
        files[image.format(split=split, name=name)] = photo(100 * number)
        files[label.format(split=split, name=name)] = mask(number, 3)
    write = write_folder if kind == "folder" else write_archive
    path = write(tmp_path / "set.tar", {**files, "readme.txt": b"x"})

    train, val = read_segmentation(path, "train"), read_segmentation(path, "val")

    assert contents(train) == {"a.jpg": (0, [0, 3]), "b.jpg": (100, [1, 3])}
    assert contents(val) == {"c.jpg": (200, [2, 3])}
    assert train.classes == val.classes == ("0", "1", "2", "3")
    with pytest.raises(ValueError, match=r"several splits \(train, val\); name one"):
        read_segmentation(path)


def test_voc_is_read_by_its_lists(tmp_path: Path) -> None:
    files = {f"VOC2012/JPEGImages/{name}.jpg": photo() for name in "abcd"}
    files |= {f"VOC2012/SegmentationClass/{name}.png": mask(0, 1, 255) for name in "abc"}
    files |= {f"VOC2012/SegmentationObject/{name}.png": mask(9) for name in "abc"}
    lists = "VOC2012/ImageSets/Segmentation"
    files |= {
        f"{lists}/train.txt": b"a\nb\n",
        f"{lists}/val.txt": b"c\n",
        f"{lists}/trainval.txt": b"a",
    }
    path = write_folder(tmp_path, files)

    train = read_segmentation(path, "train")

    assert [Path(name).name for name in train.names] == ["a.jpg", "b.jpg"]
    assert train.classes == ("0", "1")
    assert np.unique(train.mask(0)).tolist() == [0, 1, 255]
    assert len(read_segmentation(path, "val")) == 1


def test_archives_with_splits_in_their_names_are_splits(tmp_path: Path) -> None:
    write_archive(tmp_path / "set-train.tar", {"images/a.jpg": photo(), "masks/a.png": mask(0, 1)})
    write_archive(tmp_path / "set-val.tar", {"images/b.jpg": photo(), "masks/b.png": mask(0, 1)})

    images = read_segmentation(tmp_path, default="val")

    assert images.names == (f"{tmp_path / 'set-val.tar'}:images/b.jpg",)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Three photos without splits, of the values 0 to 2 and 11."""
    files = {f"images/{name}.jpg": photo() for name in "abc"}
    files |= {"masks/a.png": mask(0, 1), "masks/b.png": mask(1, 2), "masks/c.png": mask(2, 11)}
    return write_folder(tmp_path, files)


def test_ignored_values_leave_no_class_behind(plain: Path) -> None:
    names = ["sky", "road", "tree"]

    at_the_end = read_segmentation(plain, classes=names, ignore={11})
    at_the_start = read_segmentation(plain, classes=names, ignore={0, 11})

    assert at_the_end.classes == ("sky", "road", "tree")
    assert np.unique(at_the_end.mask(2)).tolist() == [2, 255]
    assert at_the_start.classes == ("road", "tree")
    assert at_the_start.values == (1, 2)
    assert np.unique(at_the_start.mask(0)).tolist() == [0, 255]
    assert np.unique(at_the_start.mask(1)).tolist() == [0, 1]


def test_the_name_of_an_ignored_value_is_left_out(plain: Path) -> None:
    names = [f"class {value}" for value in range(12)]

    images = read_segmentation(plain, classes=names, ignore={11})

    assert images.classes == tuple(names[:11])


def test_names_come_from_the_set_unless_they_are_given(plain: Path) -> None:
    (plain / "classes.txt").write_text("sky\nroad\ntree")

    assert read_segmentation(plain, ignore={11}).classes == ("sky", "road", "tree")
    assert read_segmentation(plain, classes=["a", "b", "c"], ignore={11}).classes == ("a", "b", "c")


def test_a_value_beyond_the_classes_is_told_with_its_file(plain: Path) -> None:
    images = read_segmentation(plain, classes=["sky", "road", "tree"])

    with pytest.raises(ValueError, match=r"c\.png holds the value 11, which is no class of 3"):
        images.mask(2)


def test_a_mask_of_another_size_is_told_with_both(plain: Path) -> None:
    (plain / "masks" / "b.png").write_bytes(mask(0, 1, size=(3, 2)))

    with pytest.raises(ValueError, match=r"b\.png has 3 x 2 pixels, its photo 6 x 4"):
        read_segmentation(plain).mask(1)


def test_masks_lie_on_the_upright_photo(tmp_path: Path) -> None:
    files = {f"images/{name}.jpg": photo(orientation=6) for name in ("stored", "upright")}
    files["masks/stored.png"] = mask(0, 1, 1, 1, 1, 1)
    files["masks/upright.png"] = mask(0, 1, 1, 1, size=(4, 6))
    images = read_segmentation(write_folder(tmp_path, files))

    stored, upright = images.mask(0), images.mask(1)

    assert images.image(0).size == (4, 6)
    assert stored.shape == upright.shape == (6, 4)
    assert (stored[0] == 0).all() and (stored[1:] == 1).all(), "its left column is the upper row"
    assert (upright[:, 0] == 0).all() and (upright[:, 1:] == 1).all()
    assert stored.flags.c_contiguous


def test_a_broken_photo_is_named_by_its_mask_too(plain: Path) -> None:
    (plain / "images" / "a.jpg").write_bytes(b"text")

    with pytest.raises(ValueError, match=r"cannot decode .*a\.jpg: it is no image"):
        read_segmentation(plain).mask(0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("images/a.jpg", r"the mask .*masks/a\.png has no image in .*; see `wszoo check-data"),
        ("masks/a.png", r"images/a\.jpg has no mask; see `wszoo check-data --task segment`"),
    ],
)
def test_half_a_pair_is_refused_unless_it_is_quarantined(
    change: str, told: str, plain: Path, tmp_path: Path
) -> None:
    (plain / change).unlink()
    left = plain / ("masks/a.png" if change.startswith("images") else "images/a.jpg")

    with pytest.raises(ValueError, match=told):
        read_segmentation(plain)
    write_quarantine(tmp_path / "list.tsv", {str(left): "half"})
    images = read_segmentation(plain, quarantine=read_quarantine(tmp_path / "list.tsv"))
    assert [Path(name).name for name in images.names] == ["b.jpg", "c.jpg"]


def test_quarantined_masks_name_no_classes(plain: Path) -> None:
    images = read_segmentation(plain, quarantine=[str(plain / "images" / "c.jpg")])

    assert images.classes == ("0", "1", "2")


def test_two_photos_of_one_name_are_refused(plain: Path) -> None:
    (plain / "images" / "a.png").write_bytes(photo())

    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png belong to one name; rename one"):
        read_segmentation(plain)
    assert len(read_segmentation(plain, quarantine=[str(plain / "images" / "a.png")])) == 3


def test_a_listed_name_without_files_is_told(tmp_path: Path) -> None:
    files = {"JPEGImages/a.jpg": photo(), "SegmentationClass/a.png": mask(0, 1)}
    files["ImageSets/Segmentation/train.txt"] = b"a\ngone\n"

    with pytest.raises(ValueError, match=r"'gone', which is listed, has no image"):
        read_segmentation(write_folder(tmp_path, files))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"classes": ["a", "a"]}, "name 'a' twice"),
        ({"classes": ["a"]}, "only the class 'a' besides what is ignored"),
        ({"classes": ["a", "b"], "ignore": [0, 1]}, "no class besides what is ignored"),
        ({"classes": [str(value) for value in range(256)]}, "256 classes; at most 255 fit"),
        ({"ignore": [300]}, "ignore holds 300; values of masks are 0 to 255"),
    ],
)
def test_classes_that_cannot_be_are_refused(
    arguments: Mapping[str, list[str]], told: str, plain: Path
) -> None:
    with pytest.raises(ValueError, match=told):
        read_segmentation(plain, **arguments)  # type: ignore[arg-type]


def test_what_is_no_segmentation_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such folder or archive: .*gone"):
        read_segmentation(tmp_path / "gone")
    write_folder(tmp_path / "photos", {"hat/a.jpg": photo()})
    with pytest.raises(ValueError, match=r"photos holds no images in a known layout: images/ and"):
        read_segmentation(tmp_path / "photos")
    write_folder(tmp_path / "lone", {"images/a.jpg": photo()})
    with pytest.raises(ValueError, match="lone holds no masks in a known layout"):
        read_segmentation(tmp_path / "lone")


def test_some_photos_keep_all_classes(plain: Path) -> None:
    images = read_segmentation(plain, ignore={11})

    some = images.select([2, 0])
    rest = images.without([images.names[1]])

    assert [Path(name).name for name in some.names] == ["c.jpg", "a.jpg"]
    assert np.unique(some.mask(0)).tolist() == [2, 255]
    assert some.classes == images.classes
    assert rest.names == (images.names[0], images.names[2])
    assert len(images.without(images.names)) == 0


def test_a_set_can_be_made_without_files() -> None:
    images = SegmentationImages(
        names=("a",), sources=(photo(),), mask_sources=(mask(0, 7, 255),), classes=("x", "y")
    )

    with pytest.raises(ValueError, match="the mask of a holds the value 7"):
        images.mask(0)
    sound = SegmentationImages(
        names=("a",), sources=(photo(),), mask_sources=(mask(0, 1, 255),), classes=("x", "y")
    )
    assert np.unique(sound.mask(0)).tolist() == [0, 1, 255]
