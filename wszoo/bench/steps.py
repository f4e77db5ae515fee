"""Training steps in every precision and layout."""

from functools import partial
from statistics import median

from torch import nn

from wszoo.bench.missed import Profile
from wszoo.bench.nets import (
    LAYOUTS,
    PEERS,
    PRECISIONS,
    STOCK,
    STOCK_LABEL,
    has_group_norm,
    in_layout,
    kind_of,
    make_net,
    random_images,
    trainer,
)
from wszoo.bench.result import Row
from wszoo.bench.setting import Cell, Setting
from wszoo.bench.shares import shares_of
from wszoo.bench.timing import interleave, to_row

_ROUNDS, _STOCK_ROUNDS = 7, 5  # steps of eight images take seconds
_BESIDE_STDCONV = {8: 1.00, 2: 0.95}  # by batch size
_BESIDE_BATCH_NORM = {  # at batch 8; in fp32, channels_last informs
    ("fp32", "contiguous"): 1.02,
    ("bf16", "contiguous"): 1.02,
    ("bf16", "channels_last"): 1.10,
}
_BESIDE_STOCK = 1.05  # in either layout, beside stock norms in the layout that suits them


def goal_of(peer: str, batch: int, precision: str, layout: str) -> float | None:
    """What a step of ours may take beside that of a peer."""
    if peer == "timm":
        return _BESIDE_STDCONV.get(batch)
    if peer == "bn" and batch == 8:
        return _BESIDE_BATCH_NORM.get((precision, layout))
    return None


def cells(setting: Setting) -> list[Cell]:
    """One per batch size, precision and layout, and beside all peers one for both layouts."""
    nets: dict[str, nn.Module] = {}  # made when the first cell runs
    batches = (2,) if setting.quick else (8, 2)
    found = [
        Cell(
            f"batch {batch}, {precision} {layout}",
            partial(_time, setting, nets, batch, precision, layout),
        )
        for batch in batches
        for precision in PRECISIONS
        for layout in LAYOUTS
    ]
    if set(setting.against) == set(PEERS) and has_group_norm(setting.variant):
        found += [
            Cell(
                f"batch {batch}, {precision}, stock GroupNorm",
                partial(_beside_stock, setting, batch, precision),
            )
            for batch in batches
            for precision in PRECISIONS
        ]
    return found


def _time(
    setting: Setting, nets: dict[str, nn.Module], batch: int, precision: str, layout: str
) -> list[Row]:
    for kind in ("ours", *setting.against):
        if kind not in nets:
            nets[kind] = make_net(kind, setting.variant)
        net = nets[kind]
        net.zero_grad()  # gradients would stay in the old layout
        in_layout(net, setting.device, layout)
    images = random_images(batch, layout, setting.device)
    works = [partial(trainer(net, precision), images) for net in nets.values()]
    times = interleave(works, setting.rounds_of(_ROUNDS), setting.clock)
    seconds = dict(zip(nets, times, strict=True))
    return [
        to_row(
            seconds["ours"],
            seconds[peer],
            group="training",
            what="step",
            peer=PEERS[peer].label,
            goal=setting.goal(goal_of(peer, batch, precision, layout)),
            batch=batch,
            precision=precision,
            layout=layout,
        )
        for peer in setting.against
    ]


def _beside_stock(setting: Setting, batch: int, precision: str) -> list[Row]:
    """Ours in each layout beside the same net with PyTorch's norms in the better one for these."""
    sides = [(kind, layout) for kind in ("ours", STOCK) for layout in LAYOUTS]
    works = []
    for kind, layout in sides:
        net = in_layout(make_net(kind, setting.variant), setting.device, layout)
        works.append(partial(trainer(net, precision), random_images(batch, layout, setting.device)))
    times = interleave(works, setting.rounds_of(_STOCK_ROUNDS), setting.clock)
    seconds = dict(zip(sides, times, strict=True))
    better = min((seconds[STOCK, layout] for layout in LAYOUTS), key=median)
    return [
        to_row(
            seconds["ours", layout],
            better,
            group="training",
            what="step",
            peer=STOCK_LABEL,
            goal=setting.goal(_BESIDE_STOCK),
            batch=batch,
            precision=precision,
            layout=layout,
        )
        for layout in LAYOUTS
    ]


def profile(setting: Setting, row: Row) -> Profile:
    """Where the time of both sides of ``row`` goes."""
    assert row.batch is not None and row.precision is not None and row.layout is not None
    theirs = STOCK if row.peer == STOCK_LABEL else kind_of(row.peer)
    kinds = [("ours", row.layout)]
    kinds += [(theirs, layout) for layout in (LAYOUTS if theirs == STOCK else [row.layout])]
    sides = []
    for kind, layout in kinds:
        net = in_layout(make_net(kind, setting.variant), setting.device, layout)
        images = random_images(row.batch, layout, setting.device)
        sides.append((net, partial(trainer(net, row.precision), images)))
    ours, *others = shares_of(sides)
    return Profile.of(row, ours, min(others, key=lambda parts: sum(parts.values())))
