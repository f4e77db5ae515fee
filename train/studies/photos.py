"""The photos of the studies: a fixed subset of Tiny ImageNet at 32 pixels, kept in memory."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wszoo.datasets import LabelledImages, read_labelled_images

PIXELS, PAD = 32, 4
EVERY = 10  # of the sorted classes, the first in this many is taken
TRAIN, HELD_OUT = 400, 50  # photos per class of the training split; the rest of them are for tests
CHUNK = 1600  # photos made at a time, which is also one point of a loss curve
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Photos and their classes.

    Attributes:
        pixels: ``(N, 3, 32, 32)`` uint8.
        targets: ``(N,)`` int64.
    """

    pixels: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, kw_only=True)
class Subset:
    """The three parts, and in words what they are.

    Attributes:
        train: To learn from.
        held_out: To choose the learning rate on.
        test: To report.
        classes: Folder names.
        facts: Of the subset, as JSON takes them.
    """

    train: Photos
    held_out: Photos
    test: Photos
    classes: tuple[str, ...]
    facts: dict[str, Any]


def read_subset(
    data: Path,
    *,
    cache: Path | None = None,
    every: int = EVERY,
    train: int = TRAIN,
    held_out: int = HELD_OUT,
) -> Subset:
    """Decode the subset of a set of class folders with the splits train and val.

    Of the photos of a class in the training split, sorted by name, the first ``train`` are to
    learn from, the next ``held_out`` to choose rates on; the others and the whole of val are for
    tests.

    Args:
        data: What ``read_labelled_images`` takes.
        cache: Folder to keep the decoded arrays in, by the path of ``data``; without it, photos
            are decoded at every start.
        every: Of the sorted classes, the first in this many is taken.
        train: Photos per class.
        held_out: Photos per class.

    Raises:
        ValueError: A class has too few photos.
    """
    arrays = _kept(data, cache, every) if cache else _decode(data, every)
    parts = _split(arrays, train, held_out)
    photos = {
        part: Photos(
            pixels=torch.from_numpy(arrays["pixels"][chosen]),
            targets=torch.from_numpy(arrays["targets"][chosen]),
        )
        for part, chosen in parts.items()
    }
    classes = tuple(map(str, arrays["classes"]))
    facts = {
        "classes": classes,
        "pixels": PIXELS,
        "rule": f"classes 0, {every}, {2 * every} ... in sorted order; of the photos of a class in "
        f"train, sorted by name: {train} to learn from, {held_out} to choose rates on; the "
        f"others, and val, for tests",
        "photos": {part: len(chosen) for part, chosen in photos.items()},
        "sha256": {
            part: hashlib.sha256(chosen.pixels.numpy().tobytes()).hexdigest()[:16]
            for part, chosen in photos.items()
        },
    }
    return Subset(**photos, classes=classes, facts=facts)


def _kept(data: Path, cache: Path, every: int) -> dict[str, np.ndarray]:
    where = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]
    kept = cache / f"{where}-{every}-{PIXELS}.npz"
    if kept.exists():
        return dict(np.load(kept))
    arrays = _decode(data, every)
    cache.mkdir(parents=True, exist_ok=True)
    aside = kept.with_suffix(f".{os.getpid()}.npz")
    named: dict[str, Any] = arrays
    np.savez(aside, **named)
    aside.replace(kept)
    return arrays


def _split(arrays: dict[str, np.ndarray], train: int, held_out: int) -> dict[str, list[int]]:
    """Which photos belong to which part."""
    parts: dict[str, list[int]] = {"train": [], "held_out": [], "test": []}
    for target, name in enumerate(arrays["classes"]):
        own = np.flatnonzero((arrays["targets"] == target) & ~arrays["is_val"]).tolist()
        if len(own) < train + held_out:
            raise ValueError(f"class {name} has {len(own)} photos; {train + held_out} are needed")
        parts["train"] += own[:train]
        parts["held_out"] += own[train : train + held_out]
        parts["test"] += own[train + held_out :]
        of_val = (arrays["targets"] == target) & arrays["is_val"]
        parts["test"] += np.flatnonzero(of_val).tolist()
    return parts


def _decode(data: Path, every: int) -> dict[str, np.ndarray]:
    splits = [read_labelled_images(data, split) for split in ("train", "val")]
    classes = splits[0].classes[::every]
    chosen = [_of_classes(split, classes) for split in splits]
    pixels = np.concatenate([split.decode(PIXELS) for split in chosen])
    return {
        "pixels": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)),
        "targets": np.concatenate([split.targets for split in chosen]),
        "is_val": np.repeat([False, True], [len(split) for split in chosen]),
        "classes": np.array(classes),
    }


def _of_classes(images: LabelledImages, classes: Sequence[str]) -> LabelledImages:
    """The photos of some classes, by class and name."""
    place = {name: index for index, name in enumerate(classes)}
    named = [(images.classes[target], i) for i, target in enumerate(images.targets)]
    kept = sorted(
        (place[name], Path(images.names[i]).name, i) for name, i in named if name in place
    )
    return replace(
        images,
        names=tuple(images.names[i] for _, _, i in kept),
        sources=tuple(images.sources[i] for _, _, i in kept),
        targets=tuple(target for target, _, _ in kept),
        classes=tuple(classes),
    )


def normalized(pixels: Tensor) -> Tensor:
    """``(N, 3, H, W)`` uint8 as float32 of mean 0 and deviation 1."""
    mean, std = torch.tensor(_MEAN)[:, None, None], torch.tensor(_STD)[:, None, None]
    return (pixels.float() / 255 - mean) / std


def augmented_chunks(
    photos: Photos, samples: int, seed: int, chunk: int = CHUNK
) -> Iterator[tuple[Tensor, Tensor]]:
    """``chunk`` photos at a time, shifted and mirrored at random, each once before any again.

    Photos, order, shifts and flips depend on the seed alone, not on batch size or net.

    Yields:
        ``(chunk, 3, H, W)`` float32 in channels_last, and ``(chunk,)`` targets.

    Raises:
        ValueError: ``samples`` is no multiple of ``chunk``.
    """
    if samples % chunk:
        raise ValueError(f"{samples} samples are not whole chunks; take a multiple of {chunk}")
    random = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(samples // chunk):
        while len(order) < chunk:
            order = torch.cat([order, torch.randperm(len(photos), generator=random)])
        chosen, order = order[:chunk], order[chunk:]
        yield _shifted(normalized(photos.pixels[chosen]), random), photos.targets[chosen]


def _shifted(images: Tensor, random: torch.Generator) -> Tensor:
    """Crops at random places of the padded photos, half of them mirrored."""
    count, size = len(images), images.shape[-1]
    padded = F.pad(images, (PAD, PAD, PAD, PAD))
    top = torch.randint(2 * PAD + 1, (count, 1), generator=random)
    left = torch.randint(2 * PAD + 1, (count, 1), generator=random)
    mirrored = torch.randint(2, (count, 1), generator=random).bool()
    along = torch.arange(size)
    rows = top + along
    columns = left + torch.where(mirrored, along.flip(0), along)
    photo = torch.arange(count)[:, None, None]
    return padded[photo, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
