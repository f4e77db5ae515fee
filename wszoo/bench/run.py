"""A whole run of the bench."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from wszoo.bench import footprint, imports, inference, kernels, loader, steps
from wszoo.bench.machine import describe_machine, load
from wszoo.bench.missed import Profile
from wszoo.bench.nets import PEERS, make_ours
from wszoo.bench.result import GROUPS, Comparison, Row
from wszoo.bench.setting import Cell, Setting
from wszoo.bench.timing import CUDA, PROCESSOR, WALL, keep_pages, torch_threads

DEVICES = ("cpu", "cuda")
_CELLS: dict[str, Callable[[Setting], list[Cell]]] = {
    "operator": kernels.cells,
    "inference": inference.cells,
    "training": steps.cells,
    "memory": footprint.cells,
    "import": imports.cells,
    "loader": loader.cells,
}
_PROFILES: dict[str, Callable[[Setting, Row], Profile]] = {
    "operator": kernels.profile,
    "inference": inference.profile,
    "training": steps.profile,
}
Tell = Callable[[str], object]


def compare(
    model: str,
    *,
    only: Sequence[str] = (),
    against: Sequence[str] = (),
    rounds: int | None = None,
    quick: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    cpu_time: bool = False,
    data: Path | None = None,
    tell: Tell | None = None,
) -> Comparison:
    """Measure a variant beside its peers: the same architecture, with random weights.

    Passes and operators that miss their goals are profiled at the end, always on the wall's clock;
    an import has its parts in ``python -X importtime -c 'import wszoo'``.

    Args:
        model: A variant of this zoo; a tag is ignored.
        only: Keys of ``GROUPS``; none: all.
        against: Keys of ``PEERS``; none: all.
        rounds: How often all sides run, after one round of warming up; by default as many as each
            group needs to be steady.
        quick: Leave out the larger half, and take three rounds unless ``rounds`` says otherwise.
        threads: Threads of torch while it lasts; as they are where None.
        device: ``"cpu"`` or ``"cuda"``. Goals are set for ResNet-50 on a CPU, but that of imports.
        cpu_time: Take the processor's time of one thread instead of the time on the wall: other
            programs then count less.
        data: Class folders to read photos from; the packaged photos where None.
        tell: Gets a line when a part of the run begins.

    Raises:
        ValueError: There is no such peer, group, device or variant, or settings exclude each other.
        FileNotFoundError: There is nothing at ``data``.
    """
    _check(only, against, rounds, threads, device, cpu_time)
    variant = model.split(".")[0]
    make_ours(variant)  # or say that there is none
    clock = PROCESSOR if cpu_time else WALL
    setting = Setting(
        variant=variant,
        against=tuple(name for name in PEERS if name in (against or PEERS)),
        device=torch.device(device),
        clock=CUDA if device == "cuda" else clock,
        host_clock=clock,
        rounds=rounds,
        quick=quick,
        data=data,
    )
    keep_pages()
    before = load()
    with torch_threads(1 if cpu_time else threads):
        tell = tell or (lambda _line: None)
        rows = _run(setting, only or tuple(GROUPS), tell)
        profiles = _profile(setting, rows, tell)
        machine = describe_machine(setting.device, before)
    return Comparison(
        model=variant,
        device=device,
        clock=setting.clock.name,
        machine=machine,
        rows=tuple(rows),
        warnings=(*machine.warnings(), *setting.warnings),
        profiles=tuple(profiles),
    )


def _check(
    only: Sequence[str],
    against: Sequence[str],
    rounds: int | None,
    threads: int | None,
    device: str,
    cpu_time: bool,
) -> None:
    for given, known, what, all_of_them in (
        (against, PEERS, "peer {!r} to compare with", "peers"),
        (only, GROUPS, "group {!r} of measurements", "groups"),
        ([device], DEVICES, "device {!r} to measure on", "devices"),
    ):
        for name in given:
            if name not in known:
                raise ValueError(f"no {what.format(name)}; the {all_of_them}: {', '.join(known)}")
    for label, count in (("rounds", rounds), ("threads", threads)):
        if count is not None and count < 1:
            raise ValueError(f"{label} must be at least 1, got {count}")
    if cpu_time and device == "cuda":
        raise ValueError("processor time says nothing about a GPU; leave --cpu-time out")
    if cpu_time and threads not in (None, 1):
        raise ValueError(
            f"processor time of {threads} threads is no time that anybody waits; "
            f"give --threads 1 or leave --cpu-time out"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("this machine has no CUDA device; leave --device out to take the CPU")


def _run(setting: Setting, only: Sequence[str], tell: Tell) -> list[Row]:
    tell("making the nets")
    cells = [(group, cell) for group in GROUPS if group in only for cell in _CELLS[group](setting)]
    rows: list[Row] = []
    for place, (group, cell) in enumerate(cells, 1):
        tell(f"{place} of {len(cells)}, {group}: {cell.about}")
        rows += cell()
    if "inference" in only:
        means = inference.conclude(setting, rows)
        place = next(i for i, row in enumerate(rows) if row.group == "inference")
        rows[place:place] = means
    return rows


def _profile(setting: Setting, rows: Sequence[Row], tell: Tell) -> list[Profile]:
    """Where the time of rows goes that took too long; goals are those of the CPU."""
    missed = [
        row for row in rows if row.met is False and row.unit == "ms" and row.group in _PROFILES
    ]
    profiles = []
    for place, row in enumerate(missed, 1):
        tell(f"profile {place} of {len(missed)}, {row.group}: {row.name}")
        profiles.append(_PROFILES[row.group](setting, row))
    return profiles
