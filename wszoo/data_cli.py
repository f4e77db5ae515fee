"""The command over data sets: ``wszoo check-data``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from wszoo.terminal import CHECK_FAILED, OneLineErrors, as_json, data_location, progress, report


def _names(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[str, ...] | None:
    """Names between commas."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise click.BadParameter(f"{text!r} holds an empty name; write them as a,b,c")
    return names


@click.command("check-data", cls=OneLineErrors)
@click.option(
    "--task",
    required=True,
    type=click.Choice(["classify", "detect", "segment"]),
    help="What the set is for.",
)
@click.option(
    "--data",
    required=True,
    type=data_location,
    help="A folder, tar archives, or the folder or URL of shards.",
)
@click.option("--split", help="train, val or test; all by default, which also compares them.")
@click.option(
    "--classes",
    metavar="A,B,...",
    callback=_names,
    help="Names of classes, for detect and segment.",
)
@click.option(
    "--ignore",
    multiple=True,
    type=click.IntRange(0, 255),
    help="Value of pixels without a class, for segment; may be given several times.",
)
@click.option(
    "--input-size",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Note images under half of this, for classify and segment.",
)
@click.option(
    "--quarantine",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="List the images with errors here, for readers to leave out.",
)
@click.option(
    "--save", type=click.Path(path_type=Path, file_okay=False), help="Draw into this folder."
)
@as_json
def check_data_command(
    task: Any,
    data: Path | str,
    split: str | None,
    classes: tuple[str, ...] | None,
    ignore: tuple[int, ...],
    input_size: int | None,
    quarantine: Path | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Look at every file of a data set, and tell what is wrong before training does."""
    from wszoo.datasets.check import check_data
    from wszoo.datasets.quarantine import write_quarantine

    if task == "classify" and classes is not None:
        raise click.BadParameter("class folders name their classes", param_hint="--classes")
    if task != "segment" and ignore:
        raise click.BadParameter("it is for the masks of --task segment", param_hint="--ignore")
    if task == "detect" and input_size is not None:
        raise click.BadParameter("detectors resize by themselves", param_hint="--input-size")

    def watched(items: Sequence[Any]) -> Any:
        return progress(items, len(items), "files")

    result = check_data(
        task,
        data,
        split=split,
        classes=classes,
        ignore=ignore,
        input_size=input_size,
        progress=watched,
    )
    report(as_json, result.to_json(), lambda: str(result))
    if quarantine is not None:
        reasons = result.quarantine()
        write_quarantine(quarantine, reasons)
        click.echo(f"{len(reasons)} images with errors listed: {quarantine}", err=True)
    if save is not None:
        from wszoo.visualize.data_report import draw_report

        for picture in draw_report(result, save):
            click.echo(f"drawn: {picture}", err=True)
    if not result.ok:
        sys.exit(CHECK_FAILED)
