"""What memory one training step takes above the state of the training.

``python -m wszoo.bench.memory_cell`` is the child process in which it is measured: what a process
has taken once it seldom gives back, so each measurement needs a fresh one.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from wszoo.bench.nets import IMAGE_SIZE, in_layout, make_net, random_images, trainer
from wszoo.memory import Memory, save_memory

# Pixels. A step on one such image makes gradients and momentum and little else; on fewer pixels the
# last maps would have one element, which BatchNorm refuses.
_SMALL = 64
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A step to measure.

    Attributes:
        kind: ``"ours"`` or a key of ``PEERS``.
        level: One of ``MEMORY``; ``"fast"`` leaves the net as it is.
        variant: Of ours.
        batch: Images.
        precision: ``"fp32"`` or ``"bf16"``.
        layout: A key of ``LAYOUTS``.
        device: ``"cpu"`` or ``"cuda"``.
        threads: Of torch.
    """

    kind: str
    level: str
    variant: str
    batch: int
    precision: str
    layout: str
    device: str
    threads: int


def build(kind: str, level: str, variant: str) -> nn.Module:
    """The net of a job, in training mode."""
    return save_memory(make_net(kind, variant), cast(Memory, level))


def peak(job: Job, size: int = IMAGE_SIZE) -> int:
    """Bytes that a step takes at most, above weights, gradients and momentum.

    Raises:
        ValueError: This system does not say what a process takes.
    """
    device = torch.device(job.device)
    net = in_layout(build(job.kind, job.level, job.variant), device, job.layout)
    images = random_images(job.batch, job.layout, device, size)
    step = trainer(net, job.precision)
    step(random_images(1, job.layout, device, _SMALL))
    return (
        _of_cuda(partial(step, images)) if device.type == "cuda" else _of_cpu(partial(step, images))
    )


def _of_cuda(work: Callable[[], object]) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def _of_cpu(work: Callable[[], object]) -> int:
    try:
        _CLEAR.write_text(_RESET_PEAK)
        before = _status("VmRSS")
        work()
        return _status("VmHWM") - before
    except OSError as error:
        raise ValueError(
            f"peak memory cannot be measured here, it takes Linux's {_CLEAR}: {error.strerror}; "
            f"leave --only memory out"
        ) from error


def _status(key: str) -> int:
    """Bytes that this process holds (``VmRSS``) or has held at most (``VmHWM``)."""
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return 1024 * int(lines[key].split()[0])


def _main() -> None:
    job = Job(**json.load(sys.stdin))
    torch.set_num_threads(job.threads)
    sys.stdout.write(str(peak(job)))


if __name__ == "__main__":
    _main()
