"""One training step on photos of the worst kind, to measure what memory it takes.

``python -m wszoo.finetune.memory_step`` is the child process in which it is measured on a CPU: what
a process has taken once it seldom gives back, so each measurement needs a fresh one.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.finetune.models import Net, net_from_json, rebuild, set_trainable_stages
from wszoo.finetune.optimizer import make_adamw
from wszoo.finetune.settings import FineTuning
from wszoo.memory import Memory, save_memory
from wszoo.segmentation.loss import segmentation_loss
from wszoo.training.distributed import Ranks
from wszoo.training.engine import Learner

_STEPS = 2  # the second has the optimizer's state beside its gradients


@dataclass(frozen=True, kw_only=True)
class Load:
    """The heaviest work that a photo can be.

    Attributes:
        sizes: Width and height in pixels of the photos that make the largest batches: the widest
            and the tallest, once they are resized, since a batch is padded to both.
        objects: The most in one photo (detectors).
        masks: Whether objects have masks.
    """

    sizes: tuple[tuple[int, int], ...]
    objects: int = 0
    masks: bool = False

    def __str__(self) -> str:
        sizes = " and ".join(f"{width} x {height}" for width, height in dict.fromkeys(self.sizes))
        return f"photos of {sizes} pixels" + (
            f" with {self.objects} objects" if self.objects else ""
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """A step to measure.

    Attributes:
        net: What to build.
        settings: Of the run.
        num_classes: Names.
        trainable_stages: Of the backbone; None: all is trained.
        load: What each photo is like.
        memory: Level of the blocks, see ``wszoo.memory.save_memory``.
    """

    net: Net
    settings: FineTuning
    num_classes: int
    trainable_stages: int | None
    load: Load
    memory: Memory = "fast"


def take_steps(job: Job, micro_batch_size: int, device: torch.device) -> None:
    """Train on random photos of the worst kind."""
    settings = job.settings
    model = rebuild(job.net, settings, job.num_classes).to(device).train()
    if job.trainable_stages is not None:
        set_trainable_stages(model, job.trainable_stages)
    save_memory(model, job.memory)
    learner = Learner(
        model,
        make_adamw(model, settings),
        ranks=Ranks(device=device),
        precision=settings.precision,
        clip_grad=settings.clip_grad,
        ema_decay=settings.ema,
    )
    batch = _batch(job, micro_batch_size, device)
    for _ in range(_STEPS):
        learner.step([batch], _LOSSES[settings.task], rate=0.0)


def _batch(job: Job, count: int, device: torch.device) -> Any:
    load, generator = job.load, torch.Generator().manual_seed(0)
    sizes = [load.sizes[index % len(load.sizes)] for index in range(count)]
    images = [
        torch.rand(3, height, width, generator=generator).to(device) for width, height in sizes
    ]
    if job.settings.task == "detect":
        return images, [_target(load, size, generator, device) for size in sizes]
    labels = torch.zeros(count, *sizes[0][::-1], dtype=torch.long, device=device)
    return torch.stack(images), labels if job.settings.task == "segment" else labels[:, 0, 0]


def _target(
    load: Load, size: tuple[int, int], generator: torch.Generator, device: torch.device
) -> dict[str, Tensor]:
    """Objects all over a photo, an eighth of its sides each."""
    extent = torch.tensor(size, dtype=torch.float32)
    corner = torch.rand(load.objects, 2, generator=generator) * extent * 7 / 8
    target = {
        "boxes": torch.cat((corner, corner + extent / 8), dim=1),
        "labels": torch.ones(load.objects, dtype=torch.long),
    }
    if load.masks:
        target["masks"] = torch.ones(load.objects, size[1], size[0], dtype=torch.bool)
    return {key: value.to(device) for key, value in target.items()}


def _detector_loss(model: nn.Module, batch: Any) -> Tensor:
    losses: dict[str, Tensor] = model(*batch)
    return torch.stack([*losses.values()]).sum()


_LOSSES: dict[str, Callable[[nn.Module, Any], Tensor]] = {
    "classify": lambda model, batch: F.cross_entropy(model(batch[0]).float(), batch[1]),
    "detect": _detector_loss,
    "segment": lambda model, batch: segmentation_loss(model(batch[0]), batch[1]),
}


def to_json(job: Job) -> dict[str, Any]:
    """A job as plain data."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(job)))
    return plain


def job_from_json(data: dict[str, Any]) -> Job:
    """The reverse."""
    load, settings = dict(data["load"]), dict(data["settings"])
    settings["scale"] = tuple(settings["scale"])
    load["sizes"] = tuple((width, height) for width, height in load["sizes"])
    return Job(
        net=net_from_json(data["net"]),
        settings=FineTuning(**settings),
        num_classes=data["num_classes"],
        trainable_stages=data["trainable_stages"],
        load=Load(**load),
        memory=data["memory"],
    )


def _peak_of_this_process() -> int:
    """Bytes of memory that this process has held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had held when it forked
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return 1024 * int(lines["VmHWM"].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _main() -> None:
    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    take_steps(job_from_json(task), task["micro_batch_size"], torch.device("cpu"))
    sys.stdout.write(str(_peak_of_this_process()))


if __name__ == "__main__":
    _main()
