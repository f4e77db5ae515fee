"""A result of a run that did not take place."""

from dataclasses import replace
from typing import Any

from wszoo.bench import Comparison, Row
from wszoo.bench.footprint import HELD, PEAK
from wszoo.bench.machine import Machine

MACHINE = Machine(
    processor="Some CPU",
    cores=4,
    usable=2,
    threads=2,
    gpu=None,
    system="Linux x86_64",
    python="3.12.1",
    torch="2.14.1",
    torchvision="0.29.1",
    timm="1.0.31",
    wszoo="0.1.0",
    commit="abc123",
    measured="2026-11-23",
    load_before=0.1,
    load_after=2.0,
)


def row(group: str, what: str, ratio: float, **more: Any) -> Row:
    facts: dict[str, Any] = {
        "peer": "StdConv2d",
        "unit": "ms",
        "ours": 10 * ratio,
        "theirs": 10.0,
    } | more
    return Row(group=group, what=what, ratio=ratio, **facts)


def peaks(batch: int) -> list[Row]:
    mib, kind = 100.0 * batch, {"batch": batch, "precision": "bf16", "layout": "channels_last"}
    ladder, unit = row("memory", f"{PEAK}, memory='lean'", 0.9, **kind), {"unit": "MiB", **kind}
    return [
        row("memory", PEAK, 0.95, ours=mib, theirs=mib / 0.95, peer="BatchNorm", **unit),
        replace(ladder, ours=0.9 * mib, theirs=mib, peer="memory='fast'", unit="MiB"),
    ]


ROWS = (
    row("operator", "formula jhu", 0.5, goal=0.6, quartiles=(0.4, 0.55), layout="contiguous"),
    row("training", "step", 1.2, goal=1.1, peer="BatchNorm", batch=8, precision="bf16", rounds=7),
    row("memory", HELD, 1.0, peer="BatchNorm", precision="bf16", layout="channels_last"),
    *(each for batch in (1, 2, 4, 8) for each in peaks(batch)),
    row("loader", "read", 0.8, ours=340.0, theirs=270.0, unit="images/s", peer="torchvision"),
)
RESULT = Comparison(
    model="resnet50_gn_ws", device="cpu", clock="wall time", machine=MACHINE, rows=ROWS
)
