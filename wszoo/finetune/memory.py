"""How many photos per pass fit into memory, measured at the worst sizes of the real photos."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from wszoo.finetune.data import Images
from wszoo.finetune.memory_step import Job, Load, take_steps, to_json
from wszoo.finetune.models import Net, backbone_of
from wszoo.finetune.settings import FineTuning

_KILLED = (-9, 137)  # how a process ends that the system ran out of memory for


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What was measured, and chosen.

    Attributes:
        micro_batch_size: The most photos per pass that fit.
        peaks: Bytes by photos per pass; None where the system had too little.
        budget: Bytes.
        load: What was measured on.
    """

    micro_batch_size: int
    peaks: dict[int, int | None]
    budget: int
    load: Load

    def __str__(self) -> str:
        measured = ", ".join(
            f"{count} per pass take {_text(peak)}" for count, peak in self.peaks.items()
        )
        return f"{_text(self.budget)} per process; at worst ({self.load}) {measured}"


def heaviest(images: Images, settings: FineTuning) -> Load:
    """What the largest batches are made of; of photos that are cropped to a square, that alone."""
    side = settings.image_size
    if settings.task != "detect":
        return Load(sizes=((side, side),))
    objects = images.objects  # type: ignore[union-attr]
    sizes = sorted({each.size for each in objects})
    resized = {size: _resized(size, settings) for size in sizes}
    widest = max(sizes, key=lambda size: (resized[size][0], math.prod(resized[size])))
    tallest = max(sizes, key=lambda size: (resized[size][1], math.prod(resized[size])))
    return Load(
        # The larger one first: it is what a pass of one photo is measured on.
        sizes=tuple(sorted((widest, tallest), key=lambda s: math.prod(resized[s]), reverse=True)),
        objects=max(len(each) for each in objects),
        masks=settings.head == "mask_rcnn",
    )


def _resized(size: tuple[int, int], settings: FineTuning) -> tuple[int, int]:
    """As torchvision's detectors do: the short side, unless the long one would be too long."""
    factor = min(settings.image_size / min(size), settings.max_size / max(size))
    return round(size[0] * factor), round(size[1] * factor)


def choose(share: int, budget: int, load: Load, peak_of: Callable[[int], int | None]) -> Fit:
    """The most photos per pass that fit.

    Args:
        share: Photos per step of this rank; passes divide it evenly.
        budget: Bytes.
        load: What is measured on.
        peak_of: Bytes that a step takes with so many photos per pass; None: more than there is.

    Raises:
        ValueError: One photo does not fit.
    """
    peaks: dict[int, int | None] = {}
    chosen = 0
    for count in _candidates(share):
        peak = peaks[count] = peak_of(count)
        if peak is None or peak > budget:
            break
        chosen = count
    if not chosen:
        raise ValueError(
            f"a pass of one photo takes {_text(peaks[1])} ({load}), which is beyond the budget of "
            f"{_text(budget)}; a smaller --image-size, fewer --trainable-stages or a smaller "
            f"--model take less"
        )
    return Fit(micro_batch_size=chosen, peaks=peaks, budget=budget, load=load)


def _candidates(share: int) -> Iterable[int]:
    doubled = (2**power for power in range(share.bit_length()))
    return sorted({*(count for count in doubled if share % count == 0), share})


def _text(number: int | None) -> str:
    return "more than there is" if number is None else f"{number / 1e9:.2f} GB"


def job_for(model: nn.Module, net: Net, settings: FineTuning, images: Images) -> Job:
    """What is to be measured for a run."""
    backbone = backbone_of(model)
    return Job(
        net=net,
        settings=settings,
        num_classes=len(images.classes),
        trainable_stages=(
            settings.trainable_stages if backbone is None else backbone.trainable_stages
        ),
        load=heaviest(images, settings),
    )


def peak_memory(job: Job, micro_batch_size: int, device: torch.device) -> int | None:
    """Bytes that a step takes at most, of GPU memory or of the whole process on a CPU.

    Reading processes are not counted, nor on a GPU what CUDA itself takes.

    Returns:
        None where the system has less than that.

    Raises:
        ValueError: It cannot be measured on this system.
    """
    if device.type == "cuda":
        return _on_gpu(job, micro_batch_size, device)
    task = {
        **to_json(job),
        "micro_batch_size": micro_batch_size,
        "threads": torch.get_num_threads(),
    }
    child = subprocess.run(
        [sys.executable, "-m", "wszoo.finetune.memory_step"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
    )
    if child.returncode in _KILLED:
        return None
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ValueError(f"memory cannot be measured: {reason}; give --micro-batch-size instead")
    return int(child.stdout)


def _on_gpu(job: Job, micro_batch_size: int, device: torch.device) -> int | None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        take_steps(job, micro_batch_size, device)
    except torch.cuda.OutOfMemoryError:
        return None
    finally:
        torch.cuda.empty_cache()
    return torch.cuda.max_memory_allocated(device) - before
