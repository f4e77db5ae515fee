"""Accuracy against images per step: ``python -m train.study_batch_size --help``.

A grid of small runs, each on one thread: five kinds of net, five batch sizes, three seeds, after
a base rate was chosen for each kind on photos held out. A run takes minutes, and what a killed one
did is repeated; what is in results.jsonl is not. Several processes may share the work.
"""

import time
from pathlib import Path
from typing import Any

import click
import torch

from train.studies.batch_size_page import write_page
from train.studies.grid import BATCHES, PLAN, RATE_SAMPLES, SAMPLES, SEEDS, Cell, Grid, cells
from train.studies.nets import KINDS
from train.studies.photos import read_subset
from train.studies.results import STUDIES, declare
from wszoo.terminal import OneLineErrors

OUT = STUDIES / "batch_size"


def _pairs(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> Any:
    found = []
    for word in words:
        kind, _, batch = word.partition(":")
        if kind not in KINDS or batch not in map(str, BATCHES):
            raise click.BadParameter(
                f"{word!r} is no cell; give NORM:BATCH of {', '.join(KINDS)} and "
                f"{', '.join(map(str, sorted(BATCHES)))}"
            )
        found.append((kind, int(batch)))
    return tuple(found)


def _seeds(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not set(words) <= set(map(str, SEEDS)):
        known = ",".join(map(str, SEEDS))
        raise click.BadParameter(f"{text!r} are no seeds of the study; give some of {known}")
    return tuple(map(int, words))


folder = click.Path(path_type=Path, file_okay=False)


@click.command(cls=OneLineErrors)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Tiny ImageNet.")
@click.option("--out", type=folder, default=OUT, show_default=True, help="Folder of the results.")
@click.option("--cache", type=folder, help="Keep the decoded photos here.")
@click.option("--seeds", default="0,1,2", show_default=True, callback=_seeds)
@click.option("--only", multiple=True, callback=_pairs, help="NORM:BATCH, such as gn_ws:1.")
@click.option("--minutes", type=float, help="Begin no run after these.")
@click.option("--render", is_flag=True, help="Only draw the figures and write the page again.")
def main(
    data: Path | None,
    out: Path,
    cache: Path | None,
    seeds: tuple[int, ...],
    only: tuple[tuple[str, int], ...],
    minutes: float | None,
    render: bool,
) -> None:
    """Train the grid, or what is left of it, and draw what there is."""
    if not render:
        if data is None:
            raise click.UsageError("give --data, the folder of Tiny ImageNet, or --render alone")
        torch.set_num_threads(1)
        until = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        work(data, out, cache, [*cells(seeds, only)], until)
    write_page(out)


def work(data: Path, out: Path, cache: Path | None, wanted: list[Cell], until: float) -> None:
    """Do all of ``wanted`` that is not done by the time ``until``."""
    out.mkdir(parents=True, exist_ok=True)
    subset = read_subset(data, cache=cache)
    declare(out, {"photos": subset.facts, "plan": PLAN})
    grid = Grid(out, subset, (SAMPLES, RATE_SAMPLES))
    while left := grid.left(wanted):
        if time.monotonic() > until:
            click.echo(f"{len(left)} runs are left; repeat the command to go on")
            return
        done = grid.do_one(wanted)
        if done is None:  # others do what is left, or what it waits for
            time.sleep(5)
            continue
        cell, row = done
        score = row["top1"] if cell.rate is not None else row["top1_eval"]
        click.echo(f"{cell}: {score:.1f} %, {row['cpu_seconds']:.0f} CPU s; {len(left) - 1} left")


if __name__ == "__main__":
    main()
