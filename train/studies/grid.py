"""A grid of small runs, and how several processes share it."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from train.studies.learn import (
    MOMENTUM,
    RATE_PER,
    WARMUP,
    WEIGHT_DECAY,
    Outcome,
    Plan,
    top1,
    train,
    with_statistics_of,
)
from train.studies.nets import GROUPS, KINDS, make_net
from train.studies.photos import Subset
from train.studies.results import provenance
from wszoo.training.rows import Row, append_row, read_rows

RESULTS = "results.jsonl"
BATCHES = (1, 64, 4, 16, 2)  # the ends first, so that a part of the grid says most
SEEDS = (0, 1, 2)
BASE_RATES = (0.00625, 0.0125, 0.025, 0.05, 0.1)
RATE_BATCH = 64
SAMPLES = 32_000  # all of the grid in about four CPU hours
RATE_SAMPLES = SAMPLES // 2
MODULE = "train.study_batch_size"
PLAN = {
    "net": "ResNet-20, 3x3 stem, shortcuts without parameters, channels_last, fp32, one thread",
    "groups": GROUPS,
    "samples": SAMPLES,
    "seeds": SEEDS,
    "batches": sorted(BATCHES),
    "optimizer": "SGD, decay on kernels alone",
    "momentum": MOMENTUM,
    "weight_decay": WEIGHT_DECAY,
    "schedule": f"peak rate = base rate x batch / {RATE_PER}; linear warm-up, cosine to zero",
    "warmup": WARMUP,
    "rate_search": {"batch": RATE_BATCH, "samples": RATE_SAMPLES, "base_rates": BASE_RATES},
}


class Cell(NamedTuple):
    """One run: of the search for a rate, or of the grid."""

    kind: str
    batch: int
    seed: int
    rate: float | None = None  # given in the search alone

    def matches(self, row: Row) -> bool:
        """Whether ``row`` is the result of this run."""
        named = {"norm": self.kind, "batch": self.batch, "seed": self.seed}
        if self.rate is not None:
            return (
                row["what"] == "rate" and row["base_rate"] == self.rate and row["norm"] == self.kind
            )
        return row["what"] == "run" and named.items() <= row.items()

    def __str__(self) -> str:
        if self.rate is not None:
            return f"rate {KINDS[self.kind].label} {self.rate:g}"
        return f"run {KINDS[self.kind].label} batch {self.batch} seed {self.seed}"


def searches(kind: str) -> list[Cell]:
    """The runs that choose the base rate of one kind."""
    return [Cell(kind, RATE_BATCH, 0, rate) for rate in BASE_RATES]


def cells(seeds: tuple[int, ...], only: tuple[tuple[str, int], ...]) -> Iterator[Cell]:
    """All runs, in an order such that what is done first says most."""
    chosen = only or tuple((kind, batch) for batch in BATCHES for kind in KINDS)
    for kind in dict.fromkeys(kind for kind, _ in chosen):
        yield from searches(kind)
    for seed in seeds:
        for kind, batch in chosen:
            yield Cell(kind, batch, seed)


def chosen_rate(rows: list[Row], kind: str) -> float | None:
    """The base rate that did best on held-out photos, or None while the search goes on."""
    found = {
        row["base_rate"]: row["top1"]
        for row in rows
        if row["what"] == "rate" and row["norm"] == kind
    }
    if set(found) < set(BASE_RATES):
        return None
    return max(BASE_RATES, key=lambda rate: found[rate])


def run_cell(cell: Cell, base_rate: float, samples: int, subset: Subset) -> Row:
    """Train one net and ask it about the photos that its row is for."""
    net = make_net(cell.kind, len(subset.classes), cell.seed)
    plan = Plan(batch=cell.batch, base_rate=base_rate, samples=samples, seed=cell.seed)
    outcome = train(net, subset.train, plan)
    row = _facts(cell, plan, outcome)
    if cell.rate is not None:
        return {**row, "top1": top1(net, subset.held_out, batch=250)}
    row["top1_eval"] = top1(net, subset.test, batch=250)
    row["top1_train_mode"] = top1(net, subset.test, batch=cell.batch, training=True)
    if cell.kind in ("bn", "bn_ws"):
        exact = with_statistics_of(net, subset.train)
        row["top1_exact_statistics"] = top1(exact, subset.test, batch=250)
    return row


def _facts(cell: Cell, plan: Plan, outcome: Outcome) -> Row:
    return {
        "what": "run" if cell.rate is None else "rate",
        "norm": cell.kind,
        "batch": cell.batch,
        "seed": cell.seed,
        "base_rate": plan.base_rate,
        "peak_rate": plan.peak_rate,
        "samples": plan.samples,
        "cpu_seconds": round(outcome.cpu_seconds, 1),
        "diverged_at": outcome.diverged_at,
        "losses": [round(loss, 4) for loss in outcome.losses],
    }


class Grid:
    """The runs that are left, shared with other processes by lock files.

    Args:
        out: Folder of the results.
        subset: The photos.
        samples: Images seen by a run, and by one of the search.
    """

    def __init__(self, out: Path, subset: Subset, samples: tuple[int, int]) -> None:
        self.results, self.subset, self.samples = out / RESULTS, subset, samples
        name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]
        self.locks = Path(tempfile.gettempdir()) / f"wszoo-study-{name}"
        self.locks.mkdir(exist_ok=True)
        self.facts = {**provenance(MODULE), "data": subset.facts["sha256"]}  # of what was imported

    def rows(self) -> list[Row]:
        return read_rows(self.results)[0]

    def left(self, wanted: list[Cell]) -> list[Cell]:
        """Those of ``wanted`` without a row."""
        rows = self.rows()
        return [cell for cell in wanted if not any(cell.matches(row) for row in rows)]

    def do_one(self, wanted: list[Cell]) -> tuple[Cell, Row] | None:
        """Do the first run that can be done and that no other process does; None if none can."""
        for cell in self.left(wanted):
            rate = cell.rate if cell.rate is not None else chosen_rate(self.rows(), cell.kind)
            if rate is None:
                continue
            try:
                with FileLock(self.locks / f"{cell}.lock", blocking=False):
                    if not self.left([cell]):  # done since the look above
                        continue
                    samples = self.samples[cell.rate is not None]
                    row = run_cell(cell, rate, samples, self.subset) | self.facts
                    with FileLock(self.locks / "results.lock"):
                        append_row(self.results, row)
                    return cell, row
            except Timeout:
                continue
        return None
