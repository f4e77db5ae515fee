"""The command ``wszoo bench``: ours beside its peers, in time and in memory."""

import json
import sys
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import click

from wszoo.terminal import (
    CHECK_FAILED,
    OneLineErrors,
    as_json,
    check_ours,
    checked_by,
    report,
)

if TYPE_CHECKING:
    from wszoo.bench import Comparison

RESULTS = "bench.json"
_CLEAR = "\r\x1b[K"  # to the start of the line, and nothing on it
_GROUPS = ("operator", "inference", "training", "memory", "import", "loader")
_PEERS = ("timm", "paper", "bn")
_count = click.IntRange(min=1)


@click.command(cls=OneLineErrors)
@click.option(
    "--model", default="resnet50_gn_ws", show_default=True, callback=checked_by(check_ours)
)
@click.option(
    "--only", multiple=True, type=click.Choice(_GROUPS), help="A part; may be repeated. [all]"
)
@click.option(
    "--against",
    multiple=True,
    type=click.Choice(_PEERS),
    help="timm's StdConv2d with GroupNorm, the paper's formula with GroupNorm, or BatchNorm; may "
    "be repeated. [all]",
)
@click.option("--rounds", type=_count, help="Turns of each side. [what each part needs]")
@click.option("--quick", is_flag=True, help="Leave out the larger half; three rounds.")
@click.option("--threads", type=_count, help="As many as torch uses by default.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--cpu-time", is_flag=True, help="Processor time of one thread, not wall time.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Class folders to read photos from. [packaged photos]",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write JSON and pictures here.",
)
@click.option("--check", is_flag=True, help="Exit with 1 if a goal is missed.")
@as_json
def bench(
    model: str,
    only: tuple[str, ...],
    against: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    threads: int | None,
    device: str,
    cpu_time: bool,
    data: Path | None,
    output: Path | None,
    check: bool,
    as_json: bool,
) -> None:
    """Compare time and memory with peers, as ratios from one interleaved run.

    Takes twenty minutes for ResNet-50 on two cores; --only and --quick take less. Where a
    pass or an operator misses its goal, a profile on the wall's clock says why.
    """
    with _Progress() as tell:
        tell("starting")
        result = _compare(
            model,
            output,
            only=only,
            against=against,
            rounds=rounds,
            quick=quick,
            threads=threads,
            device=device,
            cpu_time=cpu_time,
            data=data,
            tell=tell,
        )
    report(as_json, result.to_json(), lambda: str(result))
    if check and not result.met:
        sys.exit(CHECK_FAILED)


def _compare(model: str, output: Path | None, **options: Any) -> "Comparison":
    from wszoo.bench import compare
    from wszoo.bench.pictures import draw
    from wszoo.weights_file import write_whole

    if output:
        output.mkdir(parents=True, exist_ok=True)  # before what takes minutes
    result = compare(model, **options)
    if output:
        text = json.dumps(result.to_json(), indent=2) + "\n"
        write_whole(output / RESULTS, text.encode())
        draw(result, output)
    return result


class _Progress:
    """Tells on standard error what runs: in one line of a terminal, line by line in a log."""

    def __init__(self) -> None:
        self._in_place = sys.stderr.isatty()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_place:
            click.echo(_CLEAR, nl=False, err=True)

    def __call__(self, line: str) -> None:
        if self._in_place:
            room = get_terminal_size().columns - 1
            click.echo(f"{_CLEAR}{f'bench: {line}'[:room]}", nl=False, err=True)
        else:
            click.echo(f"bench: {line}", err=True)
