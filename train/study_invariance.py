"""The comparison of ``wszoo invariance``, kept: ``python -m train.study_invariance --help``."""

import json
from pathlib import Path
from typing import Any

import click
import torch

from train.studies.figures import PLOTTED
from train.studies.results import STUDIES, provenance
from wszoo.invariance import (
    BOUND,
    MEASURES,
    Invariance,
    Row,
    draw_invariance,
    measure_invariance,
)
from wszoo.terminal import CHECK_FAILED, OneLineErrors
from wszoo.training.rows import replace_file

OUT = STUDIES / "invariance"
RESULTS, PAGE, FIGURE = "results.json", "README.md", "differences"
MODEL, BATCH, PIXELS, SEED = "resnet50_gn_ws", 8, 64, 0
MODULE = "train.study_invariance"


def read_results(out: Path) -> tuple[Invariance, dict[str, Any]]:
    """What was found, and what made it."""
    facts = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    rows = tuple(
        Row(**{key: row[key] for key in ("norm", *MEASURES, "expected")}) for row in facts["rows"]
    )
    found = {key: facts[key] for key in ("model", "batch", "pixels", "seed")}
    return Invariance(**found, rows=rows), facts


def plotted(out: Path) -> dict[str, Any]:
    """What the figure shows; nothing before there are results."""
    if not (out / RESULTS).exists():
        return {}
    found, _ = read_results(out)
    values = {m: {row.norm: getattr(row, m) for row in found.rows} for m in MEASURES}
    return {FIGURE: {"batch": found.batch, "model": found.model, "differences": values}}


TEXT = """# A batch and its images

![One batch against batches of one]({figure}.png)

`{model}` with random weights, in train mode and float64: one batch of {batch} packaged photos at
{pixels} pixels, and the same photos one by one, their gradients added up. Relative differences
(largest over largest):

{table}

What is below {bound:g} is rounding. Frozen BN, GN and GN+WS look at one image at a time. BN takes
its statistics from the batch. BCN+WS, in its form for micro-batches, normalizes by running
estimates that every batch moves: batches of one move them between two images.

```
wszoo invariance {model} --batch {batch} --pixels {pixels} --seed {seed}
python -m train.study_invariance
```

{hardware}; torch {torch}; code {code}. Figures in `{results}`.
"""


def _short(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def page(out: Path) -> str:
    """The page about the results in ``out``."""
    found, facts = read_results(out)
    lines = [f"| | {' | '.join(MEASURES)} | |", "| --- | --- | --- | --- | --- |"]
    for row in found.rows:
        values = " | ".join(_short(getattr(row, measure)) for measure in MEASURES)
        verdict = "the same" if row.invariant else "depends on the batch"
        lines.append(f"| {row.norm} | {values} | {verdict} |")
    return TEXT.format(
        figure=FIGURE,
        table="\n".join(lines),
        bound=BOUND,
        results=RESULTS,
        **{key: facts[key] for key in ("model", "batch", "pixels", "seed")},
        **{key: facts[key] for key in ("hardware", "torch", "code")},
    )


def write_page(out: Path) -> None:
    """Draw and write what the results in ``out`` show; nothing before there are any."""
    if shown := plotted(out):
        replace_file(out / PLOTTED, (json.dumps(shown, indent=1) + "\n").encode())
        draw_invariance(read_results(out)[0], out / f"{FIGURE}.png")
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
@click.option("--render", is_flag=True, help="Only draw the figure and write the page again.")
def main(out: Path, model: str, render: bool) -> None:
    """Compare a batch with its images for every norm, and draw the differences."""
    if not render:
        torch.set_num_threads(1)
        found = measure_invariance(model, batch=BATCH, pixels=PIXELS, seed=SEED)
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**found.to_json(), **provenance(MODULE)}, indent=2)
        replace_file(out / RESULTS, f"{text}\n".encode())
        click.echo(found)
        if not found.ok:
            raise SystemExit(CHECK_FAILED)
    write_page(out)


if __name__ == "__main__":
    main()
