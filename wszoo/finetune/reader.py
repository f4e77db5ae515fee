"""Photos of any task, read and augmented by worker processes.

What a worker makes of a photo follows from seed, epoch and index alone, so a run that was stopped
goes on with the very same samples, whatever the number of workers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Dataset

from wszoo.training.readers import READ_TIMEOUT, Unreadable, end_workers, ignore_signals
from wszoo.training.runlog import RunLog
from wszoo.training.sampler import Purpose, sample_generator

Sample = TypeVar("Sample")
# Index, and random numbers for training or None for evaluation. It travels to worker processes, so
# it is an object of a class, not a lambda. ValueError or FileNotFoundError: it cannot be read.
Make = Callable[[int, np.random.Generator | None], Sample]
_EVALUATION = -1  # epoch of samples that are not augmented


class _Key(NamedTuple):
    epoch: int
    photo: int


class _Made(NamedTuple):
    sample: Any  # None: it cannot be read
    problem: tuple[str, str] | None  # name of a photo and what is wrong with it
    lost: str | None = None  # why no photo can be read any more


class _Photos(Dataset[_Made]):
    """Runs in worker processes."""

    def __init__(self, make: Make[Any], names: Sequence[str], seed: int) -> None:
        self._make, self._names, self._seed = make, names, seed

    def __getitem__(self, key: _Key) -> _Made:
        if key.epoch == _EVALUATION:
            return self._try(key.photo, None)
        generator = sample_generator(self._seed, key.epoch, key.photo, Purpose.AUGMENT)
        first = made = self._try(key.photo, generator)
        for offset in range(1, len(self._names)):
            if made.sample is not None or made.lost:
                break
            made = self._try((key.photo + offset) % len(self._names), generator)
        return _Made(made.sample, first.problem, made.lost)

    def _try(self, index: int, generator: np.random.Generator | None) -> _Made:
        try:
            return _Made(self._make(index, generator), None)
        except (ValueError, FileNotFoundError) as error:
            return _Made(None, (self._names[index], str(error)))
        except (ConnectionError, TimeoutError) as error:  # a loader would add its own words to it
            return _Made(None, None, str(error))


class _Keys:
    """Batches of keys for a loader whose workers live on from epoch to epoch."""

    def __init__(self) -> None:
        self.batches: Iterator[list[_Key]] = iter(())

    def __iter__(self) -> Iterator[list[_Key]]:
        return self.batches


class Reader(Generic[Sample]):
    """Makes samples of photos, in this process or in others.

    A photo that cannot be read is named in ``quarantine.tsv`` of the run, whichever rank met it,
    and in the events of rank 0. In training the next one that can be read takes its place, the same
    in every process; in evaluation its sample is None.

    Args:
        make: Turns an index into a sample.
        names: Of the photos.
        seed: Of the run.
        workers: Processes that read; 0 reads here.
        log: Where photos that cannot be read are told.
    """

    def __init__(
        self,
        make: Make[Sample],
        names: Sequence[str],
        *,
        seed: int,
        workers: int,
        log: RunLog,
    ) -> None:
        self._unreadable = Unreadable(log, len(names), "the run goes on without it")
        self._keys = _Keys()
        self._loader: DataLoader[Any] = DataLoader(
            _Photos(make, names, seed),
            batch_sampler=self._keys,
            num_workers=workers,
            collate_fn=list,
            persistent_workers=workers > 0,
            timeout=READ_TIMEOUT if workers else 0,
            worker_init_fn=ignore_signals,
        )

    def load(self, epoch: int, batches: Iterable[np.ndarray]) -> Iterator[list[Sample]]:
        """Augmented samples for each batch of indices in turn.

        Raises:
            ValueError: Too many photos cannot be read.
            ConnectionError: The server that has them gives no more.
        """
        for made in self._load([_Key(epoch, int(i)) for i in batch] for batch in batches):
            samples = [each.sample for each in made]
            if any(sample is None for sample in samples):
                raise ValueError(f"no photo can be read; {self._unreadable.path} tells why")
            yield samples

    def load_plain(self, indices: Iterable[int]) -> Iterator[Sample | None]:
        """Samples to evaluate on, one by one; None for a photo that cannot be read.

        Raises:
            ValueError: Too many photos cannot be read.
            ConnectionError: The server that has them gives no more.
        """
        for made in self._load([_Key(_EVALUATION, index)] for index in indices):
            yield made[0].sample

    def _load(self, batches: Iterator[list[_Key]]) -> Iterator[list[_Made]]:
        self._keys.batches = batches
        for made in self._loader:
            if lost := next((each.lost for each in made if each.lost), None):
                raise ConnectionError(lost)
            self._unreadable.add([each.problem for each in made if each.problem])
            yield made

    def close(self) -> None:
        """End the processes that read."""
        end_workers(self._loader)
