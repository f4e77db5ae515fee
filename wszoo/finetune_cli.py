"""The commands over a person's own photos: ``wszoo finetune``, and what its runs are good for."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import torch

from wszoo.memory import MEMORY
from wszoo.terminal import (
    MainGroup,
    check_name,
    checked_by,
    data_location,
    progress,
    report,
)

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_count = click.IntRange(min=1)
_folder = click.Path(path_type=Path, file_okay=False)


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


def to_bytes(text: str) -> int:
    """A size such as 8GB.

    Raises:
        click.BadParameter: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?)B?", text.strip().upper())
    if match is None or match[2] not in _UNITS or not float(match[1]):
        raise click.BadParameter(f"{text!r} is no size; write it as 8GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])


_what = [
    click.option(
        "--data",
        required=True,
        type=data_location,
        help="Folder, tar archive, or folder or URL of shards, with the splits train, and val or "
        "test to judge by.",
    ),
    click.option(
        "--out",
        "output",
        required=True,
        type=_folder,
        help="Folder of the run; repeat the command with it to go on.",
    ),
    click.option("--model", callback=checked_by(check_name), help="Backbone; see `wszoo list`."),
    click.option(
        "--from",
        "start",
        type=click.Path(path_type=Path),
        metavar="RUN",
        help="Go on from the net of this run; its classes are known again by name.",
    ),
    click.option("--random-weights", is_flag=True, help="Start from no weights at all."),
    click.option(
        "--allow-batch-norm", is_flag=True, help="Take a net with BatchNorm, to compare with."
    ),
    click.option("--quarantine", type=click.Path(path_type=Path), help="Photos to leave out."),
    click.option("--no-check", is_flag=True, help="Do not look at every file before."),
]
_outcome = [
    click.option("--batch-size", type=_count, help="Photos per step, over all processes."),
    click.option("--epochs", type=_count),
    click.option("--lr", type=click.FloatRange(0, min_open=True), help="Peak learning rate."),
    click.option("--image-size", type=_count, metavar="PIXELS", help="Short side, or square."),
    click.option(
        "--trainable-stages", type=click.IntRange(0), help="Of the backbone, from its end."
    ),
    click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"])),
    click.option("--ema", type=click.FloatRange(0, 1, max_open=True), help="Decay per step."),
    click.option("--patience", type=_count, help="Epochs without progress until the run ends."),
    click.option("--seed", type=click.IntRange(0)),
]
_conditions = [
    click.option("--micro-batch-size", type=_count, help="Photos per pass of one process."),
    click.option(
        "--memory-budget",
        callback=lambda _context, _parameter, text: text and to_bytes(text),
        metavar="SIZE",
        help="Of each process, such as 8GB; measured, it decides on --micro-batch-size, --memory.",
    ),
    click.option(
        "--memory",
        type=click.Choice(["auto", *MEMORY]),
        default="auto",
        help="What a pass keeps for the way back; auto: fast, or as --memory-budget has it.",
    ),
    click.option("--resume", type=click.Choice(["auto", "never"]), default="auto"),
    click.option("--workers", type=click.IntRange(0), help="That read; one per core."),
    click.option("--save-minutes", default=5.0, show_default=True, help="Between checkpoints."),
    click.option("--log-every", default=50, show_default=True, type=_count, help="Steps per line."),
    click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard too."),
    click.option("--device", help="Such as cpu; by default this process's GPU, if there is one."),
    click.option("--threads", type=_count, help="CPU threads of this process."),
    click.option("--wait-minutes", default=10.0, show_default=True, help="For a late process."),
]
_max_size = click.option("--max-size", type=_count, metavar="PIXELS", help="Long side at most.")
_classes = click.option("--classes", metavar="A,B,...", callback=_names, help="Their names.")
_ignore = click.option(
    "--ignore", multiple=True, type=click.IntRange(0, 255), help="Value of pixels without a class."
)


def _all(*groups: list[Callable[..., Any]]) -> Callable[..., Any]:
    """Options in the order in which the help shows them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


def _head(task: Any) -> Callable[..., Any]:
    from wszoo.finetune.defaults import DEFAULTS, HEADS

    text = f"What is put on the backbone; {DEFAULTS[task].head} by default."
    return click.option("--head", type=click.Choice(HEADS[task]), help=text)


@click.group(cls=MainGroup)
def finetune() -> None:
    """Fine-tune on your own photos, one to four at a time; alone or under torchrun."""


@finetune.command()
@_all(_what, _outcome, _conditions)
def classify(**options: Any) -> None:
    """Tell photos apart: class folders, or shards."""
    _fine_tune("classify", head=None, **options)


@finetune.command()
@_all(_what, [_head("detect"), _classes], _outcome, [_max_size], _conditions)
def detect(**options: Any) -> None:
    """Find objects: COCO json, Pascal VOC xml, or shards."""
    _fine_tune("detect", **options)


@finetune.command()
@_all(_what, [_head("segment"), _classes, _ignore], _outcome, [_max_size], _conditions)
def segment(**options: Any) -> None:
    """Label every pixel: photos with masks of the same name, or shards."""
    _fine_tune("segment", **options)


def _fine_tune(
    task: Any,
    *,
    output: Path,
    data: Path | str,
    device: str | None,
    threads: int | None,
    wait_minutes: float,
    start: Path | None,
    **options: Any,
) -> None:
    from wszoo.finetune.data import DataSource
    from wszoo.finetune.run import Conditions, fine_tune
    from wszoo.training.distributed import join_ranks

    source = DataSource(
        task=task,
        path=data,
        classes=options.pop("classes", None),
        ignore=tuple(options.pop("ignore", ())),
        quarantine=options.pop("quarantine"),
    )
    if options["micro_batch_size"] and options["memory_budget"]:
        raise click.UsageError("--memory-budget decides on --micro-batch-size; give one of them")
    memory = options.pop("memory")
    conditions = Conditions(
        memory=None if memory == "auto" else memory,
        check=not options.pop("no_check"),
        resume=options.pop("resume") == "auto",
        progress=lambda files: progress(files, len(files), "checking files"),  # type: ignore[arg-type]
        **{key: options.pop(key) for key in _CONDITIONS},
    )
    settings = _settings(task, start, options)
    with join_ranks(device=device, wait_minutes=wait_minutes) as ranks:
        if threads:
            torch.set_num_threads(threads)
        report_path = fine_tune(
            settings, source, output, ranks=ranks, start=start, conditions=conditions
        )
    if ranks.is_main:
        click.echo(f"done; {report_path}")


_CONDITIONS = (
    *("micro_batch_size", "memory_budget", "workers"),
    *("save_minutes", "log_every", "tensorboard"),
)


def _settings(task: Any, start: Path | None, asked: dict[str, Any]) -> Any:
    """Of a run from its options; model and head are those of ``start``, where there is one."""
    from wszoo.finetune.defaults import settings_for
    from wszoo.finetune.outputs import read_facts

    pretrained = not asked.pop("random_weights")
    if start is not None:
        before = read_facts(start)
        if not pretrained:
            raise click.UsageError("--from starts from the weights of a run, not random ones")
        if before.net.task != task:
            raise ValueError(f"{start} was made to {before.net.task}, not to {task}")
        for key, value in (("model", before.settings.model), ("head", before.net.head)):
            if asked[key] not in (None, value):
                raise click.UsageError(
                    f"{start} has the {key} {value!r}, not {asked[key]!r}; leave --{key} out"
                )
            asked[key] = value
    if asked["model"] is None:
        raise click.UsageError("name a --model, or an earlier run with --from")
    return settings_for(task, pretrained=pretrained, **asked)


def run_or(check: Callable[[str], str]) -> Callable[[str], str]:
    """A check of NAME that lets folders of finished runs pass.

    A classifier's becomes a name for timm, so that it goes the way of all classifiers. A path that
    holds no finished run is a FileNotFoundError.
    """

    def checked(name: str) -> str:
        from wszoo.finetune.loading import require_run
        from wszoo.finetune.outputs import output_folder, read_facts

        folder = output_folder(Path(name)) if Path(name).is_dir() else None
        if folder is None:
            try:
                return check(name)
            except click.BadParameter:
                if os.sep in name or Path(name).exists():
                    require_run(Path(name))
                raise
        return f"local-dir:{folder}" if read_facts(folder).net.task == "classify" else name

    return checked


def shown_name(name: str) -> str:
    """What people call a name that ``run_or`` has left: a run, not the folder in it for timm."""
    from wszoo.finetune.outputs import FOLDER

    folder = Path(name.removeprefix("local-dir:"))
    is_classifier = name.startswith("local-dir:") and folder.name == FOLDER
    return str(folder.parent) if is_classifier else name


def is_run(name: str) -> bool:
    """Whether ``name``, as ``run_or`` leaves it, is the folder of a detector or a segmenter."""
    from wszoo.finetune.outputs import output_folder

    return Path(name).is_dir() and output_folder(Path(name)) is not None


def predict_with_run(
    run: Path, paths: Iterable[Path], *, min_score: float | None, save: Path | None, as_json: bool
) -> None:
    """``wszoo predict RUN IMAGES...`` of a detector or a segmenter.

    Args:
        run: Its folder.
        paths: Photos, or folders of them.
        min_score: Of a detector, what is scored less is left out; None takes the best by F1 on
            the photos that the run was judged by.
        save: Draw into this folder.
        as_json: Print JSON.
    """
    from wszoo.datasets import find_images
    from wszoo.finetune.outputs import load_finetuned
    from wszoo.finetune.predict import describe_found, draw_found, find_in

    found_paths = find_images(paths)
    model, facts = load_finetuned(run)
    if facts.net.task != "detect" and min_score is not None:
        raise click.BadParameter(f"{run} is no detector", param_hint="--min-score")
    rows = []
    alike = len({path.stem for path in found_paths}) < len(found_paths)
    for number, path in enumerate(progress(found_paths, len(found_paths), str(run)), 1):
        found = find_in(model, facts, path, min_score)
        rows.append({"image": str(path), **describe_found(found, facts)})
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
            picture = f"{path.stem}-{number}.png" if alike else f"{path.stem}.png"
            draw_found(path, found, facts, save / picture, min_score)
    report(as_json, rows, lambda: "\n".join(map(_line, rows)))
    if save is not None:
        click.echo(f"drawn: {len(rows)} picture{'s' * (len(rows) != 1)} in {save}", err=True)


def _line(row: dict[str, Any]) -> str:
    parts = [f"{each['class']} {each['share']:.1%}" for each in row.get("pixels", ())]
    parts += [
        f"{each['class']} {each['score']:.0%} at {', '.join(f'{x:.0f}' for x in each['box'])}"
        for each in row.get("objects", ())
    ]
    return f"{row['image']}: {'; '.join(parts) or 'nothing found'}"


def eval_with_run(
    run: Path,
    data: Path | str,
    *,
    split: str | None,
    quarantine: Path | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """``wszoo eval RUN --data DIR`` of a detector or a segmenter.

    Args:
        run: Its folder.
        data: As for ``wszoo finetune``.
        split: ``val`` by default.
        quarantine: Photos to leave out, as ``wszoo check-data`` lists them.
        save: Draw into this folder.
        as_json: Print JSON.
    """
    from wszoo.finetune.outputs import load_finetuned
    from wszoo.finetune.predict import measure

    model, facts = load_finetuned(run)
    figures = measure(
        model,
        facts,
        data,
        split=split,
        quarantine=quarantine,
        save=save,
        progress=lambda numbers, total: progress(numbers, total, str(run)),
    )
    row = {"run": str(run), **{key: round(value, 2) for key, value in figures.items()}}
    width = max(map(len, row))
    report(as_json, row, lambda: "\n".join(f"{key:<{width}}  {row[key]}" for key in row))
    if save is not None:
        click.echo(f"drawn: {save / 'report.md'}", err=True)
