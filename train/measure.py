"""What is measured of a net beside its accuracy, for its card."""

import copy
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wszoo.gallery.rows import Progress, collect
from wszoo.gallery.speed import PACKAGED, ROUNDS, measure, write_speeds
from wszoo.layers import fold
from wszoo.training.declaration import code_version, hardware
from wszoo.weights import Weights

_ROUNDS = 20
SPEED = "inference, batch 1, folded, float32, in CPU seconds of one thread"


def classes_told(confusion: Tensor, names: list[str], count: int = 5) -> dict[str, Any]:
    """Which classes are recognised best and worst, and which are taken for one another.

    Args:
        confusion: ``(classes, classes)`` counts, true class by predicted class.
        names: Of the classes.
        count: Of each kind.

    Returns:
        ``best`` and ``worst``: names with the percent of their photos that are recognised;
        ``taken``: true class, predicted class, and how many photos.
    """
    photos = confusion.sum(1)
    seen = photos.nonzero()[:, 0].tolist()
    shares = {row: 100 * confusion[row, row].item() / photos[row].item() for row in seen}
    order = sorted(seen, key=lambda row: -shares[row])
    wrong = confusion.clone().fill_diagonal_(0)
    most = wrong.flatten().topk(min(count, wrong.numel()))
    return {
        "best": [[names[row], round(shares[row], 1)] for row in order[:count]],
        "worst": [[names[row], round(shares[row], 1)] for row in reversed(order[-count:])],
        "taken": [
            [names[place // len(names)], names[place % len(names)], int(value)]
            for value, place in zip(most.values.tolist(), most.indices.tolist(), strict=True)
            if value
        ],
    }


@torch.inference_mode()
def cpu_time(model: nn.Module, weights: Weights) -> dict[str, str]:
    """How long one CPU thread computes on one image, with and without folding: a finding.

    The time is that of the thread alone, which other work on the machine lengthens little. The two
    nets take turns; the median of the rounds counts.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        image = torch.randn(1, *weights.input_size, generator=torch.Generator().manual_seed(0))
        nets = {"as it is": model.eval(), "folded": fold(copy.deepcopy(model).eval())}
        spent: dict[str, list[float]] = {name: [] for name in nets}
        for round_number in range(_ROUNDS + 2):
            for name, net in nets.items():
                started = time.thread_time()
                net(image)
                if round_number >= 2:  # the first ones warm up
                    spent[name].append(time.thread_time() - started)
        where = hardware()
    finally:
        torch.set_num_threads(threads)
    told = ", ".join(
        f"{1000 * statistics.median(times):.1f} ms {name}" for name, times in spent.items()
    )
    return {
        "topic": "throughput",
        "finding": f"{told}: CPU time of one {weights.input_size[-1]}-pixel image, fp32, {where}",
        "command": f"python -m train.publish --measure {weights.name} --data DIR",
        "source": f"code {code_version()}",
    }


def gallery_speeds(
    progress: Progress | None = None,
    *,
    pattern: str = "*",
    rounds: int = ROUNDS,
    path: Path = PACKAGED,
) -> Path:
    """Time the nets of the zoo on one thread, for pages that measure nothing themselves.

    By the time of the thread alone, which other work on the machine lengthens little.

    Args:
        progress: Wraps the turns in a bar.
        pattern: Glob of names.
        rounds: How often each net has its turn.
        path: Where to keep it.

    Returns:
        ``path``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        speeds = measure(
            collect(pattern), rounds=rounds, progress=progress, clock=time.thread_time, what=SPEED
        )
    finally:
        torch.set_num_threads(threads)
    write_speeds(speeds, path)
    return path
