"""Contenders in turn, timed: by the clock on the wall, by the processor or by the GPU.

A time in milliseconds says as much about the machine and its other work as about the code, and two
times taken minutes apart cannot be compared. So all sides run in turn (A B, B A, A B, ...), each
round gives one ratio of neighbours, and the median over rounds is what counts; load that comes and
goes hits all sides alike. The milliseconds are there for scale.
"""

import ctypes
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch

from wszoo.bench.result import Row

Work = Callable[[], object]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


class Clock(NamedTuple):
    """A way to time work: what its seconds are called, and how long work takes by it."""

    name: str
    seconds: Callable[[Work], float]


def _elapsed(now: Callable[[], float]) -> Callable[[Work], float]:
    def seconds(work: Work) -> float:
        start = now()
        work()
        return now() - start

    return seconds


def _processor_time() -> float:
    """Of this process and of those it has waited for."""
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system


def _cuda_seconds(work: Work) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


WALL = Clock("wall time", _elapsed(time.perf_counter))
PROCESSOR = Clock("processor time of one thread", _elapsed(_processor_time))
CUDA = Clock("time between CUDA events", _cuda_seconds)


def interleave(contenders: Sequence[Work], rounds: int, clock: Clock = WALL) -> list[list[float]]:
    """Seconds that each contender took in each round, the order reversed every other round.

    All run once beforehand, untimed.
    """
    for work in contenders:
        work()
    seconds: list[list[float]] = [[] for _ in contenders]
    turns = list(zip(contenders, seconds, strict=True))
    for index in range(rounds):
        for work, taken in turns if index % 2 == 0 else reversed(turns):
            taken.append(clock.seconds(work))
    return seconds


def to_row(ours: Sequence[float], theirs: Sequence[float], **facts: Any) -> Row:
    """Sum up the seconds of paired rounds; ``facts`` are other fields of the row."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else 3 * ratios
    return Row(
        unit="ms",
        ours=1e3 * median(ours),
        theirs=1e3 * median(theirs),
        ratio=median(ratios),
        quartiles=(low, high),
        rounds=len(ratios),
        **facts,
    )


def keep_pages() -> None:
    """Have the C library keep freed memory, as it does by itself in a long-lived process.

    Otherwise whichever side allocates right after a large block was given back waits for the
    kernel to clear fresh pages: in a young process that is up to half of what is timed. All sides
    run under the same setting; it lasts as long as the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # glibc's; others decide for themselves
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(parameter, 1 << 30)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Threads of torch while it lasts; as they are where None."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
