"""Weight Standardization by itself: its time, and what it has autograd save."""

from collections.abc import Callable, Iterable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from wszoo.bench.held import held_by_weights_and_images
from wszoo.bench.missed import ALLOCATION, CALLS, KERNELS, Profile
from wszoo.bench.nets import LAYOUTS, PEERS, PRECISIONS, in_layout, kind_of, make_net, make_ours
from wszoo.bench.result import Row
from wszoo.bench.setting import Cell, Setting
from wszoo.bench.shares import allocation_of
from wszoo.bench.timing import WALL, Clock, Work, interleave, to_row
from wszoo.layers import WSConv2d, standardize_weight

Operator = Callable[[Tensor], Tensor]

# By formula and layout, beside timm's operator. Those with eps inside the root take less.
TIME_GOALS = {
    "jhu": {"contiguous": 0.60, "channels_last": 0.70},
    "bcn": {"contiguous": 0.45, "channels_last": 0.35},
    "bit": {"contiguous": 0.45, "channels_last": 0.35},
}
SAVED_GOALS = {"fp32": 1.0, "bf16": 0.55}  # beside the bytes of all parameters
_FORMULA = "formula "
_FEW = 2  # filters, whose arithmetic is next to nothing
_ROUNDS = 15
_SIZE = 64  # pixels; what the weights have saved is the same at any size
_MIB = 2**20


def cells(setting: Setting) -> list[Cell]:
    """Times in both layouts, then saved bytes in both layouts and precisions."""
    found = [Cell(f"time, {layout}", partial(_time, setting, layout)) for layout in LAYOUTS]
    found += [
        Cell(f"saved for backward, {each} {layout}", partial(_saved, setting, each, layout))
        for each in PRECISIONS
        for layout in LAYOUTS
    ]
    if setting.device.type == "cuda":
        found.append(Cell("fused norms", partial(_fused_norms, setting)))
    return found


def _time(setting: Setting, layout: str) -> list[Row]:
    peers = {name: PEERS[name] for name in setting.against if PEERS[name].standardize}
    if not peers:
        return []
    operators: dict[str, Operator] = {
        name: partial(standardize_weight, formula=name) for name in TIME_GOALS
    }
    ours = [*operators]
    operators |= {name: peer.standardize for name, peer in peers.items() if peer.standardize}
    seconds = dict(zip(operators, _seconds(setting, layout, operators), strict=True))
    return [
        to_row(
            seconds[name],
            seconds[peer],
            group="operator",
            what=f"{_FORMULA}{name}",
            peer=PEERS[peer].label,
            goal=setting.goal(TIME_GOALS[name][layout]) if peer == "timm" else None,
            layout=layout,
        )
        for peer in peers
        for name in ours
    ]


def _seconds(
    setting: Setting,
    layout: str,
    operators: dict[str, Operator],
    filters: int | None = None,
    clock: Clock | None = None,
) -> list[list[float]]:
    works = _works(setting, layout, operators, filters)
    return interleave(works, setting.rounds_of(_ROUNDS), clock or setting.clock)


def _works(
    setting: Setting, layout: str, operators: dict[str, Operator], filters: int | None = None
) -> list[Work]:
    """Each operator on all kernels of the net, or on the first ``filters`` of each."""
    convs = (m for m in make_ours(setting.variant).modules() if isinstance(m, WSConv2d))
    weights = [
        conv.weight[:filters]
        .detach()
        .to(setting.device)
        .clone(memory_format=LAYOUTS[layout])
        .requires_grad_()
        for conv in convs
    ]
    grads = [torch.randn_like(weight) for weight in weights]
    return [partial(forward_backward, each, weights, grads) for each in operators.values()]


def forward_backward(operator: Operator, weights: list[Tensor], grads: list[Tensor]) -> None:
    """All kernels live until the backward pass, as in a training step."""
    torch.autograd.grad([operator(weight) for weight in weights], weights, grads)


def _saved(setting: Setting, precision: str, layout: str) -> list[Row]:
    found, size = {}, 0
    for kind in ("ours", *(name for name in setting.against if PEERS[name].standardize)):
        net = in_layout(make_net(kind, setting.variant), setting.device, layout)
        size = sum(p.numel() * p.element_size() for p in net.parameters())
        found[kind], _ = held_by_weights_and_images(net, layout, precision, setting.device, _SIZE)
    ours = found.pop("ours")
    beside = {"all parameters": size, **{PEERS[name].label: each for name, each in found.items()}}
    goal = setting.goal(SAVED_GOALS[precision])
    return [
        Row(
            group="operator",
            what="saved for backward, weights",
            peer=peer,
            unit="MiB",
            ours=ours / _MIB,
            theirs=theirs / _MIB,
            ratio=ours / theirs,
            goal=goal if peer == "all parameters" else None,
            precision=precision,
            layout=layout,
        )
        for peer, theirs in beside.items()
    ]


def _fused_norms(setting: Setting) -> list[Row]:
    """The fused norms of this zoo beside those of torch."""
    from wszoo.triton_kernels import compare_on_cuda

    batches = (2,) if setting.quick else (1, 2, 8, 32)
    rounds = setting.rounds_of(_ROUNDS)
    return fused_rows(compare_on_cuda(batches=batches, rounds=rounds), rounds)


def fused_rows(timings: Iterable[tuple[str, float, float]], rounds: int) -> list[Row]:
    """Rows of names that end in the peer, with median milliseconds of ours and of theirs."""
    rows = []
    for name, ours, theirs in timings:
        site, _, peer = name.rpartition(", beside ")
        rows.append(
            Row(
                group="operator",
                what=f"fused norm, {site}",
                peer=peer,
                unit="ms",
                ours=ours,
                theirs=theirs,
                ratio=ours / theirs,
                rounds=rounds,
            )
        )
    return rows


class _Least(torch.autograd.Function):
    """Reads and writes each number no more often than any operator must."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return weight * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad + ctx.saved_tensors[0]


def profile(setting: Setting, row: Row) -> Profile:
    """Where the time of both sides of ``row``, one of times, goes, on the wall."""
    assert row.layout is not None
    theirs = PEERS[kind_of(row.peer)].standardize
    assert theirs is not None
    name = row.what.removeprefix(_FORMULA)
    operators: dict[str, Operator] = {
        "ours": partial(standardize_weight, formula=name),
        "theirs": theirs,
        "least": _Least.apply,
    }
    whole, small = (
        [1e3 * median(each) for each in _seconds(setting, row.layout, operators, filters, WALL)]
        for filters in (None, _FEW)
    )
    asked, asked_small = (
        [allocation_of(work) for work in _works(setting, row.layout, operators, filters)]
        for filters in (None, _FEW)
    )
    parts = []
    for total, calls, more, less in zip(whole, small, asked, asked_small, strict=True):
        allocation = max(0.0, more - less)
        kernels = max(0.0, total - calls - allocation)
        parts.append({KERNELS: kernels, ALLOCATION: allocation, CALLS: calls})
    return Profile.of(row, parts[0], parts[1], whole[2])
