"""The command ``wszoo export``: weights or a run as ONNX, or as a program of torch."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wszoo.finetune_cli import is_run, run_or
from wszoo.terminal import (
    CHECK_FAILED,
    OneLineErrors,
    as_json,
    check_trained,
    fail,
    load,
    name_argument,
    report,
)

if TYPE_CHECKING:
    from torch import Tensor

    from wszoo.exporting import Plan
    from wszoo.finetune.settings import TaskName

_ROUNDS = 15


def _size(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """Height and width in pixels."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if found is None:
        raise click.BadParameter(
            f"{text!r} is no size; write it as 224, or as 480x640 (height x width)"
        )
    return int(found[1]), int(found[2] or found[1])


@click.command(cls=OneLineErrors)
@name_argument(run_or(check_trained))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write; .onnx or .pt2 (torch.export) says which.",
)
@click.option(
    "--image-size", metavar="N|HxW", callback=_size, help="By default that of the weights."
)
@click.option(
    "--dynamic/--static",
    default=None,
    help="Leave batch and size free, or fix them; by default free, of detectors fixed.",
)
@click.option("--opset", type=int, help="Of ONNX; by default what torch chooses.")
@click.option(
    "--with-preprocessing/--without-preprocessing",
    "preprocessing",
    default=True,
    help="Take images in 0..1 (the default), or normalised ones (classifiers).",
)
@click.option(
    "--photo",
    "photos",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Check on this photo, too; may be repeated.",
)
@click.option("--no-check", is_flag=True, help="Do not run the file beside torch.")
@click.option("--latency", is_flag=True, help="Time one image before and after.")
@as_json
def export(
    name: str,
    output: Path,
    image_size: tuple[int, int] | None,
    dynamic: bool | None,
    opset: int | None,
    preprocessing: bool,
    photos: tuple[Path, ...],
    no_check: bool,
    latency: bool,
    as_json: bool,
) -> None:
    """Write NAME, weights or the folder of a finished run, as ONNX or a torch.export program.

    Weight Standardization is folded into plain convolutions first. The file takes RGB images of
    shape (N, 3, H, W), float32 in 0..1, and is written only if it gives what torch gives. It says
    in its metadata what it is: classes, mean and std, sizes, digest of the weights.
    """
    from wszoo.exporting import CheckFailed, make_plan, subject_of_classifier, subject_of_run
    from wszoo.exporting import export as export_net
    from wszoo.verify import make_folder

    try:
        plan = make_plan(
            output,
            _task(name),
            size=image_size,
            dynamic=dynamic,
            preprocessing=preprocessing,
            opset=opset,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if no_check and photos:
        raise click.UsageError("--photo is for the check; leave it or --no-check out")
    _require_packages(plan)
    pixels = [_pixels(path) for path in photos]
    make_folder(output.parent)  # before the weights are fetched
    if is_run(name):
        subject = subject_of_run(Path(name))
    else:
        subject = subject_of_classifier(load(name, pretrained=True), name)
    rounds = _ROUNDS if latency else 0
    try:
        written = export_net(subject, plan, is_checked=not no_check, rounds=rounds, photos=pixels)
    except CheckFailed as error:
        fail(error, CHECK_FAILED)
    report(as_json, written.to_json(), lambda: str(written))


def _task(name: str) -> "TaskName":
    if not is_run(name):
        return "classify"
    from wszoo.finetune.outputs import read_facts

    return read_facts(Path(name)).net.task


def _require_packages(plan: "Plan") -> None:
    from wszoo.exporting import missing_packages

    if plan.is_onnx and (missing := missing_packages()):
        raise click.UsageError(f"ONNX needs {', '.join(missing)}; pip install 'wszoo[export]'")


def _pixels(path: Path) -> "Tensor":
    from wszoo.datasets import open_image
    from wszoo.finetune.geometry import to_floats, to_pixels

    return to_floats(to_pixels(open_image(path)))
