"""The command ``wszoo convert``: foreign weights in, safetensors out, with a proof."""

import sys
from pathlib import Path

import click

from wszoo.terminal import CHECK_FAILED, OneLineErrors, as_json, report


def _known_source(
    _context: click.Context, _parameter: click.Parameter, name: str | None
) -> str | None:
    from wszoo.convert import SOURCES

    if name is not None and name not in SOURCES:
        raise click.BadParameter(f"no source {name!r}; the sources: {', '.join(SOURCES)}")
    return name


@click.command(cls=OneLineErrors)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--model", metavar="NAME", help="The net that FILE has to hold; checked.")
@click.option(
    "--from",
    "source",
    metavar="SOURCE",
    callback=_known_source,
    help="Where FILE comes from; recognised from its tensors by default.",
)
@click.option(
    "--to",
    type=click.Choice(["wszoo", "timm"]),
    default="wszoo",
    show_default=True,
    help="timm: in a form that timm loads without this package (ResNet-50 and -101).",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="New folder, or that of an earlier conversion.",
)
@click.option(
    "--dtype", type=click.Choice(["fp32", "fp16", "fp64"]), default="fp32", show_default=True
)
@as_json
def convert(
    file: Path,
    model: str | None,
    source: str | None,
    to: str,
    output: Path,
    dtype: str,
    as_json: bool,
) -> None:
    """Turn the weights in FILE into safetensors, prove them, and write them to a folder.

    FILE may be of the authors (.pth.tar), OpenMMLab, mmdetection, Detectron, timm or Google; it is
    read without running any code in it. A classifier that is written is loaded by
    `timm.create_model("local-dir:FOLDER", pretrained=True)`, a detector by the lines in the
    README.md beside it, since timm builds none.
    """
    from wszoo.conversion import convert_file

    result = convert_file(file, output, model=model, source=source, to=to, dtype=dtype)
    report(as_json, result.to_json(), lambda: str(result))
    if not result.passed:
        numbers = "its net computes infinities or NaN" if result.proof.not_finite else ""
        click.echo(
            f"wszoo: {numbers or f'{file} is not what it was taken for'}: the proof failed, "
            f"nothing was written to {output} but its report; try another --from or --dtype",
            err=True,
        )
        sys.exit(CHECK_FAILED)
