"""Processes that train one net together: started by torchrun, or a single one without it."""

import inspect
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from wszoo.training.meeting import fresh_store

T = TypeVar("T")
# The first is deprecated where there is the second, from torch 2.14 on.
_SYNC_BUFFERS = sorted(
    {"broadcast_buffers", "forward_sync_buffers"}
    & {*inspect.signature(DistributedDataParallel).parameters}
)[-1]
NOT_JOINED = 6  # exit code of a worker that could not reach the others
PARENT_LOST = 5  # exit code of a worker whose agent is gone


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: Its number; rank 0 writes what is written.
        size: How many there are.
        device: Where its share of the work is done.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether any rank holds a flag that is set."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item())

    def share(self, value: T) -> T:
        """What rank 0 holds; the other ranks' ``value`` is ignored."""
        if self.size == 1:
            return value
        held: list[Any] = [value]
        dist.broadcast_object_list(held, src=0, device=self.device)
        shared: T = held[0]
        return shared

    def gather(self, mine: dict[int, T]) -> dict[int, T]:
        """What all ranks hold together, of which no key is held twice."""
        if self.size == 1:
            return mine
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, mine)
        return {key: value for part in parts for key, value in part.items()}

    def wait(self) -> None:
        """Return once every rank has come here."""
        if self.size > 1:
            dist.barrier()

    def replicate(self, model: nn.Module) -> nn.Module:
        """The net as it is trained by several ranks: gradients are means over them.

        GroupNorm has no running statistics, so nothing is synchronised in the forward pass.
        """
        if self.size == 1:
            return model
        # Stock DDP regroups its buckets after the first backward pass. A run that was resumed
        # would then add up in another order than one left alone, which changes bits from three
        # ranks on. It does not regroup where it looks for unused parameters.
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            find_unused_parameters=True,
            **options,
        )


@contextmanager
def join_ranks(*, device: str | None = None, wait_minutes: float = 10) -> Iterator[Ranks]:
    """Join the processes that torchrun started, or be the only one.

    Args:
        device: Such as ``"cpu"``; by default this rank's GPU where there is one.
        wait_minutes: How long one rank waits for the others before it gives up with an error.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device is None:
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if place.type == "cpu":
        _take_cores(local, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(device=place)
        return
    # gloo alone would wait five times as long for a rank that does not come.
    late = threading.Timer(60 * wait_minutes, _give_up, [wait_minutes])
    late.daemon = True
    late.start()
    patience = timedelta(minutes=wait_minutes)
    store, rank, size = next(rendezvous("env://", timeout=patience))
    dist.init_process_group(
        "nccl" if place.type == "cuda" else "gloo",
        store=fresh_store(store, rank, size, patience),
        rank=rank,
        world_size=size,
        timeout=patience,
    )
    late.cancel()
    yield Ranks(dist.get_rank(), dist.get_world_size(), place)
    # Not on errors: the other ranks may be gone, and leaving politely would wait for them.
    dist.destroy_process_group()


def _give_up(minutes: float) -> None:
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    said = f"wszoo: rank {rank} of {size} could not reach the others in {minutes:g} minutes"
    print(f"{said}; start again", file=sys.stderr, flush=True)  # noqa: T201  it ends at once
    os._exit(NOT_JOINED)


def core_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _take_cores(local_rank: int, local_size: int) -> None:
    """Give each rank of this machine cores of its own: threads that share one wait in turns."""
    if local_size == 1 or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if mine := cores[local_rank::local_size]:
        os.sched_setaffinity(0, mine)
        torch.set_num_threads(len(mine))


def end_with_parent(*, interval: float = 1.0) -> None:
    """Let this process end within ``interval`` seconds of the one that started it.

    Workers of torchrun outlive an agent that was killed, and would hold the run's folder.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os._exit(PARENT_LOST)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
