"""A whole set decoded once into an array on disk, for sets that fit into memory."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wszoo.datasets.classification import LabelledImages, read_class_folders


@dataclass(frozen=True, kw_only=True)
class StoredImages:
    """Decoded photos of one size.

    Attributes:
        pixels: ``(N, size, size, 3)`` uint8, mapped from disk.
        targets: ``(N,)`` int64.
        classes: Names of the class folders.
        names: Of the photos.
    """

    pixels: Tensor
    targets: Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)


def store_images(data: Path, split: str, size: int, cache: Path) -> StoredImages:
    """Decode a split into ``cache``, or find it there from before.

    Args:
        data: What ``read_class_folders`` takes.
        split: Which split of it.
        size: Pixels of a side; a photo of another size is cropped at the centre and resized.
        cache: Folder for the arrays. A set whose files changed is decoded anew.
    """
    base = cache / f"{_fingerprint(data)}-{split}-{size}"
    array, labels = base.with_suffix(".npy"), base.with_suffix(".json")
    if not labels.exists():  # written last
        cache.mkdir(parents=True, exist_ok=True)
        images = read_class_folders(data, split)
        np.save(array, images.decode(size))
        labels.write_text(_listing(images))
    meta = json.loads(labels.read_text())
    return StoredImages(
        # Copy on write, for torch warns of arrays that cannot be written to.
        pixels=torch.from_numpy(np.load(array, mmap_mode="c")),
        targets=torch.tensor(meta["targets"]),
        classes=tuple(meta["classes"]),
        names=tuple(meta["names"]),
    )


def _listing(images: LabelledImages) -> str:
    facts = {"classes": images.classes, "targets": images.targets, "names": images.names}
    return json.dumps(facts)


def _fingerprint(data: Path) -> str:
    """Changes with the path and with the names, sizes and times of what lies directly in it."""
    entries = sorted(data.iterdir()) if data.is_dir() else [data]
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in entries]
    return hashlib.sha256(repr((str(data.resolve()), facts)).encode()).hexdigest()[:12]
