"""Masks of one label per pixel, and how they lie on photos that a camera stored turned."""

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

IGNORED = 255  # never a class
_ONE_LABEL = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")  # modes of Pillow
_DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),  # Pillow's readers of formats
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where warnings are errors
)


class MaskError(ValueError):
    """A mask that cannot be trained on; ``code`` is the finding that it belongs to."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class PhotoHeader:
    """What a photo tells before it is decoded.

    Attributes:
        stored: Width and height as stored, in pixels.
        orientation: EXIF's, from 1 (upright) to 8; from 5 on, width and height change places.
        animated: Whether it has several frames.
    """

    stored: tuple[int, int]
    orientation: int
    animated: bool

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height once turned upright."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored

    @property
    def is_ambiguous(self) -> bool:
        """Whether a mask does not tell by its size if it belongs to the photo as stored."""
        return self.orientation > 1 and self.stored == self.upright


def read_header(source: Path | bytes) -> PhotoHeader:
    """The header of a photo that is known to decode."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return PhotoHeader(
            stored=image.size,
            orientation=orientation if orientation in range(1, 9) else 1,
            # The second picture in an MPO, which many phones write, is a preview or a depth map.
            animated=image.format != "MPO" and getattr(image, "is_animated", False),
        )


def open_mask(source: Path | bytes, name: str) -> np.ndarray:
    """Decode a mask; of a palette image, the indices are the labels.

    Returns:
        ``(H, W)`` uint8, as stored.

    Raises:
        FileNotFoundError: There is no such file.
        MaskError: It cannot be decoded, is a JPEG, has several channels or labels above 255.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            most = Image.MAX_IMAGE_PIXELS
            if most and image.width * image.height > most:  # Pillow itself warns up to twice of it
                extent = f"{image.width} x {image.height}"
                raise ValueError(f"{extent} pixels, it could be a decompression bomb")
            _require_labels(image, name)
            labels = np.asarray(image)
    except MaskError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(f"no such mask: {name}") from None
    except UnidentifiedImageError as error:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        reason = "it is no image of a known format" if size else "it is empty"
        raise _broken(name, reason) from error
    except _DECODING_ERRORS as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise _broken(name, reason) from error
    if labels.max() > IGNORED or labels.min() < 0:
        worst = labels.max() if labels.max() > IGNORED else labels.min()
        raise MaskError(
            "mask-value", f"{name} holds the value {worst}; labels are 0 to 254, and 255 is ignored"
        )
    return labels.astype(np.uint8)


def _require_labels(image: Image.Image, name: str) -> None:
    if image.format in ("JPEG", "MPO"):
        raise MaskError(
            "mask-lossy", f"{name} is a JPEG, which changes labels; make the masks again, as PNG"
        )
    if image.mode not in _ONE_LABEL:
        raise MaskError(
            "mask-channels",
            f"{name} has the mode {image.mode}, not one label per pixel; turn each colour into the "
            f"number of its class and save a grey or palette PNG",
        )


def _broken(name: str, reason: str) -> MaskError:
    return MaskError("mask-broken", f"cannot decode {name}: {reason}; replace or remove this file")


def lay_on_photo(labels: np.ndarray, header: PhotoHeader, name: str) -> np.ndarray:
    """Turn a mask as its photo is turned, if it was drawn on the photo as stored.

    Its size decides; where that fits both, the mask is taken as drawn on the upright photo.

    Args:
        labels: ``(H, W)``.
        header: Of the photo.
        name: Of the mask.

    Returns:
        ``(H, W)`` of the upright photo.

    Raises:
        MaskError: The mask is of another size than the photo.
    """
    size = labels.shape[::-1]
    if size == header.upright:
        return labels
    if size == header.stored:
        return turn(labels, header.orientation)
    raise MaskError(
        "mask-size",
        f"{name} has {size[0]} x {size[1]} pixels, its photo {header.upright[0]} x "
        f"{header.upright[1]}; resize the mask (nearest neighbour), or make it again",
    )


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array ``(H, W)`` upright, as EXIF's ``orientation`` says."""
    if orientation >= 5:
        pixels = pixels.T
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
