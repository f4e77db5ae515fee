"""The command line: thin commands over the library.

Exit codes: 0 ok, 1 a check failed, 2 usage, 3 bad data, 4 stopped.
"""

import fnmatch
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import timm
import torch
from torch import nn
from tqdm import tqdm

from wszoo.describe import describe_variant, list_rows
from wszoo.weights import WEIGHTS, WEIGHTS_FILE, Weights, find

CHECK_FAILED, BAD_DATA, STOPPED = 1, 3, 4


class _Main(click.Group):
    """Errors that a user can mend are one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, RuntimeError, OSError) as error:
            if isinstance(error, (BrokenPipeError, RecursionError, NotImplementedError)):
                raise
            message = str(error).strip().splitlines() or [type(error).__name__]
            click.echo(f"wszoo: {message[0]}", err=True)
            sys.exit(BAD_DATA)
        except KeyboardInterrupt:
            click.echo("wszoo: stopped", err=True)
            sys.exit(STOPPED)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wszoo")
def main() -> None:
    """ResNets and ResNeXts with Weight Standardization, for small batches."""


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def report(as_json: bool, data: Any, text: str | Callable[[], str]) -> None:
    """Print ``data`` as JSON or ``text``."""
    click.echo(json.dumps(data, indent=2) if as_json else text if isinstance(text, str) else text())


def progress(iterable: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    """A bar on standard error where that is a terminal; nothing in log files."""
    bar: Iterable[Any] = tqdm(iterable, total=total, desc=label, disable=None, leave=False)
    return bar


def load(name: str, **kwargs: Any) -> nn.Module:
    """The model ``name``, with weights where the zoo has some.

    Raises:
        click.BadParameter: There is no such model.
    """
    if not timm.is_model(name.removeprefix("hf-hub:").split(".")[0]) and ":" not in name:
        close = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*", module="ws_resnet")
        hint = f"; near it: {', '.join(close[:6])}" if close else "; see `wszoo list`"
        raise click.BadParameter(f"no model {name!r}{hint}")
    model: nn.Module = timm.create_model(name, **kwargs)
    return model.eval()


def _known(_ctx: click.Context, _param: click.Parameter, name: str) -> str:
    """Refuse a name before any work, telling which names there are."""
    if ":" in name or (timm.is_model(name) and "." not in name):
        return name
    try:
        return find(name).name
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


name_argument = click.argument("name", metavar="NAME", callback=_known)


def record_of(name: str) -> Weights | None:
    """The record behind a name, if it has one."""
    try:
        return find(name)
    except ValueError:
        return None


@main.command("list")
@click.argument("pattern", default="*", metavar="[GLOB]")
@click.option("--pretrained", is_flag=True, help="Only those with weights.")
@as_json
def list_command(pattern: str, pretrained: bool, as_json: bool) -> None:
    """List the variants and their weights."""
    rows = [
        row
        for row in list_rows()
        if fnmatch.fnmatch(row["name"], pattern) or fnmatch.fnmatch(row["model"], pattern)
        if row["tag"] or not pretrained
    ]
    if not rows and not as_json:
        raise click.ClickException(f"nothing matches {pattern!r}; `wszoo list` shows all")
    report(as_json, rows, lambda: _table(rows))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = ("name", "params_m", "norm", "formula", "top1", "input", "license", "where")
    cells = [columns] + [tuple(str(row[c] if row[c] is not None else "-") for c in columns) for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


@main.command()
@name_argument
@as_json
def show(name: str, as_json: bool) -> None:
    """Show one variant: size, features, preprocessing, weights, and how to load it."""
    data = describe_variant(name)

    def lines() -> str:
        return "\n".join(f"{key:<16} {value}" for key, value in data.items())

    report(as_json, data, lines)


@main.command()
@name_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", default=5, show_default=True, help="Classes to print per photo.")
@click.option("--save", type=click.Path(path_type=Path, file_okay=False), help="Draw into this folder.")
@as_json
def predict(name: str, images: tuple[Path, ...], top: int, save: Path | None, as_json: bool) -> None:
    """Classify IMAGES, files or folders of them."""
    from wszoo.datasets import find_images, open_image
    from wszoo.evaluate import predict as predict_photos
    from wszoo.visualize import draw_predictions

    paths = find_images(images)
    photos = [open_image(path) for path in paths]
    model = load(name, pretrained=True)
    record = record_of(name)
    names = record.label_names() if record else None
    rows = []
    for path, ranked in zip(paths, predict_photos(model, photos, top), strict=True):
        classes = [(names[row] if names else str(row), share) for row, share in ranked]
        rows.append({"image": str(path), "classes": [{"name": n, "share": s} for n, s in classes]})

    def lines() -> str:
        return "\n".join(
            f"{row['image']}: " + ", ".join(f"{c['name']} {100 * c['share']:.1f} %" for c in row["classes"])
            for row in rows
        )

    report(as_json, rows, lines)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        captions = [f"{r['classes'][0]['name']} {100 * r['classes'][0]['share']:.0f} %" for r in rows]
        draw_predictions(photos, captions, [None] * len(photos), save / "predictions.png", title=name)
        click.echo(f"drawn: {save / 'predictions.png'}", err=True)


@main.command("eval")
@name_argument
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Class folders or archives of them.")
@click.option("--split", help="train, val or test, where --data holds several; val if there is one.")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--save", type=click.Path(path_type=Path, file_okay=False), help="Draw the confusions into this folder.")
@as_json
def eval_command(name: str, data: Path, split: str | None, batch_size: int, save: Path | None, as_json: bool) -> None:
    """Measure the top-1 and top-5 accuracy of a classifier on photos in class folders."""
    from wszoo.datasets import read_labelled_images
    from wszoo.evaluate import evaluate, targets_for
    from wszoo.visualize import draw_confusion

    images = read_labelled_images(data, split, default="val")
    model = load(name, pretrained=True)
    record = record_of(name)
    targets = targets_for(images, record, model.num_classes)
    batches = (len(images) + batch_size - 1) // batch_size
    result = evaluate(
        model, images, targets, batch_size=batch_size, progress=lambda b: progress(b, batches, name)
    )
    row = {"name": name, "top1": round(result.top1, 2), "top5": round(result.top5, 2),
           "standard_error": round(result.standard_error, 2), "photos": result.count}
    report(as_json, row, f"{name}: top-1 {row['top1']} % ± {row['standard_error']}, top-5 {row['top5']} % of {result.count} photos")
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        classes = record.label_names() if record else images.classes
        draw_confusion(result.confusion.numpy(), [c.split(",")[0] for c in classes], save / "confusion.png", title=name)


@main.command()
@click.argument("target", metavar="NAME|FILE")
@click.option("--model", "expected", callback=lambda c, p, v: v and _known(c, p, v), help="The record or variant that FILE should be.")
@as_json
def verify(target: str, expected: str | None, as_json: bool) -> None:
    """Check weights: intact, the published ones, of the right net and formula."""
    from wszoo.verify import verify_file, verify_name

    is_file = target.endswith(".safetensors") or os.sep in target or Path(target).exists()
    try:
        facts = verify_file(Path(target), expected) if is_file else verify_name(_known(None, None, target))  # type: ignore[arg-type]
    except (ValueError, OSError, RuntimeError) as error:
        click.echo(f"wszoo: {str(error).splitlines()[0]}", err=True)
        sys.exit(CHECK_FAILED)
    report(as_json, facts, lambda: "\n".join(f"{k:<10} {v}" for k, v in facts.items()) + "\nok")


@main.command()
@name_argument
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False))
def fold(name: str, output: Path) -> None:
    """Write NAME with standardization baked into plain convolutions, for inference."""
    from wszoo.verify import save_folded

    if output.suffix != ".safetensors":
        raise click.BadParameter(f"{output} must end in .safetensors", param_hint="-o")
    error = save_folded(load(name, pretrained=True), name, output)
    click.echo(f"{output}: {output.stat().st_size} bytes, logits differ by {error:.1e} (relative)")


@main.command()
@name_argument
@as_json
def lint(name: str, as_json: bool) -> None:
    """Count norms and convolutions of NAME (any timm model) and say what is amiss."""
    from wszoo.lint import lint as lint_module

    with torch.device("meta"):
        result = lint_module(load(name))
    report(as_json, result.to_json(), lambda: str(result))
    if not result.ok:
        sys.exit(CHECK_FAILED)


@main.command()
@click.option("--out", "output", default=Path("wszoo-demo"), show_default=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the pictures.")
@as_json
def demo(output: Path, as_json: bool) -> None:
    """Classify packaged photos, fine-tune at batch size 2, compare with random weights."""
    from wszoo.demo import run_demo

    result = run_demo(output, echo=lambda line: click.echo(line, err=as_json), progress=progress)
    verdict = "pretraining helps" if result.passed else "pretraining does not help beyond chance"
    report(as_json, result.to_json(), f"{verdict}: {result.pretrained - result.random:+.1f} points, two standard errors are {result.margin:.1f}")
    if not result.passed:
        sys.exit(CHECK_FAILED)


@main.command()
@as_json
def doctor(as_json: bool) -> None:
    """Check this installation: versions, devices, caches, packaged weights."""
    from dataclasses import asdict

    from wszoo.doctor import diagnose

    findings = diagnose()
    report(as_json, [asdict(f) for f in findings], lambda: "\n".join(map(str, findings)))
    if not all(finding.ok for finding in findings):
        sys.exit(CHECK_FAILED)


@main.command()
@click.option("--model", default="resnet50_gn_ws", show_default=True, callback=_known)
@click.option("--against", default="timm", show_default=True, type=click.Choice(["timm", "bn"]))
@click.option("--rounds", default=9, show_default=True)
@click.option("--threads", default=torch.get_num_threads(), show_default=True)
@as_json
def bench(model: str, against: str, rounds: int, threads: int, as_json: bool) -> None:
    """Compare speed with a peer, as ratios from one interleaved run."""
    from wszoo.bench import compare

    result = compare(model, against=against, rounds=rounds, threads=threads)
    report(as_json, result.to_json(), lambda: str(result))
