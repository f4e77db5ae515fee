"""Training steps in every precision and layout."""

from functools import partial

from torch import nn

from wszoo.bench.nets import (
    LAYOUTS,
    PEERS,
    PRECISIONS,
    in_layout,
    make_net,
    random_images,
    trainer,
)
from wszoo.bench.result import Row
from wszoo.bench.setting import Cell, Setting
from wszoo.bench.timing import interleave, to_row

_ROUNDS = 7  # steps of eight images take seconds
_BESIDE_STDCONV = {8: 1.00, 2: 0.95}  # by batch size
_BESIDE_BATCH_NORM = {  # at batch 8; in fp32, channels_last informs
    ("fp32", "contiguous"): 1.02,
    ("bf16", "contiguous"): 1.02,
    ("bf16", "channels_last"): 1.10,
}


def goal_of(peer: str, batch: int, precision: str, layout: str) -> float | None:
    """What a step of ours may take beside that of a peer."""
    if peer == "timm":
        return _BESIDE_STDCONV.get(batch)
    if peer == "bn" and batch == 8:
        return _BESIDE_BATCH_NORM.get((precision, layout))
    return None


def cells(setting: Setting) -> list[Cell]:
    """One per batch size, precision and layout."""
    nets: dict[str, nn.Module] = {}  # made when the first cell runs
    return [
        partial(_time, setting, nets, batch, precision, layout)
        for batch in ((2,) if setting.quick else (8, 2))
        for precision in PRECISIONS
        for layout in LAYOUTS
    ]


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
