"""Sample order and augmentation randomness as pure functions of (seed, epoch, index).

Nothing here has a state: a run that is stopped after any number of samples goes on with the very
same images, crops and flips, whatever the number of workers.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for; no two purposes share any.

    Numbers never change: a run that was begun with them goes on with them.
    """

    ORDER = 0
    AUGMENT = 1
    MIXING = 2
    RANDAUGMENT = 3
    ERASE = 4
    # 100 and 101 order the samples of shards, see wszoo/datasets.


def _stream(purpose: Purpose, seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, purpose))))


def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """A permutation of ``range(length)``, the same one for the same arguments."""
    return _stream(Purpose.ORDER, seed, epoch).permutation(length)


def epoch_uniforms(
    seed: int, epoch: int, length: int, draws: int, purpose: Purpose = Purpose.AUGMENT
) -> np.ndarray:
    """Random numbers in [0, 1) of shape ``(length, draws)``; row ``i`` belongs to image ``i``."""
    return _stream(purpose, seed, epoch).random((length, draws), dtype=np.float32)


def sample_generator(seed: int, epoch: int, index: int, purpose: Purpose) -> np.random.Generator:
    """Endless random numbers of one image of the data set, in one epoch, for one purpose.

    Philox turns a counter into random numbers. The arguments are the upper words of the counter,
    so two streams that differ in any of them have no number in common.

    Raises:
        ValueError: An argument is negative or does not fit into 64 bits.
    """
    try:
        # Through int, for numpy turns a negative number of its own into a large one.
        counter = np.array((0, int(index), int(epoch), purpose), dtype=np.uint64)
        key = np.array((int(seed), 0), dtype=np.uint64)
    except OverflowError:
        raise ValueError(
            f"seed, epoch and index must be in 0..2**64-1, got {seed}, {epoch} and {index}"
        ) from None
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def sample_uniforms(
    seed: int, epoch: int, indices: np.ndarray, draws: int, purpose: Purpose
) -> np.ndarray:
    """The first numbers in [0, 1) of several images at once, of shape ``(N, draws)``.

    Row ``i`` is ``sample_generator(seed, epoch, indices[i], purpose).random(draws)``, in a third
    of the time.

    Raises:
        ValueError: An argument is negative or does not fit into 64 bits.
    """
    generator = sample_generator(seed, epoch, min(indices, default=0), purpose)
    start = generator.bit_generator.state
    uniforms = np.empty((len(indices), draws))
    for row, index in zip(uniforms, indices, strict=True):
        start["state"]["counter"][1] = index
        generator.bit_generator.state = start
        generator.random(out=row)
    return uniforms
