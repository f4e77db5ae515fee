"""Turn a finished run into published weights: ``python -m train.publish RUN --data DIR``.

Leaves the file in ``wszoo/assets`` and the card's folder in ``model_cards``, and prints the record
to put into ``wszoo/weights_table.py``. ``--cards`` renders every card again; ``--measure NAME``
measures published weights again and adds to their card what was not measured before; ``--header
NAME`` adds to their file what its header lacks; ``--speeds`` times every net for the gallery.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import timm
import torch
from torch import nn

from train.header import complete_header
from train.measure import classes_told, cpu_time, gallery_speeds
from train.recipes import RECIPES
from wszoo.cards import read_results, render_card
from wszoo.cards.drawing import draw_cost, draw_training
from wszoo.cards.folder import CARD, write_config
from wszoo.cards.pretrained import PretrainedRun, read_pretrained
from wszoo.cards.results import STUDY_FIGURE, gather, study_pictures, write_results
from wszoo.cards.training import COST
from wszoo.datasets import StoredImages, read_labelled_images, store_images
from wszoo.describe import weights_table
from wszoo.evaluate import Evaluation, evaluate, targets_for
from wszoo.files import sha256_of
from wszoo.terminal import OneLineErrors, check_trained, checked_by, progress
from wszoo.training.augment import resize
from wszoo.training.sources import held_out_split
from wszoo.visualize import draw_confusion
from wszoo.weights import ASSETS, WEIGHTS, WEIGHTS_FILE, Weights, find
from wszoo.weights_file import file_metadata, weights_bytes, write_whole

CARDS = Path(__file__).parent.parent / "model_cards"
LICENSE = "imagenet-research"
FORMULA = "jhu"
CONFUSION = "confusion.png"
_USAGE = (
    "give RUN and --data, --measure NAME and --data, --header NAME, or one of --cards and --speeds"
)


def held_out_by_pixels(trained: PretrainedRun, data: Path, cache: Path) -> dict[int, float]:
    """Top-1 on the photos kept to choose by, at several sizes, with the final weights."""
    recipe = RECIPES[trained.facts["recipe"]]
    assert recipe.stored_pixels is not None
    stored = store_images(data, "train", recipe.stored_pixels, cache)
    _, held = held_out_split(stored.targets.tolist(), recipe.held_out_per_class)
    model = timm.create_model(trained.facts["model"], num_classes=len(stored.classes))
    model.load_state_dict(trained.state_dict)
    learned_at = recipe.phases[-1][1]
    sizes = [learned_at * share // 64 * 16 for share in (4, 5, 6, 7)]
    return {size: round(top1(model.eval(), stored, held, size), 2) for size in sizes}


@torch.inference_mode()
def top1(model: nn.Module, stored: StoredImages, chosen: np.ndarray, size: int) -> float:
    """Percent of the chosen photos whose class is rated highest, at ``size`` pixels."""
    mean, std = (torch.tensor(getattr(Weights, key)).view(3, 1, 1) * 255 for key in ("mean", "std"))
    correct = 0
    for part in torch.from_numpy(chosen).split(250):
        images = resize(stored.pixels[part].permute(0, 3, 1, 2).float(), size)
        answers = model((images - mean) / std).argmax(1)
        correct += int((answers == stored.targets[part]).sum())
    return 100 * correct / len(chosen)


def export(trained: PretrainedRun, pixels: int) -> tuple[Weights, dict[str, Any]]:
    """Write the weights of a finished run as fp16 safetensors, and make their record."""
    model, recipe, settings = (trained.facts[key] for key in ("model", "recipe", "settings"))
    tag = trained.tag
    path = ASSETS / f"{model}.{tag}" / WEIGHTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {
        key: value.half() if value.is_floating_point() else value
        for key, value in trained.state_dict.items()
    }
    results = trained.results
    metadata = file_metadata(
        model=model, tag=tag, formula=FORMULA, settings=settings, code=results["code"]
    )
    write_whole(path, weights_bytes(halves, metadata))
    weights = Weights(
        model=model,
        tag=tag,
        sha256=sha256_of(path),
        license=LICENSE,
        formula=FORMULA,
        num_classes=len(halves["fc.bias"]),
        labels="tin200.tsv",
        input_size=(3, pixels, pixels),
        crop_pct=1.0,
        interpolation="bicubic",
        recipe=recipe,
        packaged=True,
    )
    return weights, {**results, "file_bytes": path.stat().st_size}


def load_exported(weights: Weights) -> nn.Module:
    """The exported net, before its record is known to the package."""
    cfg = weights.pretrained_cfg(first_conv="conv1", classifier="fc").to_dict()
    model: nn.Module = timm.create_model(weights.model, pretrained=True, pretrained_cfg=cfg)
    return model.eval()


@torch.inference_mode()
def logits_of_ramp(model: nn.Module, pixels: int) -> list[float]:
    """Eight logits of an image of ramps, by which anyone can tell the net again."""
    ramp = torch.linspace(-1, 1, 3 * pixels * pixels).view(1, 3, pixels, pixels)
    logits: list[float] = model(ramp)[0, :8].tolist()
    return [round(value, 4) for value in logits]


def measure(model: nn.Module, weights: Weights, data: Path) -> Evaluation:
    """What ``wszoo eval`` will print for the exported file."""
    images = read_labelled_images(data, "val")
    return evaluate(model, images, targets_for(images, weights, weights.num_classes))


def add_measured(
    results: dict[str, Any], found: Evaluation, model: nn.Module, weights: Weights, folder: Path
) -> None:
    """Put classes and CPU time into ``results``, and the picture of confusions into ``folder``."""
    names = [name.split(",")[0] for name in weights.label_names()]
    results["classes"] = classes_told(found.confusion, names)
    results["measured"] = [cpu_time(model, weights)]
    folder.mkdir(parents=True, exist_ok=True)
    draw_confusion(found.confusion.numpy(), names, folder / CONFUSION, title=weights.name)


def measure_again(weights: Weights, data: Path) -> None:
    """Add to published results what was not measured when they were published.

    Raises:
        ValueError: The accuracy is not the published one.
    """
    folder = CARDS / weights.name
    results = read_results(folder)
    model = timm.create_model(weights.name, pretrained=True)
    found = measure(model, weights, data)
    if (now := found.summary()) != results["evaluation"]:
        raise ValueError(
            f"{weights.name} has {now}, its results.json says {results['evaluation']}; measure "
            f"with the versions it names, or on the data it was published with"
        )
    add_measured(results, found, model, weights, folder)
    write_results(folder, results)


def write_card_folder(weights: Weights, results: dict[str, Any]) -> Path:
    """Card, config.json, results.json and pictures."""
    folder = CARDS / weights.name
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, weights)
    draw_training(gather(folder, results), weights.name, folder)
    render(weights, folder, results)
    return folder


def render(weights: Weights, folder: Path, results: dict[str, Any]) -> None:
    """Write card and results.json, with what studies tell of the weights."""
    shown = study_pictures(folder)
    for name, picture in shown.items():
        shutil.copyfile(picture, folder / name)
    for stale in {path.name for path in folder.glob(STUDY_FIGURE.format("*"))} - shown.keys():
        (folder / stale).unlink()
    results = gather(folder, results)
    if not (folder / COST).exists():
        draw_cost(results, weights.name, folder)
        results = gather(folder, results)
    write_results(folder, results)
    (folder / CARD).write_text(render_card(weights, results), encoding="utf-8")


def render_all() -> None:
    """Render the card of every record of our own again, and the README's table of weights."""
    for weights in (weights for weights in WEIGHTS if weights.origin is None):
        folder = CARDS / weights.name
        render(weights, folder, read_results(folder))
    readme = CARDS.parent / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split("<!-- weights -->\n")
    _, after = rest.split("<!-- /weights -->")
    table = f"<!-- weights -->\n{weights_table()}\n<!-- /weights -->"
    readme.write_text(before + table + after, encoding="utf-8")


def publish(run: Path, data: Path) -> tuple[Weights, Path]:
    """Export a finished run, measure it, and write its card; the record and the card's folder.

    Raises:
        FileNotFoundError, ValueError: The run is not finished, or damaged.
    """
    return publish_trained(read_pretrained(run), data, run.parent / "cache")


def publish_trained(trained: PretrainedRun, data: Path, cache: Path) -> tuple[Weights, Path]:
    """As ``publish``, of a run that was read; ``cache`` holds decoded photos."""
    by_pixels = held_out_by_pixels(trained, data, cache)
    pixels = max(by_pixels, key=lambda size: by_pixels[size])
    weights, results = export(trained, pixels)
    results["held_out_by_pixels"] = {str(size): share for size, share in by_pixels.items()}
    model = load_exported(weights)
    results["logits_of_ramp"] = logits_of_ramp(model, pixels)
    found = measure(model, weights, data)
    results["evaluation"] = found.summary()
    add_measured(results, found, model, weights, CARDS / weights.name)
    metrics = {key: results["evaluation"][key] for key in ("top1", "top5")}
    weights = Weights(**{**asdict(weights), "metrics": {"Tiny ImageNet val": metrics}})
    return weights, write_card_folder(weights, results)


@click.command(cls=OneLineErrors)
@click.argument("run", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Tiny ImageNet.")
@click.option("--cards", is_flag=True, help="Only render the cards and the README's table again.")
@click.option(
    "--measure",
    "name",
    metavar="NAME",
    callback=checked_by(check_trained),
    help="Only measure these published weights again, and render.",
)
@click.option(
    "--header",
    "lacking",
    metavar="NAME",
    callback=checked_by(check_trained),
    help="Only add recipe hash and code to the header of these published weights; tensors stay.",
)
@click.option("--speeds", is_flag=True, help="Only time every net on one thread, for the gallery.")
def main(
    run: Path | None,
    data: Path | None,
    cards: bool,
    name: str | None,
    lacking: str | None,
    speeds: bool,
) -> None:
    """Publish the finished RUN, at the size at which held-out photos do best."""
    if sum((run is not None, cards, name is not None, lacking is not None, speeds)) > 1:
        raise click.UsageError(_USAGE)
    if lacking is not None:
        completed = complete_header(find(lacking), CARDS)
        done = f"sha256 is {completed.sha256} now; run `make cards`" if completed else "complete"
        click.echo(f"{lacking}: {done}")
    elif speeds:
        click.echo(f"{gallery_speeds(progress)}")
    elif name is not None and data is not None:
        measure_again(find(name), data)
        render_all()
    elif cards:
        render_all()
    elif run is not None and data is not None:
        weights, folder = publish(run, data)
        click.echo(f"{folder}; the record:\n{weights}")
    else:
        raise click.UsageError(_USAGE)


if __name__ == "__main__":
    main()
