"""How long one image takes before and after, from one interleaved run on the CPU."""

from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from wszoo.bench import interleave
from wszoo.exporting.formats import Runner


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Median milliseconds of one image.

    Attributes:
        torch_ms: Of the net as it is loaded.
        folded_ms: Of the folded net in torch.
        file_ms: Of the file.
        shape: Of the batch, ``(1, C, H, W)``.
        threads: That each of them had.
        rounds: How often each ran, after one round of warming up.
    """

    torch_ms: float
    folded_ms: float
    file_ms: float
    shape: tuple[int, ...]
    threads: int
    rounds: int

    def __str__(self) -> str:
        _, _, height, width = self.shape
        return (
            f"torch {self.torch_ms:.1f} ms, folded {self.folded_ms:.1f} ms, "
            f"file {self.file_ms:.1f} ms for one image of {height} x {width} "
            f"(medians of {self.rounds} rounds, threads: {self.threads})"
        )


@torch.inference_mode()
def time_all(
    net: nn.Module, folded: nn.Module, run: Runner, image: Tensor, *, rounds: int
) -> Latency:
    """Run the net, the folded net and the file in turn.

    Args:
        net, folded, run: The three, with the same inputs and outputs.
        image: A batch of one.
        rounds: How often.
    """
    times = interleave([partial(work, image) for work in (net, folded, run)], rounds)
    torch_ms, folded_ms, file_ms = (1e3 * median(seconds) for seconds in times)
    return Latency(
        torch_ms=torch_ms,
        folded_ms=folded_ms,
        file_ms=file_ms,
        shape=tuple(image.shape),
        threads=torch.get_num_threads(),
        rounds=rounds,
    )
