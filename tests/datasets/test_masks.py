import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from wszoo.datasets.masks import MaskError, lay_on_photo, open_mask, read_header, turn

LABELS = np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", orientation: int = 1) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


def palette() -> Image.Image:
    image = Image.fromarray(LABELS).convert("P")
    image.putdata(LABELS.ravel().tolist())
    image.putpalette([200, 10, 30] * 256)
    return image


@pytest.mark.parametrize(
    "image",
    [Image.fromarray(LABELS), palette(), Image.fromarray(LABELS.astype(np.uint16))],
    ids=["grey", "palette", "16 bits"],
)
def test_labels_are_grey_values_or_indices_of_the_palette(image: Image.Image) -> None:
    assert (open_mask(encoded(image), "x.png") == LABELS).all()


def test_a_mask_of_one_bit_holds_0_and_1() -> None:
    image = Image.fromarray(LABELS > 1)

    assert open_mask(encoded(image), "x.png").tolist() == [[0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (encoded(Image.new("RGB", (4, 4))), "mask-channels", "x.png has the mode RGB, not one"),
        (encoded(Image.new("LA", (4, 4))), "mask-channels", "has the mode LA"),
        (encoded(Image.new("L", (4, 4)), "JPEG"), "mask-lossy", "x.png is a JPEG, which changes"),
        (
            encoded(Image.fromarray(np.full((2, 2), 300, dtype=np.uint16))),
            "mask-value",
            "x.png holds the value 300; labels are 0 to 254",
        ),
        (b"", "mask-broken", "cannot decode x.png: it is empty; replace"),
        (b"text", "mask-broken", "cannot decode x.png: it is no image of a known format"),
        (encoded(Image.new("L", (99, 99)))[:60], "mask-broken", "cannot decode x.png: "),
        (encoded(Image.new("1", (10_000, 10_000))), "mask-broken", "decompression bomb"),
    ],
)
def test_a_mask_that_cannot_be_trained_on_is_told_by_code_and_name(
    content: bytes, code: str, told: str
) -> None:
    with pytest.raises(MaskError) as caught:
        open_mask(content, "x.png")

    assert caught.value.code == code
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such mask: x\.png"):
        open_mask(tmp_path / "x.png", "x.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_as_pillow_turns_its_photo(orientation: int) -> None:
    photo = encoded(Image.fromarray(LABELS), orientation=orientation)
    with Image.open(io.BytesIO(photo)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    header = read_header(photo)

    assert (turn(LABELS, orientation) == upright).all()
    assert header.stored == (3, 2)
    assert header.upright == upright.shape[::-1]
    assert header.is_ambiguous == (orientation in (2, 3, 4))


def test_its_size_tells_whether_a_mask_was_drawn_on_the_stored_photo_or_the_upright_one() -> None:
    header = read_header(encoded(Image.new("RGB", (3, 2)), "JPEG", orientation=6))
    upright = turn(LABELS, 6)

    assert upright.shape == (3, 2)
    assert (lay_on_photo(LABELS, header, "x.png") == upright).all()
    assert (lay_on_photo(upright, header, "x.png") == upright).all()
    with pytest.raises(MaskError, match=r"x\.png has 9 x 9 pixels, its photo 2 x 3; resize"):
        lay_on_photo(np.zeros((9, 9), dtype=np.uint8), header, "x.png")


def test_an_animation_is_told_from_a_photo_with_a_preview() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    animation, photo = io.BytesIO(), io.BytesIO()
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    frames[0].save(photo, "MPO", save_all=True, append_images=frames[1:])

    assert read_header(animation.getvalue()).animated
    assert not read_header(photo.getvalue()).animated
