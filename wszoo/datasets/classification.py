"""Photos with one class each: class folders on disk, or the same layout inside tar archives."""

import io
import lzma
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
_DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),  # Pillow's readers of formats
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where warnings are errors
)
_ARCHIVE_ERRORS = (tarfile.TarError, OSError, EOFError, lzma.LZMAError, zlib.error)
_MEND = "replace or remove this file"
SPLITS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}


def open_image(source: Path | bytes, name: str | None = None) -> Image.Image:
    """Decode one photo to RGB, turned upright as its EXIF orientation says.

    Args:
        source: A path, or the encoded bytes.
        name: What errors call the photo; its path by default.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not an image, is cut short or is implausibly large.
    """
    name = name or str(source if isinstance(source, Path) else "image")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            most = Image.MAX_IMAGE_PIXELS
            if most and image.width * image.height > most:  # Pillow itself warns up to twice of it
                extent = f"{image.width} x {image.height}"
                raise ValueError(f"{extent} pixels, it could be a decompression bomb")
            return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise FileNotFoundError(f"no such image: {name}") from None
    except UnidentifiedImageError as error:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        reason = "it is no image of a known format" if size else "it is empty"
        raise ValueError(f"cannot decode {name}: {reason}; {_MEND}") from error
    except _DECODING_ERRORS as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ValueError(f"cannot decode {name}: {reason}; {_MEND}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which convert() would cut off at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    elif "transparency" in image.info:  # a palette with transparency goes to RGB through RGBA
        image = image.convert("RGBA")
    return image.convert("RGB")


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """A classification set, decoded on demand.

    Attributes:
        names: Path of each photo, or ``archive:member``.
        sources: Where its bytes are: a path, or the bytes themselves; those in shards are read when
            they are asked for.
        targets: Index of its class in ``classes``.
        classes: Folder names in sorted order.
    """

    names: Sequence[str]
    sources: Sequence[Path | bytes]
    targets: tuple[int, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Image.Image:
        """Photo ``index`` as upright RGB."""
        return open_image(self.sources[index], self.names[index])

    def select(self, indices: Iterable[int]) -> "LabelledImages":
        """These photos, in this order, with all classes."""
        rows = [*indices]
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            sources=tuple(self.sources[row] for row in rows),
            targets=tuple(self.targets[row] for row in rows),
        )

    def without(self, names: Collection[str]) -> "LabelledImages":
        """All but the photos of these names; how their paths are written makes no difference."""
        left_out = {os.path.abspath(name) for name in names}
        return self.select(
            row for row, name in enumerate(self.names) if os.path.abspath(name) not in left_out
        )

    def decode(self, size: int) -> np.ndarray:
        """All photos as one array ``(N, size, size, 3)`` of uint8.

        A photo of another size is resized by its short side and cropped at the centre.
        """
        pixels = np.empty((len(self), size, size, 3), dtype=np.uint8)

        def fill(index: int) -> None:
            image = self.image(index)
            if image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
            pixels[index] = np.asarray(image)

        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
            list(pool.map(fill, range(len(self)), chunksize=256))
        return pixels


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, folders as the photos anywhere under them, in sorted order.

    Raises:
        FileNotFoundError: One of the paths does not exist.
        ValueError: A folder holds no photo.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = _images_under(path)
            if not inside:
                raise ValueError(f"no images under {path}; known: {', '.join(IMAGE_SUFFIXES)}")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"no such image or folder: {path}")
    return found


def read_class_folders(
    path: Path | str, split: str | None = None, *, default: str | None = None
) -> LabelledImages:
    """Find the photos and classes under ``path``, which holds no shards.

    Args:
        path: A folder of class folders, a tar archive of class folders, or a folder that holds
            several splits: as sub-folders (``val/<class>/``) or as archives (``*-val*.tar.xz``).
            An archive may hold several splits too, as sub-folders.
        split: ``"train"``, ``"val"`` or ``"test"``; needed where ``path`` holds several.
        default: The split to take if ``path`` has it and none is named.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: No photos, one outside the class folders, a class without any, a damaged
            archive, or several splits and none named.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such folder or archive: {path}")
    if path.is_file():
        return _from_archives([path], split, default)
    folders = _split_folders(path)
    archives = _split_archives(path)
    chosen = _choose_split(path, {*folders, *archives}, split, default)
    if chosen is None:
        return _from_folder(path)
    if chosen in folders:
        return _from_folder(folders[chosen])
    return _from_archives(archives[chosen], None, chosen)


def _choose_split(
    path: Path, known: Collection[str], split: str | None, default: str | None
) -> str | None:
    """The split that is meant; None where ``path`` holds class folders and no splits."""
    listed = ", ".join(sorted(known))
    if split is not None:
        if not known:
            raise FileNotFoundError(
                f"{path} has no split {split!r}, it holds class folders; name no split to take all"
            )
        if split not in known:
            raise FileNotFoundError(f"{path} has no split {split!r}; its splits: {listed}")
        return split
    if default in known:
        return default
    if len(known) > 1:
        raise ValueError(f"{path} holds several splits ({listed}); name one, as with --split val")
    return next(iter(known), None)


def _split_folders(path: Path) -> dict[str, Path]:
    return {
        split: path / name
        for split, names in SPLITS.items()
        for name in names
        # Photos alone make it a class, such as the trains among the vehicles.
        if (path / name).is_dir() and any(child.is_dir() for child in (path / name).iterdir())
    }


def _split_archives(path: Path) -> dict[str, list[Path]]:
    archives = sorted(p for p in path.iterdir() if p.name.endswith(ARCHIVE_SUFFIXES))
    found: dict[str, list[Path]] = {}
    for split, names in SPLITS.items():
        matching = [a for a in archives if set(re.split(r"[-_.]", a.name)) & set(names)]
        if matching:
            found[split] = matching
    return found


def _is_image(path: Path | PurePosixPath) -> bool:
    """Whether a path is named like a photo; hidden files are not (macOS adds ``._x.jpg``)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _images_under(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if _is_image(path) and path.is_file())


def _from_folder(root: Path) -> LabelledImages:
    classes = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != "."))
    for path in sorted(root.iterdir()):
        if _is_image(path) and path.is_file():
            raise ValueError(f"{path} lies in no class folder; move it into one, or remove it")
    found = [
        (photo, target)
        for target, name in enumerate(classes)
        for photo in _images_under(root / name)
    ]
    if not found:
        raise ValueError(
            f"no images under {root}: expected {root}/<class>/<image>, with one folder per class"
        )
    if len(filled := {target for _, target in found}) < len(classes):
        empty = next(name for target, name in enumerate(classes) if target not in filled)
        raise ValueError(f"{root / empty} holds no images; put some in, or remove this folder")
    return LabelledImages(
        names=tuple(str(photo) for photo, _ in found),
        sources=tuple(photo for photo, _ in found),
        targets=tuple(target for _, target in found),
        classes=classes,
    )


@dataclass(frozen=True, kw_only=True)
class _Member:
    name: str
    split: str | None
    label: str
    data: bytes


def _from_archives(
    archives: Sequence[Path], split: str | None, default: str | None
) -> LabelledImages:
    members = [member for archive in archives for member in _members(archive)]
    if not members:
        raise ValueError(f"no images in {archives[0]}: expected <class>/<image> inside")
    known = {member.split for member in members if member.split is not None}
    chosen = _choose_split(archives[0], known, split, default)
    if chosen is not None:
        members = [member for member in members if member.split == chosen]
    classes = tuple(sorted({member.label for member in members}))
    index = {label: target for target, label in enumerate(classes)}
    return LabelledImages(
        names=tuple(member.name for member in members),
        sources=tuple(member.data for member in members),
        targets=tuple(index[member.label] for member in members),
        classes=classes,
    )


def _members(archive: Path) -> list[_Member]:
    if not archive.name.endswith(ARCHIVE_SUFFIXES):
        raise ValueError(f"{archive} is no folder and no archive ({', '.join(ARCHIVE_SUFFIXES)})")
    found = []
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:
                path = PurePosixPath(entry.name)
                if not (entry.isfile() and _is_image(path)):
                    continue
                data = tar.extractfile(entry)
                assert data is not None
                if len(path.parts) < 2:
                    raise ValueError(f"{archive}:{entry.name} lies in no class folder")
                above = path.parts[-3] if len(path.parts) > 2 else None
                split = next((s for s, names in SPLITS.items() if above in names), None)
                name = f"{archive}:{entry.name}"
                found.append(
                    _Member(name=name, split=split, label=path.parts[-2], data=data.read())
                )
            _require_end(tar)
    except _ARCHIVE_ERRORS as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise ValueError(f"cannot read {archive}: {reason}; fetch this archive again") from error
    return found


def _require_end(tar: tarfile.TarFile) -> None:
    """Refuse an archive that was not read to its end: tarfile takes a damaged header for it."""
    assert tar.fileobj is not None
    if any(block := tar.fileobj.read(tarfile.BLOCKSIZE)) or not block:
        raise tarfile.ReadError("it is damaged or cut short")
