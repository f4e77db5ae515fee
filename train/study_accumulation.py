"""Whether accumulation equals a big batch: ``python -m train.study_accumulation --help``.

The same steps are taken twice from the same start: with one pass of 16 images, and with 16 passes
of one whose gradients are added up. GroupNorm cannot tell these apart but for rounding, BatchNorm
can. What training makes of rounding is shown by a pair that differs in nothing else.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch import nn

from train.studies.figures import Plot, Series, write_figures
from train.studies.learn import Outcome, Plan, train
from train.studies.nets import KINDS, make_net
from train.studies.photos import Subset, read_subset
from train.studies.results import STUDIES, declare, declared, provenance
from wszoo.terminal import OneLineErrors
from wszoo.training.rows import Row, append_row, read_rows, replace_file

OUT = STUDIES / "accumulation"
RESULTS, PAGE = "results.jsonl", "README.md"
PLAN = Plan(batch=16, base_rate=0.1, samples=1600, seed=0, chunk=64)
NUDGE = 1e-15  # relative change of one kernel value, a few units of its last place
MODULE = "train.study_accumulation"


class Pair(NamedTuple):
    """Two trainings that differ in one thing.

    Attributes:
        kind: Of the nets.
        dtype: Of the arithmetic.
        change: ``"passes"``, or ``"nudge"`` of one kernel value where both take one pass.
    """

    kind: str
    dtype: str
    change: str

    def __str__(self) -> str:
        what = "" if self.change == "passes" else ", one value nudged"
        return f"{KINDS[self.kind].label}{what}, {self.dtype}"

    @property
    def line(self) -> str:
        """Its name in a figure, where float32 has a colour of its own."""
        return str(self).replace(", float32", " in float32")


PAIRS = (
    Pair("gn_ws", "float64", "passes"),
    Pair("bn", "float64", "passes"),
    Pair("gn_ws", "float64", "nudge"),
    Pair("gn_ws", "float32", "passes"),
)


def compare(pair: Pair, subset: Subset) -> Row:
    """Train the two nets of ``pair`` from the same start on the same photos."""
    nets: list[nn.Module] = []
    outcomes: list[Outcome] = []
    for changed in (False, True):
        net = make_net(pair.kind, len(subset.classes), PLAN.seed).to(getattr(torch, pair.dtype))
        if changed and pair.change == "nudge":
            with torch.no_grad():
                net.get_parameter("0.weight")[0, 0, 0, 0].mul_(1 + NUDGE)
        passes = PLAN.batch if changed and pair.change == "passes" else 1
        outcomes.append(train(net, subset.train, replace(PLAN, accumulate=passes)))
        nets.append(net)
    return {
        **pair._asdict(),
        "seed": PLAN.seed,
        "losses": outcomes[0].losses,
        "losses_changed": outcomes[1].losses,
        "parameters_differ": parameters_differ(nets[1], nets[0]),
        "cpu_seconds": [round(outcome.cpu_seconds, 1) for outcome in outcomes],
    }


def parameters_differ(a: nn.Module, b: nn.Module) -> float:
    """The largest difference of any parameter over the largest parameter."""
    first, second = (torch.cat([p.flatten() for p in net.parameters()]) for net in (a, b))
    return ((first - second).abs().max() / second.abs().max()).item()


def losses_differ(row: Row) -> list[float]:
    """The difference of each point of the two curves, relative to it."""
    pairs = zip(row["losses"], row["losses_changed"], strict=True)
    return [abs(a - b) / a for a, b in pairs]


def _row(rows: list[Row], pair: Pair) -> Row | None:
    return next((row for row in rows if pair._asdict().items() <= row.items()), None)


def plots(out: Path) -> dict[str, Plot]:
    """The figures of the study; none before both nets have run in float64."""
    rows, _ = read_rows(out / RESULTS)
    found = {pair: _row(rows, pair) for pair in PAIRS}
    bn, ours = found[PAIRS[1]], found[PAIRS[0]]
    if bn is None or ours is None:
        return {}
    plan = declared(out)["plan"]
    batch, chunk = plan["batch"], plan["chunk"]
    seen = [chunk * (point + 1) for point in range(len(bn["losses"]))]
    curves = []
    for row in (bn, ours):
        label = KINDS[row["kind"]].label
        curves.append(Series(name=f"{label}, 1 pass of {batch}", x=seen, y=row["losses"]))
        name = f"{label}, {batch} passes of 1"
        curves.append(Series(name=name, x=seen, y=row["losses_changed"], dashed=True))
    told = f"ResNet-20 at 32 pixels, steps of {batch} images, one seed; each point is the mean of "
    told += f"{chunk // batch} steps"
    apart = [
        # Where curves are the same to the last bit, the scale has no place for them.
        Series(
            name=pair.line,
            x=seen,
            y=[max(d, 1e-17) for d in losses_differ(row)],
            dashed=pair.change == "nudge",
        )
        for pair, row in found.items()
        if row
    ]
    return {
        "loss": Plot(
            title="Accumulation is a big batch with GN+WS, and is not with BN",
            x_label="images seen",
            y_label="training loss",
            series=curves,
            note=f"{told}. The curves of GN+WS stay within {max(losses_differ(ours)):.1%} of one "
            "another.",
        ),
        "difference": Plot(
            title="How far the two losses are apart",
            x_label="images seen",
            y_label="relative difference of the training losses",
            series=apart,
            y_log=True,
            note=f"{told}. Nudged: one value changed by {NUDGE:g}, one pass in both.",
        ),
    }


TEXT = """# Accumulation and big batches

![Training loss, one pass against accumulation](loss.png)

A ResNet-20 at 32 pixels takes {steps} steps of {batch} images twice, from the same kernels, on the
same photos: with one forward pass of {batch} images, and with {batch} passes of one image whose
gradients are added up. How far the losses of the two are apart, relative:

{table}

GroupNorm normalizes each image by itself and Weight Standardization looks at kernels alone, so the
gradients are the same but for the order of sums. Training makes more of what rounding leaves, step
by step: as it does of a nudge of {nudge:g} to one kernel value with the batch left whole (third
row). In float32 rounding is larger, and the two runs part sooner. BatchNorm normalizes each pass by
the images in it: accumulation trains another function, from the first step on.

![How far the two losses are apart](difference.png)

The optimizer is SGD with a peak rate of {rate:g} ({base_rate:g} per 64 images), as in the
[study of images per step](../../../train/study_batch_size.py). What this does not show: that
either way is better; whether BN does well with accumulation in larger passes; more than one seed.

```
python -m train.study_accumulation --data tiny-imagenet
python -m train.study_accumulation --render
```

{machine}. Figures in `results.jsonl`.
"""
_EARLY = 10  # points of the curves


def page(out: Path) -> str:
    """The page about the rows of ``out``."""
    rows, _ = read_rows(out / RESULTS)
    plan = declared(out)["plan"]
    per = plan["chunk"] // plan["batch"]
    names = [f"first {per} steps", f"first {per * _EARLY} steps, at most"]
    names += [f"{plan['samples'] // plan['batch']} steps, at most", "parameters, at the end"]
    lines = [f"| | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for pair in PAIRS:
        row = _row(rows, pair)
        cells = ["not run"] * len(names)
        if row:
            apart = losses_differ(row)
            values = [apart[0], max(apart[:_EARLY]), max(apart), row["parameters_differ"]]
            cells = [f"{value:.1e}" if value else "0" for value in values]
        lines.append(f"| {pair} | {' | '.join(cells)} |")
    machines = dict.fromkeys(f"{r['hardware']}; torch {r['torch']}; code {r['code']}" for r in rows)
    return TEXT.format(
        steps=plan["samples"] // plan["batch"],
        batch=plan["batch"],
        table="\n".join(lines),
        nudge=NUDGE,
        rate=plan["base_rate"] * plan["batch"] / 64,
        base_rate=plan["base_rate"],
        machine="\n".join(machines),
    )


def write_page(out: Path) -> None:
    """Draw and write what the rows of ``out`` show; nothing before there is a curve."""
    if found := plots(out):
        write_figures(out, found)
        replace_file(out / PAGE, page(out).encode())


folder = click.Path(path_type=Path, file_okay=False)


@click.command(cls=OneLineErrors)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Tiny ImageNet.")
@click.option("--out", type=folder, default=OUT, show_default=True, help="Folder of the results.")
@click.option("--cache", type=folder, help="Keep the decoded photos here.")
@click.option("--render", is_flag=True, help="Only draw the figure and write the page again.")
def main(data: Path | None, out: Path, cache: Path | None, render: bool) -> None:
    """Train the pairs that were not trained yet, and draw their losses."""
    if not render:
        if data is None:
            raise click.UsageError("give --data, the folder of Tiny ImageNet, or --render alone")
        torch.set_num_threads(1)
        facts = provenance(MODULE)
        subset = read_subset(data, cache=cache)
        declare(out, {"photos": subset.facts, "plan": asdict(PLAN)})
        for pair in PAIRS:
            if _row(read_rows(out / RESULTS)[0], pair) is None:
                row = compare(pair, subset) | facts
                append_row(out / RESULTS, row)
                click.echo(f"{pair}: {row['parameters_differ']:.1e}")
    write_page(out)


if __name__ == "__main__":
    main()
