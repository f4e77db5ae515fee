import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wszoo.datasets import LabelledImages, find_images, open_image, read_labelled_images

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(
    colour: tuple[int, int, int] = RED, size: tuple[int, int] = (8, 6), kind: str = "PNG"
) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".tar": bytes,
        ".gz": gzip.compress,
        ".xz": lzma.compress,
        ".bz2": bz2.compress,
    }
    path.write_bytes(pack[path.suffix](buffer.getvalue()))
    return path


def labels(images: LabelledImages) -> dict[str, str]:
    """Class by file name."""
    return {
        name.replace(":", "/").rsplit("/", 1)[1]: images.classes[target]
        for name, target in zip(images.names, images.targets, strict=True)
    }


TWO_CLASSES = {"hat/1.png": encoded(RED), "dress/2.jpg": encoded(BLUE, kind="JPEG")}


def test_photos_in_class_folders_get_the_name_of_their_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, {**TWO_CLASSES, "hat/more/3.PNG": encoded(), "notes.txt": b"x"})

    images = read_labelled_images(tmp_path)

    assert images.classes == ("dress", "hat")
    assert labels(images) == {"1.png": "hat", "2.jpg": "dress", "3.PNG": "hat"}
    assert len(images) == 3
    assert images.image(images.targets.index(1)).getpixel((0, 0)) == RED


def test_a_class_folder_without_photos_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {**TWO_CLASSES, "coat/notes.txt": b"none yet"})

    with pytest.raises(ValueError, match="coat holds no images; put some in, or remove"):
        read_labelled_images(tmp_path)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_an_archive_is_read_like_a_folder(suffix: str, tmp_path: Path) -> None:
    files = {f"./things/{name}": data for name, data in TWO_CLASSES.items()}
    archive = write_archive(tmp_path / f"things.{suffix}", {**files, "things/LICENSE": b"CC0"})

    images = read_labelled_images(archive)

    assert images.classes == ("dress", "hat")
    assert labels(images) == {"1.png": "hat", "2.jpg": "dress"}
    assert images.image(0).size == (8, 6)


def test_hidden_files_are_no_photos(tmp_path: Path) -> None:
    files = {**TWO_CLASSES, "hat/._1.png": b"\x00\x05\x16\x07", ".cache/9.png": encoded()}
    archive = write_archive(tmp_path / "hidden.tar", {"hat/._1.png": b"\x00", **TWO_CLASSES})

    from_folder = read_labelled_images(write_folder(tmp_path / "folder", files))
    from_archive = read_labelled_images(archive)

    assert labels(from_folder) == labels(from_archive) == {"1.png": "hat", "2.jpg": "dress"}


@pytest.mark.parametrize(
    ("split", "folder"), [("train", "train"), ("val", "validation"), ("test", "test")]
)
def test_a_split_is_chosen_among_sub_folders(split: str, folder: str, tmp_path: Path) -> None:
    for number, name in enumerate(("train", "validation", "test")):
        write_folder(tmp_path / name, {f"hat/{number}-{name}.png": encoded()})

    images = read_labelled_images(tmp_path, split)

    assert [name.endswith(f"-{folder}.png") for name in images.names] == [True]


def test_a_split_is_chosen_among_archives_and_may_have_several(tmp_path: Path) -> None:
    write_archive(tmp_path / "set-train-0.tar", {"hat/1.png": encoded()})
    write_archive(tmp_path / "set-train-1.tar.xz", {"dress/2.png": encoded()})
    write_archive(tmp_path / "set-val.tar", {"hat/3.png": encoded()})
    write_archive(tmp_path / "set-meta.tar", {"boxes/4.png": encoded()})

    assert labels(read_labelled_images(tmp_path, "train")) == {"1.png": "hat", "2.png": "dress"}
    assert labels(read_labelled_images(tmp_path, "val")) == {"3.png": "hat"}


def test_a_split_is_chosen_inside_one_archive(tmp_path: Path) -> None:
    archive = write_archive(
        tmp_path / "set.tar",
        {"set/train/hat/1.png": encoded(), "set/validation/dress/2.png": encoded()},
    )

    assert labels(read_labelled_images(archive, "train")) == {"1.png": "hat"}
    assert labels(read_labelled_images(archive, "val")) == {"2.png": "dress"}
    assert labels(read_labelled_images(archive, default="val")) == {"2.png": "dress"}
    with pytest.raises(ValueError, match=r"several splits \(train, val\); name one"):
        read_labelled_images(archive)


def test_several_splits_need_a_choice_and_one_does_not(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", TWO_CLASSES)

    assert len(read_labelled_images(tmp_path)) == 2

    write_folder(tmp_path / "valid", TWO_CLASSES)
    with pytest.raises(ValueError, match=r"several splits \(train, val\); name one"):
        read_labelled_images(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no split 'test'; its splits: train, val"):
        read_labelled_images(tmp_path, "test")
    assert "valid" in read_labelled_images(tmp_path, default="val").names[0]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/1.png": encoded(), "bus/2.png": encoded()})

    assert read_labelled_images(tmp_path).classes == ("bus", "train")


def test_a_split_that_is_not_there_is_not_replaced_by_all_photos(tmp_path: Path) -> None:
    write_folder(tmp_path, TWO_CLASSES)

    with pytest.raises(FileNotFoundError, match="has no split 'val', it holds class folders"):
        read_labelled_images(tmp_path, "val")
    assert len(read_labelled_images(tmp_path, default="val")) == 2


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such folder or archive: .*nowhere"):
        read_labelled_images(tmp_path / "nowhere")


def test_a_folder_or_archive_without_images_says_what_is_expected(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", {"hat/notes.txt": b"x"})
    archive = write_archive(tmp_path / "a.tar", {"hat/notes.txt": b"x"})

    with pytest.raises(ValueError, match=r"no images under .*folder: expected .*<class>/<image>"):
        read_labelled_images(folder)
    with pytest.raises(ValueError, match=r"no images in .*a\.tar: expected <class>/<image>"):
        read_labelled_images(archive)


def test_an_image_in_no_class_folder_is_named(tmp_path: Path) -> None:
    files = {**TWO_CLASSES, "stray.png": encoded()}

    with pytest.raises(ValueError, match=r"stray\.png lies in no class folder"):
        read_labelled_images(write_archive(tmp_path / "a.tar", files))
    with pytest.raises(ValueError, match=r"stray\.png lies in no class folder"):
        read_labelled_images(write_folder(tmp_path / "folder", files))


def noise(size: tuple[int, int]) -> bytes:
    """A photo that does not compress, so that damage hits it."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "tar.bz2"])
@pytest.mark.parametrize("damage", ["cut short", "overwritten", "something else", "empty"])
def test_a_damaged_archive_is_named_in_one_line(damage: str, suffix: str, tmp_path: Path) -> None:
    files = {f"hat/{number}.png": noise((64, 64)) for number in range(3)}
    archive = write_archive(tmp_path / f"things.{suffix}", files)
    data = archive.read_bytes()
    middle = data.index(b"hat/1.png") if suffix == "tar" else len(data) // 2
    archive.write_bytes(
        {
            "cut short": data[: len(data) // 2],
            "overwritten": data[:middle] + b"\xff" * 64 + data[middle + 64 :],
            "something else": b"<!doctype html><html>not found</html>" * 40,
            "empty": b"",
        }[damage]
    )

    with pytest.raises(ValueError, match=rf"cannot read .*things\.{suffix}: \w.*; fetch") as raised:
        read_labelled_images(archive)

    assert "\n" not in str(raised.value)


def test_an_archive_that_ends_between_two_photos_is_not_taken_for_a_smaller_one(
    tmp_path: Path,
) -> None:
    archive = write_archive(tmp_path / "a.tar", {f"hat/{i}.png": noise((20, 20)) for i in range(3)})
    data = archive.read_bytes()
    archive.write_bytes(data[: data.index(b"hat/2.png")])

    with pytest.raises(ValueError, match=r"cannot read .*a\.tar: it is damaged or cut short"):
        read_labelled_images(archive)


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_a_grey_photo_becomes_rgb(tmp_path: Path) -> None:
    photo = open_image(saved(Image.new("L", (4, 3), 77), tmp_path / "grey.png"))

    assert (photo.mode, photo.size, photo.getpixel((0, 0))) == ("RGB", (4, 3), (77, 77, 77))


def test_a_cmyk_photo_becomes_rgb(tmp_path: Path) -> None:
    photo = open_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.jpg"))

    assert photo.mode == "RGB"
    assert np.abs(np.asarray(photo).astype(int) - RED).max() < 12


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_photo_of_16_bits_keeps_its_shades(suffix: str, tmp_path: Path) -> None:
    shades = np.array([[0, 0x2000], [0x8000, 0xFFFF]], dtype=np.uint16)

    photo = open_image(saved(Image.fromarray(shades), tmp_path / f"deep.{suffix}"))

    assert np.asarray(photo)[..., 0].tolist() == [[0, 0x20], [0x80, 0xFF]]


def test_a_palette_photo_becomes_rgb_even_with_transparency(tmp_path: Path) -> None:
    palette = Image.new("RGB", (4, 4), BLUE).quantize(4)

    plain = open_image(saved(palette, tmp_path / "plain.gif"))
    clear = open_image(saved(palette, tmp_path / "clear.png", transparency=b"\x80\xff"))

    assert (plain.mode, plain.getpixel((0, 0))) == ("RGB", BLUE)
    assert (clear.mode, clear.getpixel((0, 0))) == ("RGB", BLUE)


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (0, 0)), (3, (7, 5)), (6, (5, 0)), (8, (0, 7))]
)
def test_a_photo_is_turned_upright(
    orientation: int, corner: tuple[int, int], tmp_path: Path
) -> None:
    stored = Image.new("RGB", (8, 6), BLUE)
    stored.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = orientation

    photo = open_image(saved(stored, tmp_path / "turned.png", exif=exif))

    assert photo.size == ((8, 6) if orientation in (1, 3) else (6, 8))
    assert photo.getpixel(corner) == RED


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"<!doctype html><html></html>", "it is no image of a known format"),
        (noise((64, 64))[:2000], "truncated"),
        (noise((64, 64))[:40], r"\w"),
    ],
    ids=["zero bytes", "web page", "cut short", "header only"],
)
@pytest.mark.parametrize("in_memory", [False, True], ids=["file", "bytes"])
def test_a_file_that_is_no_whole_image_is_named_in_one_line(
    data: bytes, reason: str, in_memory: bool, tmp_path: Path
) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(data)

    with pytest.raises(
        ValueError, match=rf"cannot decode .*broken\.png: .*{reason}.*; replace or remove"
    ) as raised:
        open_image(data if in_memory else path, "a.tar:hat/broken.png" if in_memory else None)

    assert "\n" not in str(raised.value)
    assert " at 0x" not in str(raised.value)


def test_a_cut_jpeg_is_refused_and_not_filled_with_grey(tmp_path: Path) -> None:
    path = saved(Image.open(io.BytesIO(noise((64, 64)))), tmp_path / "cut.jpg", quality=95)
    path.write_bytes(path.read_bytes()[:-500])

    with pytest.raises(ValueError, match=r"cannot decode .*cut\.jpg: .*truncated"):
        open_image(path)


def test_a_photo_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such image: .*gone\.jpg"):
        open_image(tmp_path / "gone.jpg")


def test_a_broken_photo_inside_an_archive_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    files = {"hat/1.png": encoded(), "hat/2.png": encoded()[:30]}
    images = read_labelled_images(write_archive(tmp_path / "a.tar", files))

    with pytest.raises(ValueError, match=r"cannot decode .*a\.tar:hat/2\.png"):
        images.decode(8)


def test_decoding_gives_all_photos_in_their_order(tmp_path: Path) -> None:
    shades = list(range(0, 250, 10))
    files = {f"{s % 3}/{s:03}.png": encoded((s, s, s), (16 + s % 5, 16)) for s in shades}
    images = read_labelled_images(write_folder(tmp_path, files))

    pixels = images.decode(16)

    assert pixels.shape == (len(shades), 16, 16, 3)
    assert pixels.dtype == np.uint8
    names = [int(Path(name).stem) for name in images.names]
    assert pixels[:, 5, 5, 0].tolist() == names
    assert [images.classes[t] for t in images.targets] == [str(s % 3) for s in names]


def test_decoding_crops_the_middle_of_a_long_photo(tmp_path: Path) -> None:
    stripes = Image.new("RGB", (30, 10), RED)
    stripes.paste(BLUE, (10, 0, 20, 10))
    (tmp_path / "hat").mkdir()
    saved(stripes, tmp_path / "hat" / "wide.png")
    saved(stripes.resize((60, 20), Image.Resampling.NEAREST), tmp_path / "hat" / "wider.png")

    pixels = read_labelled_images(tmp_path).decode(10)

    assert (pixels[:, 2:-2, 2:-2] == BLUE).all()


def test_photos_can_be_left_out_by_name(tmp_path: Path) -> None:
    images = read_labelled_images(write_folder(tmp_path, {**TWO_CLASSES, "hat/3.png": encoded()}))

    left = images.without([os.path.relpath(images.names[0]), "elsewhere.png"])

    assert left.names == images.names[1:] and left.targets == (1, 1)
    assert left.classes == ("dress", "hat"), "classes stay, even without photos"
    assert left.image(0).getpixel((0, 0)) == RED
    assert len(images.without([])) == 3


def test_find_images_takes_files_as_they_are_and_folders_in_sorted_order(tmp_path: Path) -> None:
    write_folder(tmp_path, {"b/2.png": b"", "b/._2.png": b"", "a/1.jpg": b"", "odd.dat": b""})

    found = find_images([tmp_path / "odd.dat", tmp_path])

    assert [path.name for path in found] == ["odd.dat", "1.jpg", "2.png"]


def test_find_images_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such image or folder: .*gone"):
        find_images([tmp_path / "gone"])
    with pytest.raises(ValueError, match="no images under"):
        find_images([tmp_path])
