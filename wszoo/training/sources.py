"""Opens the photos that a recipe asks for: which to train on, which to choose by, read how."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wszoo.datasets import open_shards, read_labelled_images, store_images
from wszoo.datasets.fetching import Patience
from wszoo.training.classify import Source
from wszoo.training.distributed import Ranks
from wszoo.training.file_source import FileSource, Labelled
from wszoo.training.memory_source import MemorySource
from wszoo.training.readers import READ_TIMEOUT
from wszoo.training.recipe import Recipe
from wszoo.training.runlog import RunLog

Labels = Sequence[int] | np.ndarray


def open_source(
    data: str, recipe: Recipe, cache: Path, ranks: Ranks, *, workers: int, log: RunLog
) -> Source:
    """The photos of ``recipe``: in memory if it stores them, else read by workers.

    Args:
        data: A folder or archive as ``read_labelled_images`` takes it, or the folder or URL of
            splits written by ``wszoo shards make``.
        recipe: Says which photos are kept to choose by, and whether the set is stored.
        cache: Folder for decoded or downloaded photos.
        ranks: Rank 0 decodes, the others wait for it.
        workers: Processes that read files, of this rank.
        log: Where photos that cannot be read are told.
    """
    per_class = recipe.held_out_per_class
    if recipe.stored_pixels is None:
        images = open_images(data, "train", cache)
        others = images if per_class else open_images(data, "val", cache)
        train, held = _divide(images.targets, others.targets, per_class)
        return FileSource(
            images, train, (others, held), recipe, ranks.device, workers=workers, log=log
        )
    folders = (Path(data), Path(data) / "train")
    if "://" in data or any((folder / "manifest.json").exists() for folder in folders):
        raise ValueError(f"{data} holds shards; a recipe that stores decoded photos takes folders")
    if recipe.color_jitter is not None:
        raise ValueError("a recipe that stores decoded photos takes no color_jitter; leave it out")
    if not ranks.is_main:
        ranks.wait()
    stored = store_images(Path(data), "train", recipe.stored_pixels, cache)
    kept = stored if per_class else store_images(Path(data), "val", recipe.stored_pixels, cache)
    if ranks.is_main:
        ranks.wait()
    train, held = _divide(stored.targets.tolist(), kept.targets.tolist(), per_class)
    return MemorySource(stored, train, (kept, held), recipe, ranks.device)


def open_images(data: str, split: str, cache: Path) -> Labelled:
    """A split of a folder, of archives, or of shards."""
    if "://" in data:
        # A reader that takes longer would be given up without naming the shard.
        patience = Patience(limit=0.8 * READ_TIMEOUT)
        return open_shards(f"{data.rstrip('/')}/{split}", cache=cache, patience=patience)
    path = Path(data)
    for folder in (path / split, path):
        if (folder / "manifest.json").exists():
            return open_shards(folder)
    return read_labelled_images(path, split)


def _divide(
    targets: Labels,
    held_targets: Labels,
    per_class: int,
) -> tuple[np.ndarray, np.ndarray]:
    if per_class:
        return held_out_split(targets, per_class)
    return np.arange(len(targets)), np.arange(len(held_targets))


def held_out_split(targets: Labels, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on, and those kept to choose by: the last few photos of each class."""
    labels = np.asarray(targets)
    kept = [np.flatnonzero(labels == target)[-per_class:] for target in range(labels.max() + 1)]
    held = np.concatenate(kept)
    return np.setdiff1d(np.arange(len(labels)), held), held
