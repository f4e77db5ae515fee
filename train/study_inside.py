"""What Weight Standardization does inside: ``python -m train.study_inside --help``.

GroupNorm nets with and without it are trained alike. On the way, the loss is looked at along the
gradient; at both ends, how much of the time each channel is active.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import click
import torch
from torch import Tensor

from train.studies.figures import Plot, Series, write_figures
from train.studies.learn import Plan, top1, train
from train.studies.nets import KINDS, make_net
from train.studies.photos import Photos, Subset, normalized, read_subset
from train.studies.probes import along_gradient, channels, kernel_length
from train.studies.results import STUDIES, Interval, declare, declared, interval, provenance
from wszoo.terminal import OneLineErrors
from wszoo.training.rows import Row, append_row, read_rows, replace_file

OUT = STUDIES / "inside"
RESULTS, PAGE = "results.jsonl", "README.md"
MODULE = "train.study_inside"
NETS, SEEDS = ("gn", "gn_ws"), (0, 1, 2)
RECIPE = Plan(batch=16, base_rate=0.1, samples=8000, seed=0)
EVERY = 800  # images between two probes
ASKED, WATCHED = 64, 200  # held-out photos, for the loss and for the channels
RATES = (0.25, 1.0, 4.0)  # steps of a probe, in peak rates
PROBES = {"every": EVERY, "photos": ASKED, "peak_rates": RATES, "channel_photos": WATCHED}
RARELY, MOSTLY = 0.05, 0.95  # shares of the time that make a channel nearly dead, or linear
_LIMITS = [share / 50 for share in range(51)]
_ONE = RATES.index(1.0)
_WHEN = {"before": "untrained", "after": "trained"}


def probe_photos(photos: Photos, count: int) -> tuple[Tensor, Tensor]:
    """The same ``count`` held-out photos in every run."""
    chosen = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))[:count]
    images = normalized(photos.pixels[chosen]).contiguous(memory_format=torch.channels_last)
    return images, photos.targets[chosen]


def measure(kind: str, seed: int, subset: Subset) -> Row:
    """Train one net, with probes on the way."""
    net, plan = make_net(kind, len(subset.classes), seed), replace(RECIPE, seed=seed)
    asked, (watched, _) = (probe_photos(subset.held_out, count) for count in (ASKED, WATCHED))
    rates = [plan.peak_rate * times for times in RATES]
    probes: list[Row] = []

    def probe(seen: int, _images: Tensor, _targets: Tensor) -> None:
        if seen % EVERY == 0:
            found = along_gradient(net, *asked, rates)
            probes.append({"seen": seen, **found._asdict(), "kernels": kernel_length(net)})

    before = channels(net, watched)
    outcome = train(net, subset.train, plan, on_step=probe)
    probe(plan.samples, *asked)
    after = channels(net, watched)
    return {
        "norm": kind,
        "seed": seed,
        "probes": probes,
        "before": {name: values.tolist() for name, values in before._asdict().items()},
        "after": {name: values.tolist() for name, values in after._asdict().items()},
        "losses": outcome.losses,
        "top1": top1(net, subset.test, batch=250),
        "cpu_seconds": round(outcome.cpu_seconds, 1),
    }


def _lines(rows: Sequence[Row], value: Callable[[Row], float]) -> list[Series]:
    """Means over seeds of a value of the probes, against the images seen."""
    lines = []
    for kind in NETS:
        own = [row["probes"] for row in rows if row["norm"] == kind]
        if not own:
            continue
        means = [interval([value(probe) for probe in probes]) for probes in zip(*own, strict=True)]
        lines.append(
            Series(
                name=KINDS[kind].label,
                x=[probe["seen"] for probe in own[0]],
                y=[each.mean for each in means],
                half=[each.half for each in means],
            )
        )
    return lines


def _shares(rows: Sequence[Row], kind: str, when: str) -> list[float]:
    """How much of the time each channel of all seeds is active."""
    return [share for row in rows if row["norm"] == kind for share in row[when]["active"]]


def _cumulative(rows: Sequence[Row], kind: str, when: str, name: str) -> Series | None:
    shares = _shares(rows, kind, when)
    if not shares:
        return None
    return Series(
        name=name,
        x=[100 * limit for limit in _LIMITS],
        y=[100 * fmean(share <= limit for share in shares) for limit in _LIMITS],
        dashed=when == "before",
    )


def plots(out: Path) -> dict[str, Plot]:
    """The figures of the study; none before both nets were trained."""
    rows, _ = read_rows(out / RESULTS)
    if {row["norm"] for row in rows} != set(NETS):
        return {}
    seeds = min(sum(row["norm"] == kind for row in rows) for kind in NETS)
    told = f"ResNet-20 at 32 pixels, batches of {RECIPE.batch}, {seeds} seeds"
    names = [(kind, when) for kind in NETS for when in ("after", "before")]
    active = [
        _cumulative(rows, kind, when, f"{KINDS[kind].label}, {_WHEN[when]}") for kind, when in names
    ]
    return {
        "smoothness": Plot(
            title="How fast the gradient changes along itself",
            x_label="images seen",
            y_label="change of the gradient over length of the step, largest of three steps",
            series=_lines(rows, lambda probe: max(probe["smoothness"])),
            y_from_zero=True,
            note=f"{told}; lower is smoother. Bars: 95 % intervals over seeds, cut at zero.",
        ),
        "loss_after_step": Plot(
            title="Loss left by one step along the gradient, at the peak rate",
            x_label="images seen",
            y_label="loss after the step over the loss before it",
            series=_lines(rows, lambda probe: probe["losses"][_ONE] / probe["loss"]),
            note=f"{told}; below 1 the step helps. Bars: 95 % intervals over seeds.",
        ),
        "channels": Plot(
            title="How much of the time channels are active",
            x_label="share of photos and places where a channel is above zero, %",
            y_label="channels with at most this share, %",
            series=[line for line in active if line],
            note=f"{told}; a dead channel is at 0 %, one without a kink at 100 %. "
            "Dashed: untrained.",
        ),
    }


TEXT = """# What Weight Standardization does inside

GroupNorm nets with and without Weight Standardization, trained alike: ResNet-20 at 32 pixels, base
rate {base_rate:g} per 64 images, batches of {batch}, {samples} photos of the
[study of images per step](../../../train/study_batch_size.py), {seeds} seeds, mean and 95 %
interval over seeds. Top-1 on test photos: {scores}.

## Is the loss smoother?

![How fast the gradient changes](smoothness.png)

Every {every} images, on {photos} held-out photos, the kernels of all convolutions are moved along
their gradient by {rates} of the peak rate, and back. The picture shows by how much the gradient
changed, over the length of the step; the largest of the three estimates the Lipschitz constant of
the gradient from below (after Santurkar et al., 2018).

![Loss after one step](loss_after_step.png)

{smoothness}

{verdict}

Both nets compute the same for kernels of any scale (a layer at a time), so all these lengths go
with the scale of the kernels: twice the kernels, half the gradient, a quarter of its change. The
last column of the table is free of that. A net that hardly learns stays where the loss is flat, so
read this beside the accuracies.

## Are channels dead?

![How much of the time channels are active](channels.png)

{channels}

Of each norm that a ReLU follows at once ({count} channels a net), over {channel_photos} held-out
photos. Elimination singularities (Qiao et al., 2019) are channels that hardly pass their ReLU; what
is spread is the mean of a channel, over photos and places, in deviations of its own.

What this does not show: cause and effect; larger nets; longer training; other rates, for the one
used was tuned for neither net.

```
python -m train.study_inside --data tiny-imagenet
python -m train.study_inside --render
```

{machine}. Figures in `results.jsonl`.
"""


def _smoothness_table(rows: Sequence[Row]) -> str:
    """Means over all probes of a run, and over seeds."""
    columns: dict[str, Callable[[Row], float]] = {
        "length of the gradient": lambda p: p["gradient"],
        "length of the kernels": lambda p: p["kernels"],
        "loss left by a step": lambda p: p["losses"][_ONE] / p["loss"],
        "change of the gradient over step": lambda p: max(p["smoothness"]),
        "the same, times kernels squared": lambda p: max(p["smoothness"]) * p["kernels"] ** 2,
    }
    lines = [f"| mean over training | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for kind in NETS:
        own = [row["probes"] for row in rows if row["norm"] == kind]
        cells = [interval([fmean(map(get, probes)) for probes in own]) for get in columns.values()]
        lines.append(f"| {KINDS[kind].label} | {' | '.join(map(_short, cells))} |")
    return "\n".join(lines)


def _verdict(rows: Sequence[Row]) -> str:
    """Whether GN+WS was smoother, over the seeds that both nets have."""
    found = {
        (row["norm"], row["seed"]): fmean(max(probe["smoothness"]) for probe in row["probes"])
        for row in rows
    }
    seeds = sorted({seed for _, seed in found if all((kind, seed) in found for kind in NETS)})
    gap = interval([found["gn_ws", seed] - found["gn", seed] for seed in seeds])
    told = f"the change of its gradient is that of GN {gap.mean:+.2g}"
    told += f" ± {gap.half:.2g}" if gap.half is not None else " (one seed)"
    if gap.half is None or abs(gap.mean) <= gap.half:
        return f"A smoother loss is not shown here: seeds do not tell the two apart, {told}."
    return f"By this measure GN+WS is {'' if gap.mean < 0 else '**not** '}smoother: {told}."


def _short(value: Interval) -> str:
    return f"{value.mean:.3g}" + (f" ± {value.half:.2g}" if value.half is not None else "")


def _channel_table(rows: Sequence[Row]) -> str:
    limits = f"active at most {100 * RARELY:g} %", f"active {100 * MOSTLY:g} % or more"
    lines = [f"| | {' | '.join(limits)} | never active | spread of channel means |"]
    lines += ["| --- |" + " --- |" * 4]
    for when in ("before", "after"):
        for kind in NETS:
            own = [row[when] for row in rows if row["norm"] == kind]
            cells = [
                interval([100 * fmean(a <= RARELY for a in each["active"]) for each in own]),
                interval([100 * fmean(a >= MOSTLY for a in each["active"]) for each in own]),
                interval([100 * fmean(a == 0 for a in each["active"]) for each in own]),
            ]
            spread = _short(interval([_spread(each) for each in own]))
            shown = " | ".join(f"{cell} %" for cell in cells)
            lines.append(f"| {KINDS[kind].label}, {_WHEN[when]} | {shown} | {spread} |")
    return "\n".join(lines)


def _spread(found: Row) -> float:
    """Root mean square over channels of mean over deviation; constant channels are left out."""
    pairs = zip(found["mean"], found["deviation"], strict=True)
    return float(fmean((mean / std) ** 2 for mean, std in pairs if std > 1e-6) ** 0.5)


def page(out: Path) -> str:
    """The page about the rows of ``out``."""
    rows, _ = read_rows(out / RESULTS)
    plan, probes = declared(out)["plan"], declared(out)["probes"]
    top1s = {kind: interval([r["top1"] for r in rows if r["norm"] == kind]) for kind in NETS}
    machines = dict.fromkeys(f"{r['hardware']}; torch {r['torch']}; code {r['code']}" for r in rows)
    return TEXT.format(
        **{key: plan[key] for key in ("base_rate", "batch", "samples")},
        **{key: probes[key] for key in ("every", "photos", "channel_photos")},
        rates=", ".join(f"{rate:g}" for rate in probes["peak_rates"]),
        seeds=min(each.seeds for each in top1s.values()),
        scores=", ".join(f"{KINDS[kind].label} {score} %" for kind, score in top1s.items()),
        smoothness=_smoothness_table(rows),
        verdict=_verdict(rows),
        channels=_channel_table(rows),
        count=len(rows[0]["after"]["active"]),
        machine="\n".join(machines),
    )


def write_page(out: Path) -> None:
    """Draw and write what the rows of ``out`` show; nothing before both nets were trained."""
    if found := plots(out):
        write_figures(out, found)
        replace_file(out / PAGE, page(out).encode())


folder = click.Path(path_type=Path, file_okay=False)


@click.command(cls=OneLineErrors)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Tiny ImageNet.")
@click.option("--out", type=folder, default=OUT, show_default=True, help="Folder of the results.")
@click.option("--cache", type=folder, help="Keep the decoded photos here.")
@click.option("--render", is_flag=True, help="Only draw the figures and write the page again.")
def main(data: Path | None, out: Path, cache: Path | None, render: bool) -> None:
    """Train what was not trained yet, with probes on the way, and draw what they found."""
    if not render:
        if data is None:
            raise click.UsageError("give --data, the folder of Tiny ImageNet, or --render alone")
        torch.set_num_threads(1)
        facts = provenance(MODULE)
        subset = read_subset(data, cache=cache)
        declare(out, {"photos": subset.facts, "plan": asdict(RECIPE), "probes": PROBES})
        for seed in SEEDS:
            for kind in NETS:
                rows, _ = read_rows(out / RESULTS)
                if any((row["norm"], row["seed"]) == (kind, seed) for row in rows):
                    continue
                row = measure(kind, seed, subset) | facts
                append_row(out / RESULTS, row)
                click.echo(f"{KINDS[kind].label}, seed {seed}: top-1 {row['top1']:.1f} %")
    write_page(out)


if __name__ == "__main__":
    main()
