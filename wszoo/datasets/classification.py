"""Photos with one class each: class folders on disk, or the same layout inside tar archives."""

import io
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
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
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"no such image: {name}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(source), "") if isinstance(source, Path) else error
        raise ValueError(
            f"cannot decode {name}: {reason}; replace or remove this file"
        ) from error


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """A classification set, decoded on demand.

    Attributes:
        names: Path of each photo, or ``archive:member``.
        sources: Where its bytes are: a path, or the bytes themselves.
        targets: Index of its class in ``classes``.
        classes: Folder names in sorted order.
    """

    names: tuple[str, ...]
    sources: tuple[Path | bytes, ...]
    targets: tuple[int, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Image.Image:
        """Photo ``index`` as upright RGB."""
        return open_image(self.sources[index], self.names[index])

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


def read_labelled_images(path: Path | str, split: str | None = None) -> LabelledImages:
    """Find the photos and classes under ``path``.

    Args:
        path: A folder of class folders, a tar archive of class folders, or a folder that holds
            several splits: as sub-folders (``val/<class>/``) or as archives (``*-val*.tar.xz``).
        split: ``"train"``, ``"val"`` or ``"test"``; needed where ``path`` holds several.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: No photos, or several splits and none named.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such folder or archive: {path}")
    if path.is_file():
        return _from_archives([path])
    folders = _split_folders(path)
    archives = _split_archives(path)
    if not folders and not archives:
        return _from_folder(path)
    if split is None:
        known = ", ".join(sorted({*folders, *archives}))
        raise ValueError(f"{path} holds several splits ({known}); name one, as with --split val")
    if split in folders:
        return _from_folder(folders[split])
    if split in archives:
        return _from_archives(archives[split])
    known = ", ".join(sorted({*folders, *archives}))
    raise FileNotFoundError(f"{path} has no split {split!r}; its splits: {known}")


def _split_folders(path: Path) -> dict[str, Path]:
    return {
        split: path / name
        for split, names in SPLITS.items()
        for name in names
        if (path / name).is_dir()
    }


def _split_archives(path: Path) -> dict[str, list[Path]]:
    archives = sorted(p for p in path.iterdir() if p.name.endswith(ARCHIVE_SUFFIXES))
    found: dict[str, list[Path]] = {}
    for split, names in SPLITS.items():
        matching = [a for a in archives if set(a.name.replace(".", "-").split("-")) & set(names)]
        if matching:
            found[split] = matching
    return found


def _from_folder(root: Path) -> LabelledImages:
    classes = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != "."))
    found = [
        (photo, target)
        for target, name in enumerate(classes)
        for photo in sorted((root / name).rglob("*"))
        if photo.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise ValueError(
            f"no images under {root}: expected {root}/<class>/<image>, with one folder per class"
        )
    return LabelledImages(
        names=tuple(str(photo) for photo, _ in found),
        sources=tuple(photo for photo, _ in found),
        targets=tuple(target for _, target in found),
        classes=classes,
    )


def _from_archives(archives: Sequence[Path]) -> LabelledImages:
    found: list[tuple[str, str, bytes]] = []
    for archive in archives:
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    parts = Path(member.name).parts
                    if member.isfile() and parts[-1].lower().endswith(IMAGE_SUFFIXES):
                        data = tar.extractfile(member)
                        assert data is not None
                        if len(parts) < 2:
                            raise ValueError(f"{archive}:{member.name} lies in no class folder")
                        found.append((parts[-2], f"{archive}:{member.name}", data.read()))
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"cannot read {archive}: {error}; fetch this archive again") from error
    if not found:
        raise ValueError(f"no images in {archives[0]}: expected <class>/<image> inside")
    classes = tuple(sorted({name for name, _, _ in found}))
    index = {name: target for target, name in enumerate(classes)}
    return LabelledImages(
        names=tuple(name for _, name, _ in found),
        sources=tuple(data for _, _, data in found),
        targets=tuple(index[name] for name, _, _ in found),
        classes=classes,
    )
