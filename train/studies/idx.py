"""Images and labels of IDX files, the format of MNIST and of Fashion-MNIST.

Source: http://yann.lecun.com/exdb/mnist/ (the four files, and the layout of their bytes)
"""

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_UNSIGNED_BYTES = 8  # the third byte of the magic; the fourth is the number of dimensions
_MOST = 1 << 30  # bytes: MNIST has 47 million
CLASSES, PIXELS = 10, 28
TRAIN, TEST = "train", "t10k"


class Images(NamedTuple):
    """Photos of one part of a data set.

    Attributes:
        pixels: ``(N, 28, 28)``, from 0 to 255.
        labels: ``(N,)``, from 0 to 9.
    """

    pixels: Tensor
    labels: Tensor

    def facts(self) -> dict[str, Any]:
        """How many there are, and a digest of them."""
        digest = hashlib.sha256(self.pixels.numpy().tobytes())
        digest.update(self.labels.to(torch.uint8).numpy().tobytes())
        return {"images": len(self.labels), "sha256": digest.hexdigest()[:16]}


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The unsigned bytes of one IDX file, gzipped or plain, in the shape that it declares.

    Raises:
        ValueError: The file is of another format, or damaged.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            wanted = bytes([0, 0, _UNSIGNED_BYTES, dimensions])
            if head != wanted:
                raise ValueError(
                    f"{path} begins with {head.hex() or 'nothing'}, where an IDX file of bytes in "
                    f"{dimensions} dimensions begins with {wanted.hex()}"
                )
            sizes = file.read(4 * dimensions)
            shape = [int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4)]
            count = torch.Size(shape).numel()
            if len(sizes) < 4 * dimensions or not 0 < count <= _MOST:
                raise ValueError(
                    f"{path} declares the shape {shape}; expected {dimensions} sizes, of 1 to "
                    f"{_MOST} bytes in all"
                )
            data = file.read(count + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from error
    if len(data) != count:
        has = "more" if len(data) > count else str(len(data))
        raise ValueError(f"{path} has {has} bytes where its shape {shape} takes {count}")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(shape)


def read_images(folder: Path, part: str) -> Images:
    """One part, ``"train"`` or ``"t10k"``, of the data set in ``folder``.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is damaged, or images and labels do not fit this study.
    """
    photos, names = _find(folder, f"{part}-images-idx3-ubyte"), f"{part}-labels-idx1-ubyte"
    pixels, labels = read_idx(photos, 3), read_idx(_find(folder, names), 1)
    if pixels.shape[1:] != (PIXELS, PIXELS):
        size = " x ".join(str(side) for side in pixels.shape[1:])
        raise ValueError(f"{photos} has images of {size} pixels; expected {PIXELS} x {PIXELS}")
    if len(pixels) != len(labels):
        raise ValueError(f"{photos} has {len(pixels)} images, and {names} {len(labels)} labels")
    if (highest := int(labels.max())) >= CLASSES:
        raise ValueError(f"{names} has label {highest}; expected 0 to {CLASSES - 1}")
    return Images(pixels, labels.long())


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return path
    raise FileNotFoundError(f"no {name}.gz nor {name} in {folder}; give the folder of the files")
