"""Which images make up a batch, and which rank takes which of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How the images of one optimizer step are shared out.

    Attributes:
        batch_size: Images per optimizer step, over all ranks.
        micro_batch_size: Images per forward pass of one rank.
        ranks: Processes that train together.
        accumulation_steps: Forward passes of each rank per optimizer step.
    """

    batch_size: int
    micro_batch_size: int
    ranks: int
    accumulation_steps: int

    def __str__(self) -> str:
        return (
            f"{self.batch_size} = {self.micro_batch_size} per pass x {self.ranks} rank"
            f"{'s' * (self.ranks > 1)} x {self.accumulation_steps} accumulated"
        )

    def shares(self, batch: np.ndarray, rank: int) -> list[np.ndarray]:
        """The micro-batches of ``rank``, in order, out of one batch of indices."""
        parts = batch.reshape(self.accumulation_steps, self.ranks, self.micro_batch_size)
        return list(parts[:, rank])


def plan_batches(batch_size: int, ranks: int, micro_batch_size: int | None = None) -> BatchPlan:
    """Share a batch among ``ranks``, in passes of ``micro_batch_size`` (default: one pass).

    Raises:
        ValueError: It cannot be shared evenly.
    """
    if batch_size % ranks:
        raise ValueError(
            f"a batch of {batch_size} cannot be shared by {ranks} ranks; "
            f"take a multiple of {ranks} images"
        )
    micro = micro_batch_size or batch_size // ranks
    if micro < 1 or batch_size % (micro * ranks):
        raise ValueError(
            f"a batch of {batch_size} is not a multiple of {micro} images per pass x {ranks} "
            f"ranks = {micro * ranks}; choose another micro-batch size"
        )
    return BatchPlan(
        batch_size=batch_size,
        micro_batch_size=micro,
        ranks=ranks,
        accumulation_steps=batch_size // (micro * ranks),
    )


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Whole batches in an epoch; the rest of the images have their turn in another epoch.

    Raises:
        ValueError: There is not one.
    """
    if images < batch_size:
        raise ValueError(
            f"{images} images do not fill one batch of {batch_size}; "
            f"choose a batch size of at most {images}"
        )
    return images // batch_size


def rank_chunks(count: int, size: int, rank: int, ranks: int) -> Sequence[range]:
    """Fixed chunks of ``range(count)``, dealt out to the ranks in turn.

    The chunks do not depend on the number of ranks, so a net rates each image the same, to the
    bit, however many evaluate it; none is padded or seen twice.
    """
    chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    return chunks[rank::ranks]
