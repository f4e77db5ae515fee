"""The command that compares a batch with its images one by one."""

import sys
from pathlib import Path

import click

from wszoo.terminal import CHECK_FAILED, as_json, check_ours, name_argument, report


@click.command()
@name_argument(check_ours)
@click.option("--batch", default=8, show_default=True, type=click.IntRange(2, 128), help="Images.")
@click.option(
    "--pixels", default=64, show_default=True, type=click.IntRange(33, 512), help="Of a side."
)
@click.option("--seed", default=0, show_default=True, help="Of the weights and the photos.")
@click.option(
    "--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw a PNG file, too."
)
@as_json
def invariance(
    name: str, batch: int, pixels: int, seed: int, figure: Path | None, as_json: bool
) -> None:
    """Compare a batch with batches of one, in train mode, for BN, GN, GN+WS and others.

    The nets have the architecture of NAME and random weights. Exit code 1 if a norm that looks at
    one image at a time depends on the batch.
    """
    from wszoo.invariance import draw_invariance, measure_invariance

    if figure and figure.suffix != ".png":
        raise click.BadParameter(f"{figure} must end in .png", param_hint="--figure")
    found = measure_invariance(name, batch=batch, pixels=pixels, seed=seed)
    if figure:
        draw_invariance(found, figure)
    report(as_json, found.to_json(), lambda: str(found))
    if not found.ok:
        sys.exit(CHECK_FAILED)
