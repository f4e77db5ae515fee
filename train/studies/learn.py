"""Training one net of a study on one thread, and asking it about the test photos."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.studies.photos import CHUNK, Photos, augmented_chunks, normalized

RATE_PER = 64  # images per step that a base rate is for
MOMENTUM, WEIGHT_DECAY, WARMUP = 0.9, 5e-4, 0.05


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one net is trained.

    Attributes:
        batch: Images per optimizer step.
        base_rate: Peak learning rate at 64 images per step; it is scaled linearly.
        samples: Images seen.
        seed: Of kernels, order and augmentation.
        accumulate: Forward passes that make up a step.
        chunk: Images made at a time, which is also one point of the loss curve.
    """

    batch: int
    base_rate: float
    samples: int
    seed: int
    accumulate: int = 1
    chunk: int = CHUNK

    @property
    def peak_rate(self) -> float:
        """The learning rate after the warm-up."""
        return self.base_rate * self.batch / RATE_PER

    def rate(self, seen: int) -> float:
        """The learning rate after ``seen`` images: warm-up over 5 %, then a cosine to zero."""
        part = seen / self.samples
        if part < WARMUP:
            return self.peak_rate * part / WARMUP
        return self.peak_rate * (1 + math.cos(math.pi * (part - WARMUP) / (1 - WARMUP))) / 2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What training left.

    Attributes:
        losses: Mean training loss of each chunk of images.
        cpu_seconds: Of this process, augmentation included.
        diverged_at: Images seen when the loss was found not finite; None if it never was.
    """

    losses: tuple[float, ...]
    cpu_seconds: float
    diverged_at: int | None


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    """SGD with decay on the kernels alone, as matrices and convolutions have them."""
    kernels = [p for p in net.parameters() if p.ndim == 4 or p.ndim == 2]
    others = [p for p in net.parameters() if not (p.ndim == 4 or p.ndim == 2)]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": WEIGHT_DECAY},
        {"params": others},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, fused=True)


def train(
    net: nn.Module,
    photos: Photos,
    plan: Plan,
    *,
    on_step: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Outcome:
    """Train ``net`` in place.

    Args:
        net: In channels_last; it computes in the dtype of its parameters.
        photos: To learn from.
        plan: How; its batch must divide its chunk.
        on_step: Called before each step with the images seen, and the images and targets of it.

    Raises:
        ValueError: The batch does not divide a chunk, or the passes do not divide the batch.
    """
    if plan.chunk % plan.batch:
        raise ValueError(f"batch {plan.batch} does not divide a chunk of {plan.chunk} images")
    if plan.batch % plan.accumulate:
        raise ValueError(f"{plan.accumulate} passes do not divide a batch of {plan.batch}")
    optimizer, losses, seen = make_optimizer(net), [], 0
    net.train()
    dtype = next(net.parameters()).dtype
    started = time.process_time()
    for images, targets in augmented_chunks(photos, plan.samples, plan.seed, plan.chunk):
        images, total = images.to(dtype), torch.zeros((), dtype=torch.float64)
        for start in range(0, plan.chunk, plan.batch):
            part = slice(start, start + plan.batch)
            if on_step:
                on_step(seen, images[part], targets[part])
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(seen)
            total += _step(net, optimizer, images[part], targets[part], plan.accumulate)
            seen += plan.batch
        losses.append(total.item() * plan.batch / plan.chunk)
        if not math.isfinite(losses[-1]):
            break
    return Outcome(
        losses=tuple(losses),
        cpu_seconds=time.process_time() - started,
        diverged_at=None if math.isfinite(losses[-1]) else seen,
    )


def _step(
    net: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor, passes: int
) -> Tensor:
    """Take one step; the loss that it was for."""
    if passes == 1:
        loss = F.cross_entropy(net(images), targets)
        loss.backward()
        mean = loss.detach()
    else:
        mean = torch.zeros((), dtype=torch.float64)
        for some, their in zip(images.chunk(passes), targets.chunk(passes), strict=True):
            loss = F.cross_entropy(net(some), their) / passes
            loss.backward()
            mean += loss.detach()
    optimizer.step()
    optimizer.zero_grad()
    return mean


@torch.inference_mode()
def top1(net: nn.Module, photos: Photos, *, batch: int, training: bool = False) -> float:
    """Percent of ``photos`` whose class is rated highest.

    Args:
        net: Left as it is.
        photos: Put in a fixed random order first, so that a batch is not of one class.
        batch: Images per forward pass, which matters in training mode alone.
        training: Ask a copy in training mode: BatchNorm then uses the statistics of the batch.
    """
    asked = copy.deepcopy(net).train(training)
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))
    right = torch.zeros((), dtype=torch.int64)
    for chosen in order.split(batch):
        images = normalized(photos.pixels[chosen]).contiguous(memory_format=torch.channels_last)
        right += (asked(images).argmax(1) == photos.targets[chosen]).sum()
    return 100 * right.item() / len(photos)


def with_statistics_of(net: nn.Module, photos: Photos) -> nn.Module:
    """A copy of ``net`` whose BatchNorms hold the mean statistics of ``photos``, 200 at a time."""
    asked = copy.deepcopy(net).train()
    for module in asked.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain average of all batches
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for chosen in order.split(200):
            asked(normalized(photos.pixels[chosen]).contiguous(memory_format=torch.channels_last))
    return asked
