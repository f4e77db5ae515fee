"""Model cards: rendered from a record and its results.json, nothing typed by hand."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from wszoo.describe import describe, where
from wszoo.weights import Weights

_LICENSE_NOTES = {
    "imagenet-research": (
        "non-commercial research and education only: the photos are a subset of ImageNet, "
        "whose terms the weights inherit"
    ),
}
_DATASETS = {"tin200": ("Tiny ImageNet", "zh-plus/tiny-imagenet", "200 classes, 64 x 64 pixels")}


def render_card(weights: Weights, results: dict[str, Any]) -> str:
    """The README.md of one set of weights.

    Args:
        weights: The record.
        results: What ``results.json`` beside the card holds.
    """
    sections = (
        _summary(weights, results),
        _usage(weights),
        _facts(weights, results),
        _recipe(results),
        _limits(weights),
    )
    return f"---\n{_front_matter(weights, results)}\n---\n" + "\n\n".join(sections) + "\n"


def _front_matter(weights: Weights, results: dict[str, Any]) -> str:
    name, identifier, _ = _DATASETS[weights.tag.split("_")[-1]]
    evaluation = EvalResult(
        task_type="image-classification",
        dataset_name=f"{name} val",
        dataset_type=identifier,
        dataset_split="valid",
        metric_type="accuracy",
        metric_name="top-1 (%)",
        metric_value=results["evaluation"]["top1"],
    )
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license="other",
        license_name=weights.license,
        tags=["timm", "image-classification", "weight-standardization", "group-normalization"],
        datasets=[identifier],
        metrics=["accuracy"],
        model_name=weights.name,
        eval_results=[evaluation],
    )
    return data.to_yaml().strip()


def _summary(weights: Weights, results: dict[str, Any]) -> str:
    name, _, what = _DATASETS[weights.tag.split("_")[-1]]
    top1 = results["evaluation"]
    return f"""# {weights.name}

Trained on {name} ({what}), a small data set: a backbone for fine-tuning and for tests, not an
ImageNet classifier. Top-1 {top1["top1"]} % ± {top1["standard_error"]}, top-5 {top1["top5"]} % on
its {top1["photos"]:,} validation photos at {weights.input_size[-1]} pixels.

A ResNet with [Weight Standardization](https://arxiv.org/abs/1903.10520) and
[GroupNorm](https://arxiv.org/abs/1803.08494). No layer looks at other images of the batch, so it
trains with one image at a time as it does with 256, where BatchNorm breaks down."""


def _usage(weights: Weights) -> str:
    size = weights.input_size[-1]
    strides = describe(weights.model, weights)["strides"]
    return f"""## Use

```python
import timm, torch, wszoo

model = timm.create_model("{weights.name}", pretrained=True).eval()
logits = model(torch.randn(1, 3, {size}, {size}))  # (1, {weights.num_classes})

backbone = timm.create_model("{weights.name}", pretrained=True, features_only=True)
maps = backbone(torch.randn(1, 3, {size}, {size}))  # strides {strides}

embed = timm.create_model("{weights.name}", pretrained=True, num_classes=0)
vector = embed(torch.randn(1, 3, {size}, {size}))
```

Without a network the file is {where(weights)}; `wszoo verify {weights.name}` checks it."""


def _facts(weights: Weights, results: dict[str, Any]) -> str:
    facts = describe(weights.model, weights)
    rows = {
        "parameters, MACs": f"{facts['params']}, {facts['MACs']}",
        "channels": facts["channels"],
        "input": facts["input"],
        "mean, std": f"{weights.mean}, {weights.std}",
        "WS formula": weights.formula,
        "file": f"{results['file_bytes']:,} bytes, {weights.dtype}",
        "sha256": f"`{weights.sha256}`",
        "licence": f"{weights.license}: {_LICENSE_NOTES.get(weights.license, 'see the link')}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""## Facts

| | |
| --- | --- |
{table}

Accuracy is what this prints: `wszoo eval {weights.name} --data DIR`, with the archives or class
folders of Tiny ImageNet in DIR. Recipe and stopping were chosen on 5,000 photos held out of the
training set; the validation photos were looked at once, with the published file."""


def _recipe(results: dict[str, Any]) -> str:
    train = f"{results['model']} --recipe {results['recipe_name']}"
    recipe = "\n".join(f"| `{key}` | {value} |" for key, value in results["recipe"].items())
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    remark = f"\n\n{results['remark']}" if "remark" in results else ""
    sizes = ", ".join(f"{top1} % at {px}" for px, top1 in results["held_out_by_pixels"].items())
    epochs = "\n".join(
        f"| {row['epoch']} | {row['pixels']} | {row['loss']:.3f} "
        f"| {row['held_out_top1']:.2f} | {row['seconds'] / 60:.0f} |"
        for row in results["epochs"]
    )
    return f"""## Training

![loss and held-out accuracy](curves.png)

```
python -m train.pretrain {train} --data DIR --out RUN
python -m train.publish RUN --data DIR
```

| | |
| --- | --- |
{recipe}

`train/recipes.py` says what each of these means.

One process on {results["hardware"]}; {results["epochs"][-1]["seconds"] / 3600:.1f} hours;
code {results["code"]}; {versions}. Evaluated at {results["recipe"]["test_size"]} pixels
after each epoch:

| epoch | pixels | loss | held-out top-1 (%) | minutes so far |
| --- | --- | --- | --- | --- |
{epochs}

Held-out top-1 of the final weights by evaluation size: {sizes} pixels.{remark}"""


def _limits(weights: Weights) -> str:
    return """## Limits

Learned from 64-pixel photos of 200 kinds of things: fine detail and most of the world are unknown
to it, and the biases of web photos are its own. Not measured: robustness, calibration, fairness,
speed on a GPU.

## Citation

Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization",
arXiv:1903.10520. Wu and He, "Group Normalization", arXiv:1803.08494. Le and Yang, "Tiny ImageNet
Visual Recognition Challenge", CS 231N report, 2015. Russakovsky et al., "ImageNet Large Scale
Visual Recognition Challenge", IJCV 2015."""


def read_results(folder: Path) -> dict[str, Any]:
    """The ``results.json`` of a card's folder."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results
