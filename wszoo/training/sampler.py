"""Sample order and augmentation randomness as pure functions of (seed, epoch, index).

Nothing here has a state: a run that is stopped after any number of samples goes on with the very
same images, crops and flips, whatever the number of workers.
"""

import numpy as np

_ORDER, _AUGMENT = 0, 1  # what a stream of random numbers is for


def _stream(purpose: int, seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, purpose))))


def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """A permutation of ``range(length)``, the same one for the same arguments."""
    return _stream(_ORDER, seed, epoch).permutation(length)


def epoch_uniforms(seed: int, epoch: int, length: int, draws: int) -> np.ndarray:
    """Random numbers in [0, 1) of shape ``(length, draws)``; row ``i`` belongs to image ``i``."""
    return _stream(_AUGMENT, seed, epoch).random((length, draws), dtype=np.float32)
