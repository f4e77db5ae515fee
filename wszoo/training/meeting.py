"""Ranks that meet in a store in which earlier ones have left their words.

torchrun keeps one store over all restarts of its workers, and gloo and NCCL write their addresses
under the same keys each time. A worker that reads before another has written then calls an address
of the dead: it is refused, or waits for ever. Here all ranks agree on a prefix of their own first.
"""

import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store

_PAUSE = 0.02  # seconds between looks


def fresh_store(store: Store, rank: int, size: int, patience: timedelta) -> Store:
    """A part of ``store`` that these processes share with no earlier ones.

    Each rank but the first says hello with a number nobody else has. The first answers every hello
    it finds, those of the dead too, with the name of the new part. Only the living thank for it.

    Args:
        store: That all ranks reach.
        rank: Of this process.
        size: How many meet.
        patience: How long this may take.

    Raises:
        TimeoutError: Some rank did not come.
    """
    until = time.monotonic() + patience.total_seconds()
    if rank == 0:
        part = f"wszoo-{uuid.uuid4().hex}"
        _receive(store, part, set(range(1, size)), until)
    else:
        hello = uuid.uuid4().hex
        store.set(f"hello/{rank}", hello)
        _await(store, f"welcome/{hello}", "0", until)
        part = store.get(f"welcome/{hello}").decode()
        store.set(f"{part}/thanks/{rank}", "")
    return PrefixStore(part, store)


def _receive(store: Store, part: str, missing: set[int], until: float) -> None:
    """Answer until every rank has thanked."""
    while missing:
        for rank in sorted(missing):
            if store.check([f"{part}/thanks/{rank}"]):
                missing.remove(rank)
            elif store.check([f"hello/{rank}"]):
                store.set(f"welcome/{store.get(f'hello/{rank}').decode()}", part)
        if missing:
            _pause(", ".join(map(str, sorted(missing))), until)


def _await(store: Store, key: str, whom: str, until: float) -> None:
    while not store.check([key]):
        _pause(whom, until)


def _pause(whom: str, until: float) -> None:
    if time.monotonic() > until:
        raise TimeoutError(f"rank {whom} did not come; start again")
    time.sleep(_PAUSE)
