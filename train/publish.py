"""Turn a finished run into published weights: ``python -m train.publish RUN --data DIR``.

Leaves the file in ``wszoo/assets`` and the card's folder in ``model_cards``, and prints the record
to put into ``wszoo/weights_table.py``.
"""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from train.recipes import RECIPES
from wszoo.cards import read_results, render_card
from wszoo.datasets import StoredImages, read_labelled_images, store_images
from wszoo.describe import weights_table
from wszoo.evaluate import evaluate, targets_for
from wszoo.files import sha256_of
from wszoo.terminal import OneLineErrors
from wszoo.training.augment import resize
from wszoo.training.checkpoint import load_checkpoint
from wszoo.training.sources import held_out_split
from wszoo.visualize import draw_curves
from wszoo.weights import ASSETS, WEIGHTS, WEIGHTS_FILE, Weights

CARDS = Path(__file__).parent.parent / "model_cards"
LICENSE = "imagenet-research"


def finished_weights(run: Path) -> dict[str, Tensor]:
    """The weights of the newest checkpoint: their moving average, where one was kept."""
    loaded = load_checkpoint(run, on_damaged=_refuse_damaged)
    if loaded is None:
        raise click.ClickException(f"{run} holds no checkpoint; train it first")
    learner = loaded[0]["learner"]
    weights: dict[str, Tensor] = learner["model"] if learner["ema"] is None else learner["ema"]
    return weights


def _refuse_damaged(folder: Path) -> None:
    raise click.ClickException(f"{folder} is damaged; repeat the run's command to make it again")


def held_out_by_pixels(run: Path, data: Path) -> dict[int, float]:
    """Top-1 on the photos kept to choose by, at several sizes, with the final weights."""
    facts = json.loads((run / "run.json").read_text())
    recipe = RECIPES[facts["recipe"]]
    assert recipe.stored_pixels is not None
    stored = store_images(data, "train", recipe.stored_pixels, run.parent / "cache")
    _, held = held_out_split(stored.targets.tolist(), recipe.held_out_per_class)
    model = timm.create_model(facts["model"], num_classes=len(stored.classes))
    model.load_state_dict(finished_weights(run))
    trained = recipe.phases[-1][1]
    sizes = [trained * share // 64 * 16 for share in (4, 5, 6, 7)]
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


def export(run: Path, pixels: int) -> tuple[Weights, dict[str, Any]]:
    """Write the weights of a finished run as fp16 safetensors, and make their record."""
    facts = json.loads((run / "run.json").read_text())
    state_dict = finished_weights(run)
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    recipe = RECIPES[facts["recipe"]]
    if len(epochs) < recipe.epochs:
        raise click.ClickException(
            f"{run} has {len(epochs)} of {recipe.epochs} epochs; repeat its command to go on"
        )
    tag = facts["recipe"]
    folder = ASSETS / f"{facts['model']}.{tag}"
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "model": facts["model"], "tag": tag, "formula": "jhu"}
    halves = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in state_dict.items()
    }
    save_file(halves, folder / WEIGHTS_FILE, metadata)
    weights = Weights(
        model=facts["model"],
        tag=tag,
        sha256=sha256_of(folder / WEIGHTS_FILE),
        license=LICENSE,
        num_classes=len(state_dict["fc.bias"]),
        labels="tin200.tsv",
        input_size=(3, pixels, pixels),
        crop_pct=1.0,
        interpolation="bicubic",
        recipe=facts["recipe"],
        packaged=True,
    )
    return weights, {
        "model": facts["model"],
        "recipe_name": facts["recipe"],
        "recipe": facts["settings"],
        "epochs": epochs,
        "file_bytes": (folder / WEIGHTS_FILE).stat().st_size,
        "hardware": facts["hardware"],
        "versions": {name: version(name) for name in ("torch", "timm", "wszoo")},
        "python": platform.python_version(),
        "code": facts["code"],
    }


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


def measure(model: nn.Module, weights: Weights, data: Path) -> dict[str, float]:
    """What ``wszoo eval`` will print for the exported file."""
    images = read_labelled_images(data, "val")
    targets = targets_for(images, weights, weights.num_classes)
    result = evaluate(model, images, targets)
    return result.summary()


def write_card_folder(weights: Weights, results: dict[str, Any]) -> Path:
    """Card, config.json, results.json and curves."""
    folder = CARDS / weights.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    cfg = weights.pretrained_cfg(first_conv="conv1", classifier="fc").to_dict()
    model = timm.create_model(
        weights.model, num_classes=weights.num_classes, pretrained_cfg={**cfg, "file": None}
    )
    ours = {"formula": weights.formula, "sha256": weights.sha256, "dtype": weights.dtype}
    config = {"label_names": weights.label_ids(), "wszoo": ours}
    descriptions = dict(zip(weights.label_ids(), weights.label_names(), strict=True))
    save_config_for_hf(
        model,
        str(folder / "config.json"),
        model_config={**config, "label_descriptions": descriptions},
    )
    draw_curves(
        {
            "held-out top-1": [(row["epoch"], row["held_out_top1"]) for row in results["epochs"]],
            "loss x 10": [(row["epoch"], 10 * row["loss"]) for row in results["epochs"]],
        },
        folder / "curves.png",
        x_label="epoch",
        y_label="top-1 (%), loss x 10",
        title=weights.name,
    )
    (folder / "README.md").write_text(render_card(weights, results), encoding="utf-8")
    return folder


def render_all() -> None:
    """Render the card of every record of our own again, and the README's table of weights."""
    for weights in (weights for weights in WEIGHTS if weights.origin is None):
        folder = CARDS / weights.name
        text = render_card(weights, read_results(folder))
        (folder / "README.md").write_text(text, encoding="utf-8")
    readme = CARDS.parent / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split("<!-- weights -->\n")
    _, after = rest.split("<!-- /weights -->")
    table = f"<!-- weights -->\n{weights_table()}\n<!-- /weights -->"
    readme.write_text(before + table + after, encoding="utf-8")


@click.command(cls=OneLineErrors)
@click.argument("run", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Tiny ImageNet.")
@click.option("--cards", is_flag=True, help="Only render the cards and the README's table again.")
def main(run: Path | None, data: Path | None, cards: bool) -> None:
    """Publish the finished RUN, at the size at which held-out photos do best."""
    if cards:
        render_all()
        return
    if run is None or data is None:
        raise click.UsageError("give RUN and --data, or --cards alone")
    by_pixels = held_out_by_pixels(run, data)
    pixels = max(by_pixels, key=lambda size: by_pixels[size])
    weights, results = export(run, pixels)
    results["held_out_by_pixels"] = by_pixels
    model = load_exported(weights)
    results["logits_of_ramp"] = logits_of_ramp(model, pixels)
    results["evaluation"] = measure(model, weights, data)
    metrics = {key: results["evaluation"][key] for key in ("top1", "top5")}
    weights = Weights(**{**asdict(weights), "metrics": {"Tiny ImageNet val": metrics}})
    folder = write_card_folder(weights, results)
    click.echo(f"{folder}; the record:\n{weights}")


if __name__ == "__main__":
    main()
