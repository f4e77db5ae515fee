"""Keep a net with BatchNorm for comparisons: ``python -m train.baseline RUN --data DIR``.

RUN is a finished run of ``train.pretrain`` on a net of timm, by a recipe that a net of this zoo was
made by. Its folder in ``model_cards`` loads with ``local-dir:``; it is no weights of the zoo and is
not published.
"""

import json
from pathlib import Path
from typing import Any

import click
import timm
import torch
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from train.publish import CARDS, held_out_by_pixels
from wszoo.cards.drawing import draw_training
from wszoo.cards.folder import CARD
from wszoo.cards.pretrained import PretrainedRun, read_pretrained
from wszoo.cards.results import read_results, write_results
from wszoo.cards.training import training_section
from wszoo.datasets import read_labelled_images
from wszoo.evaluate import evaluate, targets_for
from wszoo.files import sha256_of
from wszoo.terminal import OneLineErrors
from wszoo.weights import WEIGHTS, WEIGHTS_FILE, Weights
from wszoo.weights_file import weights_bytes, write_whole

FINDING = "batch_norm_twins.json"  # for cards, among the studies
_COMMANDS = """python -m train.pretrain {model} --recipe {recipe_name}{passes} --data DIR --out RUN
python -m train.baseline RUN --data DIR"""


def _smaller(value: Tensor) -> Tensor:
    """Kernels in half precision; what BatchNorm holds may be beyond its range."""
    return value.half() if value.ndim > 1 else value


def _configured(trained: PretrainedRun, classes: int, pixels: int) -> nn.Module:
    """The net as its folder will describe it."""
    described = {
        "mean": Weights.mean,
        "std": Weights.std,
        "input_size": (3, pixels, pixels),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "num_classes": classes,
    }
    model: nn.Module = timm.create_model(
        trained.facts["model"], num_classes=classes, pretrained_cfg_overlay=described
    )
    model.load_state_dict({key: _smaller(each) for key, each in trained.state_dict.items()})
    return model.eval()


def keep(run: Path, data: Path) -> tuple[Path, dict[str, Any]]:
    """Write the folder of a finished run, and what is known of it.

    Raises:
        FileNotFoundError, ValueError: The run is not finished, or damaged; or the net is of this
            zoo, which ``train.publish`` is for.
    """
    trained = read_pretrained(run)
    name = trained.facts["model"]
    if name in timm.list_models(module="ws_resnet"):
        raise ValueError(f"{run} trained {name!r}, which is of this zoo; use train.publish")
    by_pixels = held_out_by_pixels(trained, data, run.parent / "cache")
    pixels = max(by_pixels, key=lambda size: by_pixels[size])
    folder = CARDS / f"{name}.{trained.tag}"
    folder.mkdir(parents=True, exist_ok=True)
    classes = len(trained.state_dict["fc.bias"])
    model = _configured(trained, classes, pixels)
    save_config_for_hf(model, str(folder / "config.json"))
    state = {key: _smaller(each) for key, each in trained.state_dict.items()}
    metadata = {"format": "pt", "model": name, "code": trained.facts["code"]}
    write_whole(folder / WEIGHTS_FILE, weights_bytes(state, metadata))
    images = read_labelled_images(data, "val")
    with torch.inference_mode():
        found = evaluate(model, images, targets_for(images, None, classes))
    results = trained.results | {
        "plan": json.loads((run / "plan.json").read_text(encoding="utf-8")),
        "sha256": sha256_of(folder / WEIGHTS_FILE),
        "held_out_by_pixels": {str(size): share for size, share in by_pixels.items()},
        "pixels": pixels,
        "evaluation": found.summary(),
    }
    draw_training(results, folder.name, folder)
    results["pictures"] = sorted(path.name for path in folder.glob("*.png"))
    write_results(folder, results)
    (folder / CARD).write_text(baseline_card(folder.name, results, classes), encoding="utf-8")
    return folder, results


def write_finding(folder: Path, path: Path) -> bool:
    """Tell the cards of the zoo's nets of this shape what the same one with BatchNorm reached.

    Args:
        folder: Of the baseline.
        path: The findings, of which that of another net of timm stays.

    Returns:
        Whether there are weights of the zoo by the same recipe, to tell of.
    """
    theirs = read_results(folder)
    model, recipe = theirs["model"], theirs["recipe_name"]
    name = f"{model}_gn_ws.{recipe}"
    ours = next((each for each in WEIGHTS if each.name == name), None)
    if ours is None:
        return False
    results = read_results(folder.with_name(ours.name))
    whole = theirs["plan"]["batch"].partition(" = ")[2] or theirs["plan"]["batch"]
    finding = {
        "topic": "batch_norm_twin",
        "weights": f"{model}_gn_ws.*",
        "finding": f"by recipe {recipe}, {whole}: {theirs['evaluation']['top1']:.2f} % top-1 at "
        f"{theirs['pixels']} pixels, where GN+WS by that recipe reached "
        f"{results['evaluation']['top1']:.2f} % at {ours.input_size[-1]}",
        "command": "python -m train.baseline RUN --data DIR",
    }
    known = json.loads(path.read_text(encoding="utf-8"))["cards"] if path.exists() else []
    others = [each for each in known if each["weights"] != finding["weights"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cards": [*others, finding]}, indent=2) + "\n", encoding="utf-8")
    return True


def baseline_card(name: str, results: dict[str, Any], classes: int) -> str:
    """The README.md of such a folder."""
    score, batch = results["evaluation"], results["plan"]["batch"]
    whole, _, per_pass = batch.partition(" per pass")[0].partition(" = ")
    passes = "" if whole == per_pass else f" --micro-batch-size {per_pass}"
    return f"""# {name}

A baseline for comparisons, not part of the zoo and not published: timm's `{results["model"]}`, with
BatchNorm, by the recipe that made `{results["model"]}_gn_ws.{results["recipe_name"]}`. Images per
step: {batch}; BatchNorm sees those of one pass.

Top-1 {score["top1"]} % ± {score["standard_error"]}, top-5 {score["top5"]} % on the
{score["photos"]:,} validation photos at {results["pixels"]} pixels, the size at which held-out
photos did best. It inherits the terms of ImageNet: non-commercial research and education only.

`timm.create_model("local-dir:FOLDER", pretrained=True)` loads it.

{training_section(results | {"passes": passes}, classes, _COMMANDS)}
"""


@click.command(cls=OneLineErrors)
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
def main(run: Path, data: Path) -> None:
    """Keep the net of the finished RUN in model_cards, as a baseline."""
    folder, results = keep(run, data)
    score = results["evaluation"]
    click.echo(f"{folder}: top-1 {score['top1']} % ± {score['standard_error']}")
    if write_finding(folder, CARDS / "studies" / FINDING):
        click.echo("`make cards` tells of it on the cards of the zoo")
    else:
        click.echo("the zoo has no weights by this recipe yet, whose cards could tell of it")


if __name__ == "__main__":
    main()
