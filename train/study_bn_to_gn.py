"""Why weights trained with BatchNorm are no GN+WS weights: ``python -m train.study_bn_to_gn``.

A BatchNorm net whose statistics fit real photos is converted with ``to_group_norm`` and
``standardize_convs``, and asked the same questions before and after. It is not trained: nothing
here depends on what it knows, only on whether it still computes the same.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import torch
import torch.nn.functional as F
from timm.data import create_transform
from torch import Tensor, nn
from torchvision.models import resnet18

from wszoo.datasets import read_labelled_images
from wszoo.layers import standardize_convs, to_group_norm
from wszoo.terminal import OneLineErrors
from wszoo.training.declaration import code_version, hardware
from wszoo.weights import ASSETS

STUDIES = Path(__file__).parent.parent / "model_cards" / "studies"
PIXELS, SEEDS = 64, (0, 1, 2)
CALIBRATED_ON, ASKED_ABOUT = 256, 96  # photos
AFFINES = {
    "made": "gains 1 and shifts 0, as a new net has them",
    "spread": "gains log-normal (sigma 0.5) and shifts normal (0.5), so that channels differ",
}
MEASURES = {
    "cosine": "cosine of pooled features, centred over the photos",
    "neighbour": "photos whose nearest other photo is the same, in percent",
    "top1": "photos with the same class rated highest, in percent",
}

Change = Callable[[nn.Module, Tensor], nn.Module]


def photos(split: str, count: int) -> Tensor:
    """Packaged photos of clothing, ``(count, 3, PIXELS, PIXELS)``, spread over the classes."""
    images = read_labelled_images(ASSETS / "clothing", split)
    transform = create_transform(PIXELS, crop_pct=1.0, crop_mode="squash")
    step = len(images) // count
    return torch.stack([transform(images.image(i * step)) for i in range(count)])


def calibrate(net: nn.Module, images: Tensor) -> nn.Module:
    """Set the running statistics of every BatchNorm to those of ``images``."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain average of all batches
    net.train()
    with torch.no_grad():
        for batch in images.split(64):
            net(batch)
    return net.eval()


def make_net(seed: int, affine: str, images: Tensor) -> nn.Module:
    """A calibrated ResNet-18 with BatchNorm."""
    torch.manual_seed(seed)
    net: nn.Module = resnet18()
    if affine == "spread":
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, std=0.5).data.exp_()
                nn.init.normal_(module.bias, std=0.5)
    return calibrate(net, images)


def _group_norm(net: nn.Module, images: Tensor) -> nn.Module:
    to_group_norm(net)
    return net


def _standardized(net: nn.Module, images: Tensor) -> nn.Module:
    standardize_convs(net)
    return net


CHANGES: dict[str, Change] = {
    "none, stored in half precision": lambda net, images: net.half().float(),
    "`to_group_norm`": _group_norm,
    "`standardize_convs`": _standardized,
    "`standardize_convs`, statistics taken anew": lambda net, images: calibrate(
        _standardized(net, images), images
    ),
    "both": lambda net, images: _standardized(_group_norm(net, images), images),
}


@torch.inference_mode()
def answers(net: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features ``(photos, 512)`` and logits ``(photos, 1000)``, in float64.

    Without a norm that fits, activations grow so large that their squares leave float32.
    """
    seen: list[Tensor] = []
    hook = net.get_submodule("avgpool").register_forward_hook(
        lambda _module, _input, output: seen.append(output.flatten(1))
    )
    logits = torch.cat([net(batch) for batch in images.split(32)])
    hook.remove()
    return torch.cat(seen).double(), logits.double()


def agreement(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> dict[str, float]:
    """How alike two nets answer about the same photos; keys of ``MEASURES``."""
    centred = [features - features.mean(0) for features, _ in (before, after)]
    same_neighbour = _nearest(centred[0]) == _nearest(centred[1])
    same_class = before[1].argmax(1) == after[1].argmax(1)
    return {
        "cosine": F.cosine_similarity(centred[0], centred[1]).mean().item(),
        "neighbour": 100 * same_neighbour.float().mean().item(),
        "top1": 100 * same_class.float().mean().item(),
    }


def _nearest(features: Tensor) -> Tensor:
    alike = F.normalize(features) @ F.normalize(features).T
    return alike.fill_diagonal_(-2).argmax(1)


def study() -> dict[str, dict[str, dict[str, float]]]:
    """Mean agreement over the seeds, by kind of affine and change."""
    calibration, questions = photos("train", CALIBRATED_ON), photos("val", ASKED_ABOUT)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for affine in AFFINES:
        nets = {seed: make_net(seed, affine, calibration) for seed in SEEDS}
        before = {seed: answers(net, questions) for seed, net in nets.items()}
        rows: dict[str, list[dict[str, float]]] = {}
        for seed, net in nets.items():
            for name, change in CHANGES.items():
                changed = change(copy.deepcopy(net), calibration)
                after = answers(changed, questions)
                rows.setdefault(name, []).append(agreement(before[seed], after))
            other = before[SEEDS[(SEEDS.index(seed) + 1) % len(SEEDS)]]
            rows.setdefault("another net, for comparison", []).append(
                agreement(before[seed], other)
            )
        found[affine] = {
            name: {measure: round(fmean(row[measure] for row in each), 3) for measure in MEASURES}
            for name, each in rows.items()
        }
    return found


PAGE = """# BatchNorm weights are not GN+WS weights

`wszoo.to_group_norm` and `wszoo.standardize_convs` change what a pretrained net is made of, and
keep its kernels, gains and shifts. They do not keep what it computes:

- BatchNorm, once trained, scales and shifts every channel by fixed numbers. GroupNorm takes mean
  and deviation from each image and each group of channels: no choice of its gains and shifts makes
  it give the same for all images.
- Weight Standardization takes away the mean of every filter and its scale. Filters that were
  trained with BatchNorm have both, and BatchNorm's statistics, gains and shifts were fitted to
  them.

Measured on a torchvision ResNet-18 with random kernels whose BatchNorm statistics were taken from
{calibrated} packaged photos of clothing, before and after, about {asked} other photos at {pixels}
pixels; mean of {seeds} nets.

{measures}

{tables}

Half precision shows how alike answers are of a net that was *not* changed; another net with other
random kernels, how alike they are by chance.

So a converted net is a start for training, not a pretrained net. Compare it with weights that were
trained with GN+WS from the start (`wszoo list --pretrained`). What this does not measure: how much
of the accuracy of a *trained* net is left, and how soon training wins it back; no weights trained
with BatchNorm were at hand.

```
python -m train.study_bn_to_gn
```

{hardware}; code {code}; figures in `bn_to_gn.json`.
"""


def page(results: dict[str, Any]) -> str:
    """The page about ``results``, as ``bn_to_gn.json`` holds them."""
    tables = []
    for affine, rows in results["agreement"].items():
        lines = [f"With {AFFINES[affine]}:", "", "| change | cosine | neighbour | top-1 |"]
        lines += ["| --- | --- | --- | --- |"]
        lines += [
            f"| {name} | {row['cosine']:.3f} | {row['neighbour']:.0f} % | {row['top1']:.0f} % |"
            for name, row in rows.items()
        ]
        tables.append("\n".join(lines))
    measures = "\n".join(f"- {name}: {text}" for name, text in MEASURES.items())
    return PAGE.format(
        calibrated=results["photos"]["calibrated_on"],
        asked=results["photos"]["asked_about"],
        pixels=results["photos"]["pixels"],
        seeds=len(results["seeds"]),
        measures=measures.replace("top1", "top-1"),
        tables="\n\n".join(tables),
        hardware=results["hardware"],
        code=results["code"],
    )


@click.command(cls=OneLineErrors)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=STUDIES,
    show_default=True,
    help="Folder for bn_to_gn.json and bn_to_gn.md.",
)
def main(out: Path) -> None:
    """Measure what converting a BatchNorm net leaves of its answers."""
    results: dict[str, Any] = {
        "agreement": study(),
        "photos": {"calibrated_on": CALIBRATED_ON, "asked_about": ASKED_ABOUT, "pixels": PIXELS},
        "seeds": SEEDS,
        "hardware": hardware(),
        "code": code_version(),
    }
    (out / "bn_to_gn.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = page(results)
    (out / "bn_to_gn.md").write_text(text, encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
