"""The commands ``predict`` and ``eval``: of published weights, and of a run's own."""

from collections.abc import Iterator
from pathlib import Path

import click
from PIL import Image

from wszoo.finetune_cli import eval_with_run, is_run, predict_with_run, run_or, shown_name
from wszoo.terminal import (
    OneLineErrors,
    as_json,
    check_trained,
    data_location,
    load,
    name_argument,
    progress,
    report,
)
from wszoo.weights import record_of

folder = click.Path(path_type=Path, file_okay=False)
count = click.IntRange(min=1)


@click.command(cls=OneLineErrors)
@name_argument(run_or(check_trained))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", default=5, type=count, show_default=True, help="Classes to print per photo.")
@click.option(
    "--min-score", type=click.FloatRange(0, 1), help="Of a detector: leave out what is scored less."
)
@click.option("--save", type=folder, help="Draw into this folder.")
@as_json
def predict(
    name: str,
    images: tuple[Path, ...],
    top: int,
    min_score: float | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Say what NAME, weights or the folder of a finished run, finds in IMAGES.

    IMAGES are files or folders of them.
    """
    if is_run(name):
        predict_with_run(Path(name), images, min_score=min_score, save=save, as_json=as_json)
        return
    if min_score is not None:
        raise click.BadParameter(f"{name!r} is no detector", param_hint="--min-score")
    from wszoo.datasets import find_images, open_image
    from wszoo.evaluate import class_names
    from wszoo.evaluate import predict as rank

    paths = find_images(images)
    model = load(name, pretrained=True)
    names = class_names(model, record_of(name))
    photos = []

    def decoded() -> Iterator[Image.Image]:
        for path in progress(paths, len(paths), name):
            photo = open_image(path)
            if save is not None:  # a folder of photos may be larger than the memory
                photos.append(photo)
            yield photo

    named = [
        [(names[row] if names else str(row), share) for row, share in ranked]
        for ranked in rank(model, decoded(), top)
    ]
    rows = [
        {"image": str(path), "classes": [{"name": n, "share": share} for n, share in ranked]}
        for path, ranked in zip(paths, named, strict=True)
    ]
    lines = [
        f"{path}: " + "; ".join(f"{n} {share:.1%}" for n, share in ranked)
        for path, ranked in zip(paths, named, strict=True)
    ]
    report(as_json, rows, lambda: "\n".join(lines))
    if save is not None:
        from wszoo.visualize import draw_predictions

        save.mkdir(parents=True, exist_ok=True)
        captions = [f"{ranked[0][0]} {ranked[0][1]:.0%}" for ranked in named]
        unknown = [None] * len(photos)
        draw_predictions(
            photos, captions, unknown, save / "predictions.png", title=shown_name(name)
        )
        click.echo(f"drawn: {save / 'predictions.png'}", err=True)


@click.command("eval", cls=OneLineErrors)
@name_argument(run_or(check_trained))
@click.option(
    "--data",
    required=True,
    type=data_location,
    help="Class folders, tar archives of them, or shards; of a run, data of its kind.",
)
@click.option("--split", help="train, val or test, where --data holds several; val by default.")
@click.option(
    "--quarantine",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of a run: photos to leave out, as `wszoo check-data` lists them.",
)
@click.option("--batch-size", default=64, type=count, show_default=True)
@click.option("--save", type=folder, help="Draw the confusions into this folder.")
@as_json
def eval_command(
    name: str,
    data: Path | str,
    split: str | None,
    quarantine: Path | None,
    batch_size: int,
    save: Path | None,
    as_json: bool,
) -> None:
    """Measure NAME, weights or the folder of a finished run, on labelled photos."""
    if is_run(name):
        eval_with_run(
            Path(name), data, split=split, quarantine=quarantine, save=save, as_json=as_json
        )
        return
    from wszoo.datasets import read_labelled_images
    from wszoo.datasets.quarantine import read_quarantine
    from wszoo.evaluate import (
        class_count,
        class_labels,
        class_names,
        evaluate,
        published_top1,
        targets_for,
    )

    images = read_labelled_images(data, split, default="val")
    if quarantine is not None:
        images = images.without(read_quarantine(quarantine))
    model = load(name, pretrained=True)
    record = record_of(name)
    targets = targets_for(images, record, class_count(model), class_labels(model))
    total = -(-len(images) // batch_size)
    result = evaluate(
        model,
        images,
        targets,
        batch_size=batch_size,
        progress=lambda batches: progress(batches, total, name),
    )
    stated = published_top1(record, images)
    published = stated and dict(zip(("data", "top1"), stated, strict=True))
    row = {"name": name, **result.summary(), "published": published}
    beside = f"; {stated[0]}: top-1 {stated[1]:.2f} %" if stated else ""
    report(as_json, row, lambda: f"{shown_name(name)}: {result}{beside}")
    if save is not None:
        from wszoo.visualize import draw_confusion

        save.mkdir(parents=True, exist_ok=True)
        classes = class_names(model, record) or images.classes
        short = [label.split(",")[0] for label in classes]
        draw_confusion(
            result.confusion.numpy(), short, save / "confusion.png", title=shown_name(name)
        )
        click.echo(f"drawn: {save / 'confusion.png'}", err=True)
