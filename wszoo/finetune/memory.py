"""What fits into memory, measured at the worst sizes of the real photos."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from wszoo.finetune.data import Images
from wszoo.finetune.memory_step import Job, Load, take_steps, to_json
from wszoo.finetune.models import Net, backbone_of
from wszoo.finetune.settings import FineTuning
from wszoo.memory import MEMORY, Memory, can_save_memory

_KILLED = (-9, 137)  # how a process ends that the system ran out of memory for


# CPU time of a step against "fast", the mean over precisions: model_cards/studies/memory.
TIMES: dict[Memory, float] = {"fast": 1.0, "lean": 1.07, "small": 1.12, "smallest": 1.28}
# Of one photo where twice as many go in a pass: ResNet-50, from 2 to 8 photos of 224 pixels on one
# CPU thread, without what standardizing takes, which passes of a step share.
_DOUBLED = 0.94
_MOST_SAVED = 4  # times; by no level a pass takes less than this part of what it takes by "fast"


class Choice(NamedTuple):
    """One way of taking a step: the level of the blocks, and photos per pass."""

    memory: Memory
    photos: int

    @property
    def time(self) -> float:
        """What a photo takes, relative to passes of one by ``"fast"``."""
        return TIMES[self.memory] * _DOUBLED ** math.log2(self.photos)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What was measured, and chosen.

    Attributes:
        choice: The fastest of what fits.
        peaks: Bytes of what was tried; None where the system had too little.
        budget: Bytes.
        load: What was measured on.
    """

    choice: Choice
    peaks: dict[Choice, int | None]
    budget: int
    load: Load

    def __str__(self) -> str:
        tried: dict[Memory, list[str]] = {}
        for (memory, count), peak in self.peaks.items():
            tried.setdefault(memory, []).append(f"{count} per pass take {_text(peak)}")
        measured = "; ".join(f"{memory}: {', '.join(each)}" for memory, each in tried.items())
        memory, count = self.choice
        return (
            f"{memory}, {count} per pass, within {_text(self.budget)} per process; at worst "
            f"({self.load}) {measured}"
        )


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


def choose(
    share: int,
    budget: int,
    load: Load,
    peak_of: Callable[[Choice], int | None],
    levels: Sequence[Memory] = MEMORY,
) -> Fit:
    """The fastest way to take a step that fits, by what levels and small passes cost in general.

    Passes grow from one photo, so that what does not fit goes beyond the budget by little.

    Args:
        share: Photos per step of this rank; passes divide it evenly.
        budget: Bytes.
        load: What is measured on.
        peak_of: Bytes that a step takes at most; None: more than there is.
        levels: Those allowed, the fastest first.

    Raises:
        ValueError: One photo does not fit.
    """
    peaks: dict[Choice, int | None] = {}
    best: Choice | None = None
    fitting, bound = 0, share
    for level in levels:
        larger = [Choice(level, n) for n in _candidates(share) if fitting < n <= bound]
        for place, choice in enumerate(larger):
            if best and best.time <= min(each.time for each in larger[place:]):
                break
            peak = peaks[choice] = peak_of(choice)
            if peak is None or peak > budget:
                break
            fitting = choice.photos
            if best is None or choice.time < best.time:
                best = choice
        if level == levels[0]:
            bound = _MOST_SAVED * max(fitting, 1)
    if best is None:
        raise ValueError(_too_much(peaks, budget, load))
    return Fit(choice=best, peaks=peaks, budget=budget, load=load)


def _too_much(peaks: dict[Choice, int | None], budget: int, load: Load) -> str:
    (memory, _), peak = next(reversed(peaks.items()))
    level = "" if memory == "smallest" else " a smaller --memory,"
    return (
        f"a pass of one photo takes {_text(peak)} ({load}; {memory}), which is beyond the budget "
        f"of {_text(budget)};{level} a smaller --image-size, fewer --trainable-stages or a smaller "
        f"--model take less"
    )


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


def levels_for(model: nn.Module, asked: Memory | None) -> tuple[Memory, ...]:
    """The levels to choose among: the one that was asked for, or all that the net knows."""
    if asked is not None:
        return (asked,)
    return MEMORY if can_save_memory(model) else ("fast",)


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
