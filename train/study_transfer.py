"""What backbones are worth at small batches: ``python -m train.study_transfer --help``.

The same net from published and from random weights, and a BatchNorm twin, fine-tuned on clothing
(CC0), BCCD (MIT) and CamVid with few photos per step, and asked once, at the end, about photos
that decided nothing. A run takes minutes; what is in results.jsonl is not done again.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

from train.studies.results import STUDIES, provenance
from train.studies.transfer_page import RESULTS, write_page
from train.studies.transfer_tasks import TASKS, TransferTask, prepare
from wszoo.datasets import LabelledImages
from wszoo.datasets.detection import DetectionImages
from wszoo.finetune.data import DataSource, read_images
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.outputs import load_finetuned
from wszoo.finetune.results import classify_photos, detect_photos, segment_photos
from wszoo.finetune.run import Conditions, fine_tune
from wszoo.finetune.settings import FineTuning
from wszoo.terminal import OneLineErrors
from wszoo.training.distributed import join_ranks
from wszoo.training.rows import Row, append_row, read_rows
from wszoo.weights import find

MODULE = "train.study_transfer"
OUT = STUDIES / "transfer"
# By one recipe: the photos, steps and rates of the first are those of the second.
TWINS = {
    "bn_twin": STUDIES.parent / "resnet18.e14_tin200",  # there once it is trained
    "gn_twin": STUDIES.parent / "resnet18_gn_ws.e14_tin200",
}
STARTS = ("published", "random", *TWINS)


class Cell(NamedTuple):
    """One run."""

    task: str
    start: str
    batch: int
    seed: int

    def is_in(self, rows: list[Row]) -> bool:
        """Whether a row is the result of this run."""
        return any(self._asdict().items() <= row.items() for row in rows)

    def __str__(self) -> str:
        return f"{self.task}-{self.start}-b{self.batch}-s{self.seed}"


def cells(tasks: tuple[str, ...], starts: tuple[str, ...]) -> list[Cell]:
    """All runs, in an order such that what is done first says most."""
    ranks = range(max(len(TASKS[task].batches) for task in tasks))
    seeds = range(max(TASKS[task].seeds for task in tasks))
    return [
        Cell(task, start, TASKS[task].batches[rank], seed)
        for rank in ranks
        for seed in seeds
        for task in tasks
        if rank < len(TASKS[task].batches) and seed < TASKS[task].seeds
        for start in starts
    ]


def settings_of(cell: Cell) -> FineTuning:
    """The settings of one run."""
    task = TASKS[cell.task]
    if cell.start in TWINS:
        norm = cell.start == "bn_twin"
        net: dict[str, Any] = {
            "model": f"local-dir:{TWINS[cell.start]}",
            "allow_batch_norm": norm,
        }
    else:
        net = {"model": find("resnet18_gn_ws").name, "pretrained": cell.start == "published"}
    given = {**task.settings, **net, "lr": task.lr(cell.batch)}
    return settings_for(task.task, batch_size=cell.batch, seed=cell.seed, **given)


def run_cell(cell: Cell, source: DataSource, folder: Path) -> Row:
    """Fine-tune one net, and ask it about the photos of the split ``test``."""
    settings = settings_of(cell)
    started, cpu = time.monotonic(), time.process_time()
    with join_ranks(device="cpu") as ranks:
        conditions = Conditions(check=False, workers=0, log_every=100)
        fine_tune(settings, source, folder, ranks=ranks, conditions=conditions)
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu
    model, facts = load_finetuned(folder)
    epochs, _ = read_rows(folder / "metrics.jsonl")
    metric = TASKS[cell.task].metric
    return {
        **cell._asdict(),
        "settings": asdict(settings) | {"model": Path(settings.model).name},
        "test": ask(model, source, settings),
        "held_out": held_out_by_epoch(epochs, metric),
        "losses": [round(epoch["loss"], 4) for epoch in epochs],
        "kept_epoch": facts.epoch,
        "seconds": round(seconds),
        "cpu_seconds": round(cpu_seconds),
        "threads": torch.get_num_threads(),
    }


def held_out_by_epoch(epochs: list[Row], metric: str) -> list[float]:
    """Percent after each epoch; the rows of classification have a prefix."""
    return [round(row[metric if metric in row else f"held_out_{metric}"], 3) for row in epochs]


def ask(model: torch.nn.Module, source: DataSource, settings: FineTuning) -> dict[str, float]:
    """Figures in percent on photos that decided nothing."""
    images = read_images(source, "test", "test")
    if isinstance(images, LabelledImages):
        metrics = classify_photos(model, images).metrics
    elif isinstance(images, DetectionImages):
        metrics = detect_photos(model, images).metrics
    else:
        metrics = segment_photos(model, images, settings.max_size).metrics
    return {"photos": len(images), **{key: round(value, 3) for key, value in metrics.items()}}


def left(wanted: list[Cell], results: Path) -> Iterator[Cell]:
    """Those of ``wanted`` that have no row, looked up anew before each."""
    for cell in wanted:
        if not cell.is_in(read_rows(results)[0]):
            yield cell


def _chosen(names: dict[str, TransferTask] | tuple[str, ...], what: str) -> Any:
    def check(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
        words = tuple(names) if text is None else tuple(text.split(","))
        if unknown := [word for word in words if word not in names]:
            raise click.BadParameter(f"no {what} {unknown[0]!r}; choose of {', '.join(names)}")
        return words

    return check


folder_type = click.Path(path_type=Path, file_okay=False)


@click.command(cls=OneLineErrors)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Folder of archives.")
@click.option("--out", type=folder_type, default=OUT, show_default=True, help="Of the results.")
@click.option("--runs", type=folder_type, help="Folder for what is unpacked, and for the runs.")
@click.option("--tasks", callback=_chosen(TASKS, "task"), metavar="A,B", help="All by default.")
@click.option("--starts", callback=_chosen(STARTS, "start"), metavar="A,B", help="All by default.")
@click.option("--minutes", type=float, help="Begin no run after these.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--render", is_flag=True, help="Only draw the figures and write the page again.")
def main(
    data: Path | None,
    out: Path,
    runs: Path | None,
    tasks: tuple[str, ...],
    starts: tuple[str, ...],
    minutes: float | None,
    threads: int,
    render: bool,
) -> None:
    """Do the runs, or those that are left, and draw what there is."""
    if not render:
        if data is None or runs is None:
            raise click.UsageError("give --data and --runs, or --render alone")
        if "bn_twin" in starts and not TWINS["bn_twin"].is_dir():
            raise click.UsageError(
                f"there is no BatchNorm twin in {TWINS['bn_twin']}; make it as train/README.md "
                f"says, or leave it out with --starts published,random,gn_twin"
            )
        torch.set_num_threads(threads)
        work(data, out, runs, cells(tasks, starts), minutes)
    write_page(out)


def work(data: Path, out: Path, runs: Path, wanted: list[Cell], minutes: float | None) -> None:
    """Do what is left of ``wanted``, as long as there is time."""
    until = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    out.mkdir(parents=True, exist_ok=True)
    for cell in left(wanted, out / RESULTS):
        if time.monotonic() > until:
            click.echo("time is up; repeat the command to go on")
            return
        task = TASKS[cell.task]
        source, digest = prepare(task, data, runs / "data")
        row = run_cell(cell, source, runs / str(cell))
        append_row(out / RESULTS, {**row, **provenance(MODULE), "data": digest})
        shutil.rmtree(runs / str(cell))
        click.echo(f"{cell}: {row['test'][task.metric]:.1f} %, {row['seconds']} s")


if __name__ == "__main__":
    main()
