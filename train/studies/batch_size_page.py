"""What the grid of small runs shows: two figures and a page, from its rows alone."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from train.studies.figures import Plot, Series, write_figures
from train.studies.grid import BASE_RATES, BATCHES, RESULTS, SEEDS, chosen_rate
from train.studies.nets import KINDS
from train.studies.results import Interval, declared, interval
from wszoo.training.rows import Row, read_rows, replace_file

PAGE = "README.md"
_SIZES = sorted(BATCHES)
_BATCH_NORMS = ("bn", "bn_ws")


def read_runs(out: Path) -> tuple[list[Row], list[Row]]:
    """The rows of the grid, and all rows."""
    rows, _ = read_rows(out / RESULTS)
    return [row for row in rows if row["what"] == "run"], rows


def scores(runs: Sequence[Row], kind: str, batch: int, measure: str) -> list[float]:
    """A measure of one cell, by seed."""
    return [row[measure] for row in runs if (row["norm"], row["batch"]) == (kind, batch)]


def _errors(runs: Sequence[Row], kind: str, measure: str, name: str) -> Series | None:
    found = {size: scores(runs, kind, size, measure) for size in reversed(_SIZES)}
    intervals = {size: interval([100 - top1 for top1 in s]) for size, s in found.items() if s}
    if not intervals:
        return None
    return Series(
        name=name,
        x=[*intervals],
        y=[each.mean for each in intervals.values()],
        half=[each.half for each in intervals.values()],
        dashed=measure != "top1_eval",
    )


def _minutes(runs: Sequence[Row], kind: str) -> Series | None:
    sizes = [size for size in reversed(_SIZES) if scores(runs, kind, size, "top1_eval")]
    if not sizes:
        return None
    top1 = [interval(scores(runs, kind, size, "top1_eval")) for size in sizes]
    return Series(
        name=KINDS[kind].label,
        x=[fmean(scores(runs, kind, size, "cpu_seconds")) / 60 for size in sizes],
        y=[each.mean for each in top1],
        half=[each.half for each in top1],
    )


def plots(out: Path) -> dict[str, Plot]:
    """The figures of the study; none before a run of the grid is there."""
    runs, _ = read_runs(out)
    if not runs:
        return {}
    lines = [_errors(runs, kind, "top1_eval", KINDS[kind].label) for kind in KINDS]
    lines += [
        _errors(runs, kind, "top1_train_mode", f"{KINDS[kind].label}, by its batch")
        for kind in _BATCH_NORMS
    ]
    costs = [_minutes(runs, kind) for kind in KINDS]
    return {
        "error": Plot(
            title="Error against images per step",
            x_label="images per step",
            y_label="top-1 error on test photos, %",
            series=[line for line in lines if line],
            x_log2=True,
            x_falling=True,
            note=f"ResNet-20 at 32 pixels, {_counted(runs)}. Bars: 95 % intervals over seeds. "
            "Dashed: the same nets asked in training mode, by the statistics of the batch.",
        ),
        "cpu_minutes": Plot(
            title="Accuracy against the time that training took",
            x_label="CPU minutes of one thread, training alone",
            y_label="top-1 on test photos, %",
            series=[line for line in costs if line],
            note=f"From left to right: fewer images per step, {_SIZES[-1]} to {_SIZES[0]}. The "
            "time is not comparable between machines, nor beside other work.",
        ),
    }


def _counted(runs: Sequence[Row]) -> str:
    counts = {len(scores(runs, k, b, "top1_eval")) for k in KINDS for b in _SIZES} - {0}
    low, high = min(counts), max(counts)
    return f"{low} seed{'s' * (high > 1)}" if low == high else f"{low} to {high} seeds"


def missing(runs: Sequence[Row]) -> list[str]:
    """The cells of the grid with fewer runs than there are seeds."""
    found = []
    for kind in KINDS:
        for size in _SIZES:
            have = len(scores(runs, kind, size, "top1_eval"))
            if have < len(SEEDS):
                found.append(f"{KINDS[kind].label} at {size} ({have} of {len(SEEDS)} seeds)")
    return found


def _table(runs: Sequence[Row], measure: str, kinds: Sequence[str]) -> str:
    lines = [
        f"| | {' | '.join(f'{size} per step' for size in _SIZES)} |",
        f"| --- |{' --- |' * len(_SIZES)}",
    ]
    for kind in kinds:
        found = [scores(runs, kind, size, measure) for size in _SIZES]
        cells = [str(interval(each)) if each else "not run" for each in found]
        lines.append(f"| {KINDS[kind].label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def findings(runs: Sequence[Row]) -> list[str]:
    """One sentence per batch size: who came out first, and whether GN+WS did."""
    return [line for size in _SIZES if (line := _finding(runs, size))]


def _finding(runs: Sequence[Row], size: int) -> str | None:
    found = {
        kind: interval(values)
        for kind in KINDS
        if (values := scores(runs, kind, size, "top1_eval"))
    }
    if "gn_ws" not in found or len(found) < 2:
        return None
    ours = found["gn_ws"]
    others = {kind: each for kind, each in found.items() if kind != "gn_ws"}
    best = max(others, key=lambda kind: others[kind].mean)
    theirs = f"{KINDS[best].label} ({others[best]} %)"
    gap = _paired(runs, size, best)
    told = "" if gap.half is not None and abs(gap.mean) > gap.half else ", not told apart by seeds"
    verdict = "leads; next is" if ours.mean > others[best].mean else "**does not win** against"
    return f"- {size} per step: GN+WS ({ours} %) {verdict} {theirs}; difference {gap}{told}."


def _paired(runs: Sequence[Row], size: int, other: str) -> Interval:
    """GN+WS less another net, over the seeds that both have: these share order and crops."""
    by_seed = {
        kind: {
            row["seed"]: row["top1_eval"]
            for row in runs
            if (row["norm"], row["batch"]) == (kind, size)
        }
        for kind in ("gn_ws", other)
    }
    seeds = sorted(set(by_seed["gn_ws"]) & set(by_seed[other]))
    if not seeds:
        return interval(
            [fmean(by_seed["gn_ws"].values()) - fmean(by_seed[other].values())]
        )  # of different seeds
    return interval([by_seed["gn_ws"][seed] - by_seed[other][seed] for seed in seeds])


TEXT = """# Images per step against accuracy

![Error against images per step](error.png)

A ResNet-20 with 0.27 M parameters at {pixels} pixels (He et al. 2015: stages of 16, 32 and 64
channels, three blocks each, shortcuts without parameters), {groups} groups in every GroupNorm, on
{classes} classes of Tiny ImageNet ({train} photos to learn from, {held_out} to choose rates on,
{test} for tests; `study.json` says which). BCN normalizes by running estimates in training, with
momentum 0.1.

Every run sees {samples} photos, in the same order and with the same crops for the same seed,
whatever the net and the batch. SGD with momentum {momentum} at every batch size, decay
{weight_decay} on kernels, a warm-up over {warmup:.0f} % and a cosine to zero; the peak rate is the
base rate times images per step over {per}. The base rate is the best of {grid} on held-out photos
at {per} images per step, after {rate_samples} photos, seed 0:

{rates}

{state}

## Top-1 on test photos, %

In eval mode, mean and 95 % interval over seeds (Student's t; chance is {chance:.1f} %).

{eval_table}

{findings}

## How much of BatchNorm's loss is the mismatch

The same nets asked in training mode: a test photo is normalized by its batch, of as many photos as
a step of the training had. Where this is higher than above, running statistics lost it.

{train_table}

And in eval mode with the statistics taken anew, over all training photos:

{exact_table}

GroupNorm does the same in both modes; BCN moves its estimates in training mode.

## Time

![Accuracy against the time that training took](cpu_minutes.png)

CPU minutes of one thread for one run, mean over seeds:

{time_table}

```
python -m train.study_batch_size --data tiny-imagenet
python -m train.study_batch_size --render
```

{machines}
Figures in `results.jsonl`, a line per run: seed, rates, scores, losses, versions, command.
"""


def page(out: Path) -> str:
    """The page about the rows of ``out``."""
    runs, rows = read_runs(out)
    facts, plan = declared(out)["photos"], declared(out)["plan"]
    absent = missing(runs)
    state = (
        "All 75 runs of the grid are there."
        if not absent
        else f"**Not all of the grid was run.** {len(runs)} of 75 runs are there; missing: "
        + "; ".join(absent)
        + "."
    )
    minutes = [{**row, "minutes": row["cpu_seconds"] / 60} for row in runs]
    diverged = [f"{KINDS[r['norm']].label} at {r['batch']}" for r in runs if r["diverged_at"]]
    if diverged:
        state += f" The loss ceased to be finite in: {', '.join(diverged)}."
    return TEXT.format(
        pixels=facts["pixels"],
        classes=len(facts["classes"]),
        **facts["photos"],
        **{key: plan[key] for key in ("groups", "samples", "momentum", "weight_decay")},
        warmup=100 * plan["warmup"],
        per=plan["rate_search"]["batch"],
        grid=", ".join(map(str, plan["rate_search"]["base_rates"])),
        rate_samples=plan["rate_search"]["samples"],
        rates=_rates(rows),
        state=state,
        chance=100 / len(facts["classes"]),
        eval_table=_table(runs, "top1_eval", [*KINDS]),
        findings="\n".join(findings(runs)),
        train_table=_table(runs, "top1_train_mode", [*KINDS]),
        exact_table=_table(runs, "top1_exact_statistics", _BATCH_NORMS),
        time_table=_table(minutes, "minutes", [*KINDS]),
        machines="\n".join(_machines(rows)),
    )


def _rates(rows: Sequence[Row]) -> str:
    lines = [f"| | {' | '.join(map(str, BASE_RATES))} | chosen |"]
    lines += [f"| --- |{' --- |' * (len(BASE_RATES) + 1)}"]
    for kind in KINDS:
        found = {
            row["base_rate"]: row["top1"]
            for row in rows
            if row["what"] == "rate" and row["norm"] == kind
        }
        cells = [f"{found[rate]:.1f} %" if rate in found else "not run" for rate in BASE_RATES]
        chosen = chosen_rate([*rows], kind)
        lines.append(f"| {KINDS[kind].label} | {' | '.join(cells)} | {chosen or '-'} |")
    edges = [
        KINDS[kind].label
        for kind in KINDS
        if chosen_rate([*rows], kind) in (BASE_RATES[0], BASE_RATES[-1])
    ]
    if edges:
        lines += ["", f"At an end of what was tried, so perhaps not its best: {', '.join(edges)}."]
    return "\n".join(lines)


def _machines(rows: Sequence[Row]) -> list[str]:
    """What computed the rows; they may be of several machines and versions."""
    seen = dict.fromkeys(
        f"{row['hardware']}; torch {row['torch']}; code {row['code']}." for row in rows
    )
    return [*seen]


def write_page(out: Path) -> None:
    """Draw and write what the rows of ``out`` show; nothing where no run is done."""
    found = plots(out)
    if found:
        write_figures(out, found)
        replace_file(out / PAGE, page(out).encode())
