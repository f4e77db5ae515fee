"""The command line: thin commands over the library.

Exit codes: 0 ok, 1 a check failed, 2 usage, 3 bad data, 4 stopped.
"""

import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click
import torch

from wszoo.bench_cli import bench
from wszoo.card_cli import card
from wszoo.convert_cli import convert
from wszoo.data_cli import check_data_command
from wszoo.describe import describe_heads, describe_variant, fact_lines, heads_table, list_rows
from wszoo.download_cli import confirm, download
from wszoo.export_cli import export
from wszoo.finetune.defaults import HEADS
from wszoo.finetune_cli import finetune
from wszoo.gallery_cli import gallery
from wszoo.interrupt import ready
from wszoo.invariance_cli import invariance
from wszoo.predict_cli import eval_command, predict
from wszoo.push_cli import push
from wszoo.shards_cli import shards
from wszoo.terminal import (
    CHECK_FAILED,
    MainGroup,
    as_json,
    check_foldable,
    check_name,
    check_ours,
    check_trained,
    checked_by,
    fail,
    load,
    name_argument,
    progress,
    report,
    table,
)
from wszoo.ws_resnet import WSResNet

folder = click.Path(path_type=Path, file_okay=False)
_HEADS = (*HEADS["detect"], *HEADS["segment"])


@click.group(cls=MainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wszoo")
def main() -> None:
    """ResNets and ResNeXts with Weight Standardization, for small batches."""
    ready()
    # One line says what could not be fetched; the client would log every try before.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@main.command("list")
@click.argument("pattern", default="*", metavar="[GLOB]")
@click.option("--pretrained", is_flag=True, help="Only those with weights.")
@as_json
def list_command(pattern: str, pretrained: bool, as_json: bool) -> None:
    """List the variants and their weights."""
    rows = list_rows(pattern, pretrained=pretrained)
    if not rows:
        if as_json:
            click.echo("[]")
        fail(f"nothing matches {pattern!r}; `wszoo list` shows all", CHECK_FAILED)
    columns = ("name", "params_m", "norm", "formula", "top1", "input", "license", "where")
    report(as_json, rows, lambda: table(rows, columns))


@main.command()
@name_argument(check_ours)
@click.option(
    "--head",
    "heads",
    multiple=True,
    type=click.Choice([*_HEADS, "all"]),
    help="Also show the detector or segmenter with this on NAME; may be given several times.",
)
@as_json
def show(name: str, heads: tuple[str, ...], as_json: bool) -> None:
    """Show one variant: size, features, preprocessing, weights, and how to load it."""
    facts = describe_variant(name)
    lines = fact_lines(facts)
    if heads:
        rows = describe_heads(facts["model"], _HEADS if "all" in heads else heads)
        facts |= {"heads": rows}
        lines += ["", table(heads_table(rows), ("head", "task", "params", "MACs", "norms"))]
    report(as_json, facts, lambda: "\n".join(lines))


@main.command()
@click.argument("target", metavar="NAME|FILE")
@click.option(
    "--model",
    "expected",
    # As typed: a variant is not the first of its weights, it may be fine-tuned ones.
    callback=checked_by(lambda name: check_ours(name) and name),
    help="The weights, or the variant, that FILE should be.",
)
@as_json
def verify(target: str, expected: str | None, as_json: bool) -> None:
    """Check weights: intact, the published ones, of the right net and formula."""
    from wszoo.verify import verify_file, verify_name

    is_file = target.endswith(".safetensors") or os.sep in target or Path(target).exists()
    name = None if is_file else _weights_named(target)
    try:
        facts = verify_name(name) if name else verify_file(Path(target), expected)
    except (ValueError, OSError) as error:
        fail(error, CHECK_FAILED)
    lines = [f"{key:<8} {fact}" for key, fact in facts.items()]
    report(as_json, facts, lambda: "\n".join([*lines, "ok"]))


def _weights_named(target: str) -> str:
    try:
        check_ours(target)
        return check_trained(target)
    except click.BadParameter as error:
        raise click.BadParameter(
            f"there is no file {target!r}, and {error.message}", param_hint="NAME|FILE"
        ) from error


@main.command()
@name_argument(check_foldable)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False))
def fold(name: str, output: Path) -> None:
    """Write NAME with standardization baked into plain convolutions, for inference."""
    from wszoo.verify import make_folder, save_folded

    if output.suffix != ".safetensors":
        raise click.BadParameter(f"{output} must end in .safetensors", param_hint="-o")
    make_folder(output.parent)  # before the weights are fetched
    model = load(name, pretrained=True)
    if not isinstance(model, WSResNet):
        raise click.BadParameter(f"{name!r} is not of this zoo; see `wszoo list`")
    error = save_folded(model, name, output)
    size = output.stat().st_size
    click.echo(f"{output}: {size} bytes, logits differ by {error:.1e} (relative)")


@main.command()
@name_argument(check_name)
@as_json
def lint(name: str, as_json: bool) -> None:
    """Count norms and convolutions of NAME, any timm model, and say what is amiss."""
    from wszoo.lint import lint as lint_module

    with torch.device("meta"):
        result = lint_module(load(name))
    report(as_json, result.to_json(), lambda: str(result))
    if not result.ok:
        sys.exit(CHECK_FAILED)


@main.command()
@click.option(
    "--out",
    "output",
    default=Path("wszoo-demo"),
    show_default=True,
    type=folder,
    help="Folder for the pictures.",
)
@as_json
def demo(output: Path, as_json: bool) -> None:
    """Classify packaged photos, fine-tune at batch size 2 and 1, and find blood cells."""
    from wszoo.demo import run_demo

    result = run_demo(output, echo=lambda line: click.echo(line, err=as_json), progress=progress)
    report(as_json, result.to_json(), lambda: str(result))
    if not result.passed:
        sys.exit(CHECK_FAILED)


@main.command()
@as_json
def doctor(as_json: bool) -> None:
    """Check this installation: versions, devices, caches, packaged weights."""
    from wszoo.doctor import diagnose

    findings = diagnose()
    rows = [asdict(finding) for finding in findings]
    report(as_json, rows, lambda: "\n".join(map(str, findings)))
    if not all(finding.ok for finding in findings):
        sys.exit(CHECK_FAILED)


for command in (
    *(bench, card, check_data_command, confirm, convert, download, eval_command),
    *(export, finetune, gallery, invariance, predict, push, shards),
):
    main.add_command(command)
