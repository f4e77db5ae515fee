"""Memory of training against batch size: what a step holds per image, and what it takes at most."""

import json
import subprocess
import sys
from dataclasses import asdict
from functools import partial

import torch

from wszoo.bench.held import held_by_weights_and_images
from wszoo.bench.imports import environment
from wszoo.bench.memory_cell import Job, build
from wszoo.bench.nets import IMAGE_SIZE, PEERS, in_layout
from wszoo.bench.result import Row
from wszoo.bench.setting import Cell, Setting
from wszoo.memory import MEMORY

PEAK = "peak of a step"
HELD = "held for backward, per image"
# The levels of the ladder are told apart in the first of them.
_KINDS = (("bf16", "channels_last"), ("fp32", "contiguous"))
_KILLED = (-9, 137)  # how a process ends that the system ran out of memory for
_MIB = 2**20


def level_label(level: str) -> str:
    """What rows call our net at a level of the memory ladder."""
    return f"memory={level!r}"


def cells(setting: Setting) -> list[Cell]:
    """What is held, then one cell per precision and batch size."""
    kinds = _KINDS[:1] if setting.quick else _KINDS
    batches = (1, 4) if setting.quick else (1, 2, 4, 8)
    found = [
        Cell(f"held for backward, {' '.join(kind)}", partial(_held, setting, *kind))
        for kind in kinds
    ]
    found += [
        Cell(f"peak, batch {batch}, {' '.join(kind)}", partial(_peaks, setting, *kind, batch))
        for kind in kinds
        for batch in batches
    ]
    return found


def _contenders(setting: Setting, precision: str) -> dict[str, tuple[str, str]]:
    """Kind and level of each net by what rows call it; ours as it is comes first."""
    levels = MEMORY if precision == _KINDS[0][0] else MEMORY[:1]
    ours: dict[str, tuple[str, str]] = {level_label(level): ("ours", level) for level in levels}
    return ours | {PEERS[name].label: (name, MEMORY[0]) for name in setting.against}


def _held(setting: Setting, precision: str, layout: str) -> list[Row]:
    found: dict[str, int | None] = {}
    for label, (kind, level) in _contenders(setting, precision).items():
        net = in_layout(build(kind, level, setting.variant), setting.device, layout)
        _, found[label] = held_by_weights_and_images(
            net, layout, precision, setting.device, IMAGE_SIZE
        )
    return _rows(HELD, found, precision, layout, None)


def _peaks(setting: Setting, precision: str, layout: str, batch: int) -> list[Row]:
    found: dict[str, int | None] = {}
    for label, (kind, level) in _contenders(setting, precision).items():
        found[label] = measure(
            Job(
                kind=kind,
                level=level,
                variant=setting.variant,
                batch=batch,
                precision=precision,
                layout=layout,
                device=setting.device.type,
                threads=torch.get_num_threads(),
            )
        )
        if found[label] is None:
            setting.warnings.append(f"{label}, batch {batch}, {precision}: more than there is")
    return _rows(PEAK, found, precision, layout, batch)


def measure(job: Job) -> int | None:
    """Bytes that a step takes at most, in a process of its own.

    Returns:
        None where the system has less than that.

    Raises:
        ValueError: It cannot be measured on this system.
    """
    child = subprocess.run(
        [sys.executable, "-m", "wszoo.bench.memory_cell"],
        input=json.dumps(asdict(job)),
        env=environment(),
        capture_output=True,
        text=True,
    )
    told = (child.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    if child.returncode in _KILLED or "OutOfMemoryError" in told:
        return None
    if child.returncode:
        raise ValueError(told.removeprefix("ValueError: "))
    return int(child.stdout)


def _rows(
    what: str, found: dict[str, int | None], precision: str, layout: str, batch: int | None
) -> list[Row]:
    """Ours as it is beside each peer, then each other level of ours beside that."""
    plain, *others = found
    peers = {peer.label for peer in PEERS.values()}
    pairs = [(plain, each) for each in others if each in peers]
    pairs += [(each, plain) for each in others if each not in peers]
    rows = []
    for one, other in pairs:
        ours, theirs = found[one], found[other]
        if ours is not None and theirs is not None:
            rows.append(
                Row(
                    group="memory",
                    what=what if one == plain else f"{what}, {one}",
                    peer=other,
                    unit="MiB",
                    ours=ours / _MIB,
                    theirs=theirs / _MIB,
                    ratio=ours / theirs,
                    batch=batch,
                    precision=precision,
                    layout=layout,
                )
            )
    return rows
