"""Where the time of a pass goes, by torch's profiler: convolution, norm, WS, and the rest.

Forward, an operator belongs to the layer that calls it; backward, to the part whose operator it
differentiates, which the profiler knows by the sequence number that the two share.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter
from typing import Any

from torch import nn
from torch.autograd.profiler import record_function
from torch.nn.modules.batchnorm import _BatchNorm
from torch.profiler import ProfilerActivity, profile

from wszoo.bench.missed import CONVOLUTION, NORM, REST, WS
from wszoo.bench.timing import Work
from wszoo.layers import BatchChannelNorm

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler writes among the progress

PASSES = 3
_MARK = "wszoo.bench::"
_BACKWARD = "autograd::engine::evaluate_function: "
_ALLOCATIONS = ("aten::empty", "aten::new_empty", "aten::resize")
_PARTS = (CONVOLUTION, NORM, WS, REST)
_NORMS = (BatchChannelNorm, nn.GroupNorm, _BatchNorm)


def shares_of(
    sides: Sequence[tuple[nn.Module, Work]], passes: int = PASSES
) -> list[dict[str, float]]:
    """Milliseconds of each side's pass by part: medians over passes, which the sides take in turn.

    Args:
        sides: Nets, and work that passes through them.
        passes: Of each side, after one that is not counted.
    """
    found: list[list[dict[str, float]]] = [[] for _ in sides]
    with ExitStack() as marks:
        for net, work in sides:
            marks.enter_context(_marked(net))
            work()
        for _ in range(passes):
            for (_, work), of_side in zip(sides, found, strict=True):
                of_side.append(_sorted_by_part(*_profiled(work)))
    return [{part: median(each[part] for each in of_side) for part in _PARTS} for of_side in found]


def allocation_of(work: Work, passes: int = PASSES) -> float:
    """Milliseconds that ``work`` spends in asking for memory: the median over passes."""
    work()
    return median(
        sum(e.self_cpu_time_total for e in _profiled(work)[0] if e.name.startswith(_ALLOCATIONS))
        / 1e3
        for _ in range(passes)
    )


def _profiled(work: Work) -> tuple[Sequence[Any], float]:
    """What ran in the order of its beginning, and the milliseconds that it took together."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as recorded:
        start = perf_counter()
        work()
        elapsed = perf_counter() - start
    events: Any = recorded.events()
    return sorted(events, key=lambda event: event.time_range.start), 1e3 * elapsed


@contextmanager
def _marked(net: nn.Module) -> Iterator[None]:
    """Have the convolutions and norms of ``net`` tell the profiler when they run."""
    marked = [*_outermost(net)]
    for layer, part in marked:
        layer.forward = _telling(layer.forward, part)
    try:
        yield
    finally:
        for layer, _ in marked:
            del layer.forward


def _outermost(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    part = _part_of(module)
    if part is not None:
        yield module, part
        return
    for child in module.children():
        yield from _outermost(child)


def _part_of(layer: nn.Module) -> str | None:
    if isinstance(layer, nn.Conv2d):
        return WS  # until it convolves
    return NORM if isinstance(layer, _NORMS) else None


def _telling(forward: Callable[..., Any], part: str) -> Callable[..., Any]:
    def told(*args: Any, **kwargs: Any) -> Any:
        with record_function(_MARK + part):
            return forward(*args, **kwargs)

    return told


def _sorted_by_part(events: Sequence[Any], elapsed: float) -> dict[str, float]:
    parts: dict[int, str] = {}  # of events, by their identity
    by_sequence: dict[int, str] = {}
    spent = dict.fromkeys(_PARTS, 0.0)
    for event in events:
        above = REST if event.cpu_parent is None else parts.get(id(event.cpu_parent), REST)
        part = parts[id(event)] = _part_of_event(event, above, by_sequence)
        if part != REST and event.sequence_nr >= 0 and not event.name.startswith(_BACKWARD):
            by_sequence[event.sequence_nr] = part  # the last one is that which is differentiated
        if not event.name.startswith(_MARK):
            spent[part] += event.self_cpu_time_total / 1e3
    spent[REST] = max(0.0, elapsed - sum(spent.values()) + spent[REST])
    return spent


def _part_of_event(event: Any, above: str, by_sequence: dict[int, str]) -> str:
    name: str = event.name
    if name.startswith(_BACKWARD):
        return by_sequence.get(event.sequence_nr, REST)
    if name.startswith(_MARK):
        return name.removeprefix(_MARK)
    if above == WS and name.startswith("aten::") and "conv" in name:
        return CONVOLUTION
    return above
