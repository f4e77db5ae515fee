"""The command ``wszoo bench``: ours beside its peers, in time and in memory."""

import json
import sys
from pathlib import Path

import click

from wszoo.terminal import (
    CHECK_FAILED,
    OneLineErrors,
    as_json,
    check_ours,
    checked_by,
    progress,
    report,
)

RESULTS = "bench.json"
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

    Takes a quarter of an hour for ResNet-50 on two cores; --only and --quick take less.
    """
    from wszoo.bench import compare
    from wszoo.bench.pictures import draw
    from wszoo.weights_file import write_whole

    if output:
        output.mkdir(parents=True, exist_ok=True)  # before what takes minutes
    result = compare(
        model,
        only=only,
        against=against,
        rounds=rounds,
        quick=quick,
        threads=threads,
        device=device,
        cpu_time=cpu_time,
        data=data,
        progress=progress,
    )
    if output:
        text = json.dumps(result.to_json(), indent=2) + "\n"
        write_whole(output / RESULTS, text.encode())
        draw(result, output)
    report(as_json, result.to_json(), lambda: str(result))
    if check and not result.met:
        sys.exit(CHECK_FAILED)
