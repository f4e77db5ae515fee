"""What detection and segmentation share: which photos come when, and who reads them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from wszoo.finetune.reader import Make, Reader
from wszoo.finetune.settings import FineTuning
from wszoo.training.batches import BatchPlan, steps_per_epoch
from wszoo.training.distributed import Ranks
from wszoo.training.runlog import RunLog
from wszoo.training.sampler import epoch_order

Sample = TypeVar("Sample")
Batch = TypeVar("Batch")


class PhotoSet(Protocol):
    """A split of any task."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def classes(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...


def require_alike(train: PhotoSet, held_out: PhotoSet) -> None:
    """See that a net that learns from ``train`` can be judged by ``held_out``.

    Raises:
        ValueError: Their classes differ, or nothing is held out.
    """
    if list(train.classes) != list(held_out.classes):
        raise ValueError(
            f"the photos to learn from have the classes {', '.join(train.classes)}, those to "
            f"judge by {', '.join(held_out.classes)}; read both with the same classes"
        )
    if not len(held_out):
        raise ValueError("there is no photo to judge by; hold some out")


class PhotosTask(ABC, Generic[Sample, Batch]):
    """Feeds a run and its evaluation; see ``wszoo.training.run.Task``.

    Args:
        train: To learn from.
        held_out: To judge by.
        make: Of each of the two, what turns an index into a sample.
        settings: Of the run.
        plan: How a batch is shared out.
        ranks: This process among those that train together.
        workers: Processes that read each of the two.
        log: Where photos that cannot be read are told.

    Raises:
        ValueError: The two differ in their classes, or are too small.
    """

    def __init__(
        self,
        train: PhotoSet,
        held_out: PhotoSet,
        make: tuple[Make[Sample], Make[Sample]],
        settings: FineTuning,
        plan: BatchPlan,
        ranks: Ranks,
        *,
        workers: int,
        log: RunLog,
    ) -> None:
        require_alike(train, held_out)
        self._names, self._held_count = train.names, len(held_out)
        self.settings, self.plan, self.ranks = settings, plan, ranks
        self.batch_size = plan.batch_size
        self.steps_per_epoch = steps_per_epoch(len(train), plan.batch_size)
        self._reader, self._held_reader = (
            Reader(each, photos.names, seed=settings.seed, workers=workers, log=log)
            for each, photos in zip(make, (train, held_out), strict=True)
        )

    def batches(self, epoch: int, first_step: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each step of ``epoch`` from ``first_step`` on."""
        loaded = self._reader.load(epoch, self._shares(epoch, first_step))
        for _ in range(first_step, self.steps_per_epoch):
            yield [self._batch(next(loaded)) for _ in range(self.plan.accumulation_steps)]

    def _shares(self, epoch: int, first_step: int) -> Iterator[np.ndarray]:
        order = self._order(epoch)
        for step in range(first_step, self.steps_per_epoch):
            yield from self.plan.shares(self._chosen(order, step), self.ranks.rank)

    def _order(self, epoch: int) -> np.ndarray:
        return epoch_order(self.settings.seed, epoch, len(self._names))

    def _chosen(self, order: np.ndarray, step: int) -> np.ndarray:
        return order[step * self.batch_size :][: self.batch_size]

    @abstractmethod
    def _batch(self, samples: list[Sample]) -> Batch:
        """A micro-batch, on the device."""

    def _each_held_out(self, pause: Callable[[], None]) -> Iterator[tuple[int, Sample | None]]:
        """This rank's held-out photos by their numbers; None for one that cannot be read.

        No photo is seen twice, and all ranks pause equally often, though some may have one less.
        """
        mine = range(self.ranks.rank, self._held_count, self.ranks.size)
        loaded = self._held_reader.load_plain(mine)
        for turn in range(math.ceil(self._held_count / self.ranks.size)):
            pause()
            if turn < len(mine):
                yield mine[turn], next(loaded)

    def facts(self, epoch: int) -> dict[str, Any]:
        """None: nothing changes from epoch to epoch."""
        return {}

    def names(self, epoch: int, step: int) -> list[str]:
        """The photos in step ``step`` of ``epoch``, over all ranks."""
        return [self._names[index] for index in self._chosen(self._order(epoch), step)]

    def close(self) -> None:
        """End the processes that read."""
        self._reader.close()
        self._held_reader.close()
