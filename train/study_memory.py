"""What levels of memory take and cost: ``python -m train.study_memory --help``.

Peaks are those of fresh processes. For times, the levels take turns in one process, so that what
else the machine does meets all of them alike.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from train.studies.figures import Plot, Series, write_figures
from train.studies.memory_cell import STEPS, Cell, Steps, cpu_seconds
from train.studies.results import ROOT, STUDIES, provenance
from wszoo.memory import MEMORY, Memory
from wszoo.terminal import OneLineErrors
from wszoo.training.engine import Precision
from wszoo.training.rows import replace_file

OUT = STUDIES / "memory"
RESULTS, PAGE = "results.json", "README.md"
MODULE = "train.study_memory"
MODEL, BATCH, PIXELS, ROUNDS = "resnet50_gn_ws", 4, 224, 5
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
_TYPES = {"fp32": "float32", "bf16": "bfloat16"}
_KEPT = {
    "fast": "everything",
    "lean": "input and outputs of convolutions of each block",
    "small": "the same but for the last convolution and the shortcut's",
    "smallest": "input of each block",
}


def peaks(cell: Cell) -> dict[str, float]:
    """What ``memory_cell`` measures of ``cell`` in a process of its own."""
    words = [sys.executable, "-m", "train.studies.memory_cell", *map(str, cell)]
    child = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise OSError(f"the process that measures {cell.level}, {cell.precision} failed: {reason}")
    found: dict[str, float] = json.loads(child.stdout)
    return found


def times(precision: Precision, model: str, batch: int, pixels: int, rounds: int) -> dict[str, Any]:
    """CPU time of a step at each level over that of ``"fast"``: medians over rounds of turns."""
    nets = {level: Steps(Cell(model, level, precision, batch, pixels)) for level in MEMORY}
    spent: dict[Memory, list[float]] = {level: [] for level in MEMORY}
    for number in range(rounds + 1):
        order = MEMORY if number % 2 else MEMORY[::-1]
        for level in order:
            seconds = cpu_seconds(nets[level].step)
            if number:  # the first round warms up
                spent[level].append(seconds)
    ratios = {
        level: median(a / b for a, b in zip(values, spent["fast"], strict=True))
        for level, values in spent.items()
    }
    return {"ratios": ratios, "seconds": median(spent["fast"])}


def measure(model: str, batch: int, pixels: int, rounds: int) -> dict[str, Any]:
    """All figures of the study."""
    rows: list[dict[str, Any]] = []
    for precision in PRECISIONS:
        for level in MEMORY:
            found = peaks(Cell(model, level, precision, batch, pixels))
            rows.append({"precision": precision, "level": level, **found})
            click.echo(f"{precision}, {level}: {found['peak']:.0f} MiB")
    seconds = {}
    for precision in PRECISIONS:
        taken = times(precision, model, batch, pixels, rounds)
        seconds[precision] = taken["seconds"]
        for row in rows:
            if row["precision"] == precision:
                row["time"] = taken["ratios"][row["level"]]
    plan = {"model": model, "batch": batch, "pixels": pixels, "rounds": rounds}
    return {"plan": plan, "seconds": seconds, "rows": rows}


def read_results(out: Path) -> dict[str, Any]:
    """What ``measure`` found, and what made it."""
    found: dict[str, Any] = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    return found


def _rows(found: dict[str, Any], precision: str) -> list[dict[str, Any]]:
    return [row for row in found["rows"] if row["precision"] == precision]


def plots(out: Path) -> dict[str, Plot]:
    """The figure of the study."""
    if not (out / RESULTS).exists():
        return {}
    found = read_results(out)
    plan = found["plan"]
    told = f"{plan['model']}, {plan['batch']} images of {plan['pixels']} pixels, one CPU thread"
    return {
        "memory": Plot(
            title="Less memory for more time",
            x_label="time of a step, relative to fast in the same precision",
            y_label="MiB at the peak of a step, beside weights, gradients and momentum",
            series=[
                Series(
                    name=_TYPES[precision],
                    x=[row["time"] for row in _rows(found, precision)],
                    y=[row["peak"] for row in _rows(found, precision)],
                    dashed=precision == "bf16",
                )
                for precision in PRECISIONS
            ],
            y_from_zero=True,
            note=f"{told}. Along each line from its upper end: {', '.join(MEMORY)}.",
        )
    }


TEXT = """# Memory against time

![Peak memory of a step against its time](memory.png)

Levels of `memory=` decide what the blocks of a ResNet keep for the backward pass; gradients are the
same. {model}, {batch} images of {pixels} pixels per step, SGD with momentum, one CPU thread,
tensors contiguous:

{table}

- *Peak*: the most that a process has held during {steps}, above what it holds with weights,
  gradients and momentum; a fresh process for each.
- *Held*: what the forward pass leaves for the backward pass, activations and standardized kernels,
  counted tensor by tensor (`wszoo.memory.held_bytes`).
- *Time*: CPU time of a step over that of `fast`, the median of {rounds} rounds in which the levels
  took turns. A step of `fast` took {seconds}.

What this does not show: GPUs, where the norms cost another share of the time; images that are so
large that activations are nearly all there is, where the peaks are further apart.

```
python -m train.study_memory
python -m train.study_memory --render
```

{hardware}; torch {torch}; code {code}. Figures in `results.json`.
"""


def page(out: Path) -> str:
    """The page about the results in ``out``."""
    found = read_results(out)
    lines = ["| | keeps | | peak, MiB | | held, MiB | time |", "|" + " --- |" * 7]
    for precision in PRECISIONS:
        rows = _rows(found, precision)
        for row in rows:
            share = row["peak"] / rows[0]["peak"]
            lines.append(
                f"| `{row['level']}` | {_KEPT[row['level']]} | {_TYPES[precision]} | "
                f"{row['peak']:.0f} | {share:.0%} | {row['held']:.0f} | {row['time']:.2f} |"
            )
    seconds = [f"{found['seconds'][each]:.2f} s in {_TYPES[each]}" for each in PRECISIONS]
    return TEXT.format(
        table="\n".join(lines),
        steps=f"{STEPS} steps",
        seconds=" and ".join(seconds),
        **found["plan"],
        **{key: found[key] for key in ("hardware", "torch", "code")},
    )


def write_page(out: Path) -> None:
    """Draw and write what the results in ``out`` show; nothing before there are any."""
    if shown := plots(out):
        write_figures(out, shown)
        replace_file(out / PAGE, page(out).encode())


@click.command(cls=OneLineErrors)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=OUT,
    show_default=True,
    help="Folder of the results.",
)
@click.option("--model", default=MODEL, show_default=True)
@click.option("--batch", default=BATCH, show_default=True, type=click.IntRange(1))
@click.option("--pixels", default=PIXELS, show_default=True, type=click.IntRange(32))
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1))
@click.option("--render", is_flag=True, help="Only draw the figure and write the page again.")
def main(out: Path, model: str, batch: int, pixels: int, rounds: int, render: bool) -> None:
    """Measure peaks and times of the levels, and draw one against the other."""
    if not render:
        torch.set_num_threads(1)
        facts = provenance(MODULE)
        found = measure(model, batch, pixels, rounds)
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**found, **facts}, indent=2)
        replace_file(out / RESULTS, f"{text}\n".encode())
    write_page(out)


if __name__ == "__main__":
    main()
