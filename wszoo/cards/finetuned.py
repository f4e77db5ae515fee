"""The card of a finished run of ``wszoo finetune``."""

from typing import Any

from huggingface_hub import EvalResult

from wszoo.cards import usage
from wszoo.cards.licences import licence_of, link_of, told
from wszoo.cards.text import (
    citations,
    facts,
    front_matter,
    join,
    layer_tags,
    paragraph,
    pictures,
    slug,
    table,
    why,
)
from wszoo.cards.words import Words
from wszoo.finetune.origin import RANDOM, chain_of
from wszoo.finetune.outputs import Facts
from wszoo.finetune.report import CONFUSION, CURVES, EXAMPLES
from wszoo.training.report import duration
from wszoo.weights import Weights, record_of

_LEARNING = "curves.png"
_TASKS = {
    "classify": ("image-classification", "accuracy", "classifier"),
    "detect": ("object-detection", "mean_average_precision", "detector"),
    "segment": ("image-segmentation", "mean_iou", "segmenter"),
}
_METRICS = {"top1": "top-1", "top5": "top-5", "miou": "mean IoU", "dice": "Dice"}
_NO_SCORES = ("loss", "lr")
_LIMITS = paragraph(
    "For photos like those it learned from; it knows no others, and shares their biases. Not for "
    "decisions about people. Not measured: robustness, calibration, fairness."
)
SHOWN = {
    _LEARNING: "losses and metrics by epoch",
    CONFUSION: "true class by answer",
    CURVES: "precision and recall at an IoU of 0.5",
    EXAMPLES: "best, median and worst photos: truth beside answer",
}


def finetuned_card(net: Facts, results: dict[str, Any], words: Words) -> str:
    """The README.md of a fine-tuned net.

    Args:
        net: What it is.
        results: What its ``results.json`` holds.
        words: What a person says of it.

    Raises:
        ValueError: ``words`` state another licence than that of the weights it began with.
    """
    name = words.name or f"{net.net.architecture}-{net.net.head}"
    base, norm = began_with(net), _norm(net, results)
    scores = {
        _plain(key): value
        for key, value in net.metrics.items()
        if "/" not in key and not key.endswith(_NO_SCORES)
        if len(net.classes) > 5 or not key.endswith("top5")  # which is 100 % of so few
    }
    sections = (
        _summary(net, name, results, words),
        why(norm) if norm else "",
        _usage(net, name),
        _facts(net, results, base),
        _results(net, scores, results),
        _training(results),
        f"## Intended use and limits\n\n{_LIMITS}",
        _licences(words, base),
        citations(norm or ""),
    )
    tags = [*(layer_tags(norm) if norm else ()), net.net.architecture]
    return _front_matter(net, name, scores, words, tags) + join(sections)


def began_with(net: Facts) -> Weights | None:
    """The record of the published weights that a run began with, itself or through others."""
    first = chain_of(net)[0]
    return None if first == RANDOM else record_of(first)


def _norm(net: Facts, results: dict[str, Any]) -> str | None:
    """Of a net with WS, ``GN`` or ``BCN``; None where there is BatchNorm, or no WS."""
    if not net.net.formula or results["batch_norms"]:
        return None
    return "BCN" if results["batch_channel_norms"] else "GN"


def _front_matter(
    net: Facts, name: str, scores: dict[str, float], words: Words, tags: list[str]
) -> str:
    task, metric, _ = _TASKS[net.net.task]
    data, base = words.data_name, began_with(net)
    return front_matter(
        name,
        license=licence_of(words, base),
        license_url=link_of(base),
        results=[
            EvalResult(
                task_type=task,
                dataset_name=data,
                dataset_type=slug(data),
                dataset_split="held-out",
                metric_type=metric,
                metric_name=f"{key} (%)",
                metric_value=round(value, 2),
            )
            for key, value in scores.items()
            if data  # without a name for it, the Hub takes no figures
        ],
        task=task,
        library="timm" if net.net.task == "classify" else "pytorch",
        tags=tags,
        metrics=[metric],
        base_model=base.hub.partition("@")[0] if base and base.hub else None,
    )


def _summary(net: Facts, name: str, results: dict[str, Any], words: Words) -> str:
    kind = _TASKS[net.net.task][2]
    photos = f"{results['data']['train']:,} photos" if "data" in results else None
    data = " of ".join(filter(None, (photos, words.data_name)))
    images = net.settings.batch_size
    text = paragraph(
        f"A {kind} ({net.net.head}) over {net.net.architecture}, fine-tuned with {images} "
        f"image{'s' * (images > 1)} per step{f' on {data}' if data else ''}. It tells "
        f"{len(net.classes)} classes: {', '.join(net.classes)}."
    )
    return f"# {name}\n\n{text}"


def _plain(key: str) -> str:
    """What people call a metric."""
    short = key.removeprefix("held_out_")
    return _METRICS.get(short) or short.replace("_", " ").replace(" ap", " AP")


def _usage(net: Facts, name: str) -> str:
    if net.net.task != "classify":
        return _usage_of_photos(net, name)
    here, size = "local-dir:FOLDER", net.settings.image_size
    labels = 'model.pretrained_cfg["label_names"][shares.argmax()]'
    parts = (
        "## Use",
        usage.classify(here, len(net.classes), answer=labels),
        usage.body(here, size),
        usage.embed(here, size, None),
        usage.places(name, hub=None, here=None),
    )
    return "\n\n".join(parts)


_ANSWERS = {
    "detect": """    found = model([photo])[0]
for box, label, score in zip(found["boxes"], found["labels"], found["scores"]):
    if label > 0 and score >= {min_score}:  # 0 is the background
        print(facts.classes[label - 1], box.tolist(), float(score))""",
    "segment": """    labels = model(photo[None]).argmax(1)[0]  # (H, W)
print([facts.classes[label] for label in labels.unique()])""",
}


def _usage_of_photos(net: Facts, name: str) -> str:
    answer = _ANSWERS[net.net.task].format(min_score=net.min_score or 0.5)
    return f"""## Use

FOLDER is a copy of this one: `hf download NAMESPACE/{name} --revision COMMIT --local-dir FOLDER`
pins it, and needs no network later.

```python
import wszoo, torch
from pathlib import Path
from PIL import Image
from torchvision.transforms.functional import to_tensor

model, facts = wszoo.load_finetuned(Path("FOLDER"))
photo = to_tensor(Image.open("photo.jpg").convert("RGB"))  # (3, H, W) in 0..1
with torch.inference_mode():
{answer}
```

On the command line:

```console
wszoo predict FOLDER photo.jpg --save pictures
wszoo eval FOLDER --data DIR --split test
wszoo finetune {net.net.task} --from FOLDER --data OTHER --out RUN
```"""


def _facts(net: Facts, results: dict[str, Any], base: Weights | None) -> str:
    channel_norms = results["batch_channel_norms"]
    rows = {
        "parameters": f"{results['parameters'] / 1e6:.2f} M",
        "began with": _began_with(net, base),
        "BatchNorm layers": None if channel_norms else results["batch_norms"],
        "BatchChannelNorm layers": channel_norms or None,
        "WS formula": net.net.formula,
        "mean": net.net.mean,
        "std": net.net.std,
        "image size": f"{net.settings.image_size} px"
        + (f", long side at most {net.settings.max_size} px" if net.net.task != "classify" else ""),
        "file": f"{results['file_bytes']:,} bytes, F32",
        "sha256": f"`{net.sha256}`",
    }
    return f"## Facts\n\n{facts(rows)}"


def _began_with(net: Facts, base: Weights | None) -> str:
    first, *runs = chain_of(net)
    known = f"`{base.name}` ({base.license})" if base else f"published weights of {first}"
    text = RANDOM if first == RANDOM else known
    if runs:
        digests = ", ".join(f"`{digest}`" for digest in runs)
        text += f", through runs whose weights have the sha256 {digests}"
    return text


def _results(net: Facts, scores: dict[str, float], results: dict[str, Any]) -> str:
    count = results["data"]["held_out"] if "data" in results else None
    by_class = [(_plain(key), value) for key, value in net.metrics.items() if "/" in key]
    kept = f"epoch {net.epoch}" + (f" of {results['epochs']}" if "epochs" in results else "")
    parts = (
        "## Results",
        table(
            ("what", "result"),
            [(key, f"{value:.2f} %") for key, value in (*scores.items(), *by_class)],
        ),
        paragraph(
            f"On {f'{count:,} ' if count else ''}held-out photos, by which {kept} was chosen: on "
            f"photos that decided nothing, expect a little less.",
            "`wszoo eval FOLDER --data DIR` measures again.",
        ),
        pictures(SHOWN, results["pictures"]),
        "Not measured: a test set, the same net with BatchNorm, spread over seeds, speed, energy.",
    )
    return "\n\n".join(filter(None, parts))


def _training(results: dict[str, Any]) -> str:
    told = {
        "hardware": results.get("hardware"),
        "time": duration(results["seconds"]) if "seconds" in results else None,
        "starts": results.get("starts"),
        "code": results["code"],
        "recipe hash": f"`{results['recipe_hash']}`",
        **results.get("versions", {}),
        "data digest": results.get("data", {}).get("digest"),
    }
    settings = {f"`{key}`": value for key, value in results["settings"].items()}
    return f"## Training\n\n{facts(told)}\n\nSettings:\n\n{facts(settings)}"


def _licences(words: Words, base: Weights | None) -> str:
    text = paragraph(
        told(words, base),
        f"Data: {words.data_license}.",
    )
    return f"## Licences\n\n{text}"
