"""Photos for a classifier from files or shards, read and augmented by worker processes."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wszoo.datasets import ShardedImages
from wszoo.datasets.labelled import LabelledShards
from wszoo.training.classify import UNREADABLE, Loaded, Photos, Request, digest_of
from wszoo.training.readers import READ_TIMEOUT, Unreadable, end_workers, ignore_signals
from wszoo.training.recipe import Recipe
from wszoo.training.runlog import RunLog
from wszoo.training.sampler import Purpose, epoch_order, sample_generator
from wszoo.training.transforms import EvalTransform, TrainTransform


class Labelled(Protocol):
    """Photos with one class each, read one by one: ``LabelledImages`` or ``ShardedImages``."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def targets(self) -> "Sequence[int] | np.ndarray": ...

    @property
    def names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """Photo ``index`` as upright RGB."""


class _Key(NamedTuple):
    """What a worker makes one array of; ``epoch`` is -1 for evaluation."""

    epoch: int
    photo: int
    size: int


class _Made(NamedTuple):
    pixels: np.ndarray
    target: int
    problem: tuple[str, str] | None  # name of a photo and what is wrong with it
    lost: str | None = None  # why no photo can be read any more


class _Reader(Dataset[_Made]):
    """Runs in worker processes: a key to pixels, as a pure function of seed and key."""

    def __init__(self, images: Labelled, chosen: np.ndarray, recipe: Recipe) -> None:
        self._images, self._chosen, self._recipe = images, np.sort(chosen), recipe

    def __getitem__(self, key: _Key) -> _Made:
        try:
            return self._to_evaluate(key) if key.epoch < 0 else self._to_train(key)
        except (ConnectionError, TimeoutError) as error:  # a loader would add its own words to it
            return _Made(_blank(key), UNREADABLE, None, str(error))

    def _to_train(self, key: _Key) -> _Made:
        recipe = self._recipe
        train = TrainTransform(
            key.size,
            scale=recipe.crop_scale,
            color_jitter=recipe.color_jitter,
            auto_augment=recipe.auto_augment,
        )
        generator = sample_generator(recipe.seed, key.epoch, key.photo, Purpose.AUGMENT)
        problem = None
        place = int(np.searchsorted(self._chosen, key.photo))
        for index in np.roll(self._chosen, -place).tolist():
            try:
                pixels = train(self._images.image(index), generator)
                return _Made(pixels, int(self._images.targets[index]), problem)
            except (ValueError, FileNotFoundError) as error:
                problem = problem or (self._images.names[index], str(error))
        raise ValueError(f"no photo can be read; the first: {problem}")

    def _to_evaluate(self, key: _Key) -> _Made:
        evaluate = EvalTransform(key.size, self._recipe.test_crop, "bicubic")
        try:
            pixels = evaluate(self._images.image(key.photo))
            return _Made(pixels, int(self._images.targets[key.photo]), None)
        except (ValueError, FileNotFoundError) as error:
            return _Made(_blank(key), UNREADABLE, (self._images.names[key.photo], str(error)))


def _blank(key: _Key) -> np.ndarray:
    return np.zeros((3, key.size, key.size), np.uint8)


class _Keys:
    """Batches of keys for a loader whose workers live on from epoch to epoch."""

    def __init__(self) -> None:
        self.batches: Iterator[list[_Key]] = iter(())

    def __iter__(self) -> Iterator[list[_Key]]:
        return self.batches


class FileSource:
    """Photos read from files or shards by worker processes, each augmented there.

    A photo that cannot be read is named in ``quarantine.tsv`` of the run, whichever rank met it,
    and in the events of rank 0. In training the next one that can be read takes its place, the
    same in every process; in evaluation it counts as not recognised.
    """

    def __init__(
        self,
        images: Labelled,
        train: np.ndarray,
        held_out: tuple[Labelled, np.ndarray],
        recipe: Recipe,
        device: torch.device,
        *,
        workers: int,
        log: RunLog,
    ) -> None:
        self._images, self._train, self._recipe, self._device = images, train, recipe, device
        held, self._held_indices = held_out
        self._unreadable = Unreadable(log, len(images), "another photo takes its place")
        self.num_classes = len(images.classes)
        self.held_out_count = len(self._held_indices)
        self.digest = digest_of(images.names, images.targets)
        self._keys, self._loader = self._make_loader(images, train, workers)
        self._held_keys, self._held_loader = self._make_loader(held, self._held_indices, workers)

    def _make_loader(
        self, images: Labelled, chosen: np.ndarray, workers: int
    ) -> tuple[_Keys, DataLoader[Any]]:
        keys = _Keys()
        loader: DataLoader[Any] = DataLoader(
            _Reader(images, chosen, self._recipe),
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=self._device.type == "cuda",
            persistent_workers=workers > 0,
            timeout=READ_TIMEOUT if workers else 0,
            worker_init_fn=ignore_signals,
        )
        return keys, loader

    def __len__(self) -> int:
        return len(self._train)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The training photos in the order of ``epoch``."""
        if not isinstance(self._images, (ShardedImages, LabelledShards)):
            return epoch_order(seed, epoch, len(self))
        place = np.full(len(self._images), -1)
        place[self._train] = np.arange(len(self))
        places = place[self._images.order(seed, epoch)]  # a few shards at a time
        return places[places >= 0]

    def stretches(self) -> np.ndarray:
        """First training photo of each shard that has to be fetched, ascending from 0."""
        images = self._images  # LabelledShards are fine-tuned on, where nothing is mixed
        starts = images.fetched() if isinstance(images, ShardedImages) else np.zeros(1, np.int64)
        # Shards of which nothing is trained on begin where the next one does.
        return np.unique(np.searchsorted(self._train, starts))

    def names(self, indices: np.ndarray) -> list[str]:
        """Paths of training photos."""
        return [self._images.names[index] for index in self._train[indices]]

    def load(self, requests: Iterator[Request]) -> Iterator[Loaded]:
        """Augmented photos for each request in turn.

        Raises:
            ValueError: Too many photos cannot be read.
            ConnectionError: The server that has them gives no more.
        """
        asked: deque[Request] = deque()

        def batches() -> Iterator[list[_Key]]:
            for request in requests:
                asked.append(request)
                indices = request.indices
                if request.mixing is not None:
                    indices = np.concatenate([indices, request.mixing.partner])
                yield [_Key(request.epoch, int(i), request.size) for i in self._train[indices]]

        self._keys.batches = batches()
        for pixels, targets in self._read(self._loader):
            photos, request = self._on_device(pixels, targets), asked.popleft()
            count = len(request.indices)
            partners = Photos(*(part[count:] for part in photos)) if request.mixing else None
            yield Loaded(request, Photos(*(part[:count] for part in photos)), partners)

    def _on_device(self, pixels: Tensor, targets: Tensor) -> Photos:
        images = pixels.to(self._device, non_blocking=True).float()
        return Photos(images, targets.to(self._device, non_blocking=True))

    def held_out(self, chunks: Sequence[range], size: int, crop: float) -> Iterator[Photos]:
        """Photos to evaluate on, by chunks of their numbers."""
        chosen = [self._held_indices[chunk.start : chunk.stop] for chunk in chunks]
        self._held_keys.batches = ([_Key(-1, int(i), size) for i in part] for part in chosen)
        for pixels, targets in self._read(self._held_loader):
            yield self._on_device(pixels, targets)

    def _read(self, loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, targets, problems, lost in loader:
            if lost is not None:
                raise ConnectionError(lost)
            self._unreadable.add(problems)
            yield pixels, targets

    def close(self) -> None:
        """End the workers, which do not mind the signals that would end them otherwise."""
        for loader in (self._loader, self._held_loader):
            end_workers(loader)


_Collated = tuple[Tensor, Tensor, list[tuple[str, str]], str | None]


def _collate(made: list[_Made]) -> _Collated:
    pixels, targets, problems, lost = zip(*made, strict=True)
    told = [problem for problem in problems if problem is not None]
    reason = next((each for each in lost if each is not None), None)
    return torch.from_numpy(np.stack(pixels)), torch.tensor(targets), told, reason
