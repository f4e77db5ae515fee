"""The commands ``wszoo download`` and ``wszoo confirm``: weights that others published."""

import sys
from pathlib import Path

import click

from wszoo.terminal import (
    CHECK_FAILED,
    OneLineErrors,
    as_json,
    check_ours,
    check_trained,
    checked_by,
    progress,
    report,
)
from wszoo.weights import download as copy_to
from wszoo.weights import find, locate

_accept_unverified = click.option(
    "--accept-unverified",
    is_flag=True,
    help="Take originals without a published hash as they are; they are pinned at first use.",
)


def _published(name: str) -> str:
    return check_trained(check_ours(name))


def _all_published(
    _context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(_published(name) for name in names)


@click.command(cls=OneLineErrors)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, callback=_all_published)
@click.option(
    "--to",
    "output",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put a copy of each there, for WSZOO_WEIGHTS=DIR on a machine without a network.",
)
@_accept_unverified
@as_json
def download(
    names: tuple[str, ...], output: Path | None, accept_unverified: bool, as_json: bool
) -> None:
    """Fetch, check and convert the weights NAME... now, so that they load without a network."""
    rows = []
    for name in names:
        weights = find(name)
        if output is None:
            path = locate(weights, accept_unverified=accept_unverified)
        else:
            path = copy_to(weights, output, accept_unverified=accept_unverified)
        rows.append({"name": weights.name, "file": str(path), "bytes": path.stat().st_size})
    lines = [f"{row['name']}: {row['file']}, {row['bytes']} bytes" for row in rows]
    if output is not None:
        lines.append(f"where there is no network: WSZOO_WEIGHTS={output}")
    report(as_json, rows, lambda: "\n".join(lines))


@click.command(cls=OneLineErrors)
@click.argument("name", metavar="NAME", callback=checked_by(_published))
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="ImageNet's validation set in class folders, e.g. imagenet/val.",
)
@click.option("--batch-size", default=64, type=click.IntRange(min=1), show_default=True)
@_accept_unverified
@as_json
def confirm(name: str, data: Path, batch_size: int, accept_unverified: bool, as_json: bool) -> None:
    """Prove and measure converted weights against what their authors published.

    Fetches the original of NAME, converts it, compares it with an independent forward, and
    measures it on ImageNet; prints what to commit.
    """
    from wszoo.confirm import confirm as confirm_weights

    result = confirm_weights(
        find(name),
        data,
        batch_size=batch_size,
        accept_unverified=accept_unverified,
        progress=lambda batches: progress(batches, len(batches), name),
    )
    report(as_json, result.to_json(), lambda: str(result))
    if not result.passed:
        sys.exit(CHECK_FAILED)
