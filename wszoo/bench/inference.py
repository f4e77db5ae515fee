"""Forward passes without gradients: folded nets, and nets that keep their kernels."""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from statistics import mean

import torch
from torch import Tensor, nn

from wszoo.bench.missed import Profile
from wszoo.bench.nets import (
    LAYOUTS,
    PEERS,
    PRECISIONS,
    autocast,
    in_layout,
    kind_of,
    make_ours,
    make_twin,
    random_images,
)
from wszoo.bench.result import Row
from wszoo.bench.setting import Cell, Setting
from wszoo.bench.shares import shares_of
from wszoo.bench.timing import interleave, to_row
from wszoo.layers import fold

FOLDED, KEPT = "folded", "kept kernels"
MEAN_GOALS = {"timm": 0.60}  # at batch 1, of the mean over precisions and layouts
CELL_GOALS = {("bn", "fp32", "contiguous"): 1.05}  # at batch 1
_MEAN = "mean over fp32, bf16 and both layouts"
_ROUNDS = 9


def cells(setting: Setting) -> list[Cell]:
    """One per batch size, precision and layout."""
    ours = make_ours(setting.variant)
    twins = {name: make_twin(ours, setting.variant, name) for name in setting.against}
    nets = {FOLDED: fold(deepcopy(ours)), KEPT: ours, **twins}
    return [
        Cell(
            f"batch {batch}, {precision} {layout}",
            partial(_time, setting, nets, batch, precision, layout),
        )
        for batch in ((1,) if setting.quick else (1, 8))
        for precision in PRECISIONS
        for layout in LAYOUTS
    ]


def _time(
    setting: Setting, nets: dict[str, nn.Module], batch: int, precision: str, layout: str
) -> list[Row]:
    for net in nets.values():
        in_layout(net, setting.device, layout)
    images = random_images(batch, layout, setting.device)
    works = [partial(forward, net, images, precision) for net in nets.values()]
    times = interleave(works, setting.rounds_of(_ROUNDS), setting.clock)
    seconds = dict(zip(nets, times, strict=True))
    return [
        to_row(
            seconds[form],
            seconds[peer],
            group="inference",
            what=form,
            peer=PEERS[peer].label,
            goal=setting.goal(CELL_GOALS.get((peer, precision, layout)) if batch == 1 else None),
            batch=batch,
            precision=precision,
            layout=layout,
        )
        for form in (FOLDED, KEPT)
        for peer in setting.against
    ]


def forward(net: nn.Module, images: Tensor, precision: str) -> Tensor:
    """One pass, as a user of a loaded net has it."""
    with torch.inference_mode(), autocast(images.device, precision):
        answer: Tensor = net(images)
    return answer


def conclude(setting: Setting, rows: Sequence[Row]) -> list[Row]:
    """The means at batch 1 over precisions and layouts."""
    found = []
    for form in (FOLDED, KEPT):
        for peer in setting.against:
            label = PEERS[peer].label
            each = [r for r in rows if (r.what, r.peer, r.batch) == (form, label, 1)]
            found.append(
                Row(
                    group="inference",
                    what=f"{form}, {_MEAN}",
                    peer=label,
                    unit="ms",
                    ours=mean(row.ours for row in each),
                    theirs=mean(row.theirs for row in each),
                    ratio=mean(row.ratio for row in each),
                    goal=setting.goal(MEAN_GOALS.get(peer)),
                    rounds=each[0].rounds,
                    batch=1,
                )
            )
    return found


def profile(setting: Setting, row: Row) -> Profile:
    """Where the time of both sides of ``row`` goes; of a mean, the mean parts."""
    assert row.batch is not None
    ours = make_ours(setting.variant)
    twin = make_twin(ours, setting.variant, kind_of(row.peer))
    nets = (fold(deepcopy(ours)) if row.what.startswith(FOLDED) else ours, twin)
    precisions = PRECISIONS if row.precision is None else (row.precision,)
    layouts = (*LAYOUTS,) if row.layout is None else (row.layout,)
    found = []
    for layout in layouts:
        images = random_images(row.batch, layout, setting.device)
        for net in nets:
            in_layout(net, setting.device, layout)
        for precision in precisions:
            works = [partial(forward, net, images, precision) for net in nets]
            found.append(shares_of([*zip(nets, works, strict=True)]))
    ours_parts, theirs = map(_mean_of, zip(*found, strict=True))
    return Profile.of(row, ours_parts, theirs)


def _mean_of(shares: Sequence[dict[str, float]]) -> dict[str, float]:
    return {part: mean(each[part] for each in shares) for part in shares[0]}
