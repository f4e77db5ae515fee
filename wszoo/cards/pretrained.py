"""The card of a finished run of ``train.pretrain``, and all that is read from its folder."""

import json
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult
from torch import Tensor

from wszoo.cards import usage
from wszoo.cards.drawing import draw_training
from wszoo.cards.folder import CARD, write_config
from wszoo.cards.licences import licence_of, link_of, told
from wszoo.cards.results import RESULTS
from wszoo.cards.size import size_rows
from wszoo.cards.text import (
    citations,
    facts,
    front_matter,
    join,
    layer_tags,
    paragraph,
    slug,
    table,
    why,
)
from wszoo.cards.training import training_section
from wszoo.cards.words import NOT_STATED, Words, missing
from wszoo.describe import describe
from wszoo.files import sha256_of
from wszoo.training.checkpoint import load_checkpoint
from wszoo.training.rows import Row, read_rows
from wszoo.weights import WEIGHTS_FILE, Weights, record_of
from wszoo.weights_file import (
    file_metadata,
    named_code,
    recipe_hash,
    weights_bytes,
    write_whole,
)

_COMMAND = "python -m train.pretrain {model} --recipe {recipe_name} --data DIR --out RUN"

_LIMITS = paragraph(
    "To fine-tune classifiers, detectors and segmenters with few images per step, and to classify "
    "photos like those it learned from. Not for decisions about people. Not measured: robustness, "
    "calibration, fairness."
)


@dataclass(frozen=True, kw_only=True)
class PretrainedRun:
    """A finished run.

    Attributes:
        facts: Its run.json; of a mean of weights that of the first, with a ``tag`` of its own and
            how the shares were chosen as ``average``.
        epochs: One row each, as metrics.jsonl has them.
        state_dict: Its weights: their moving average, where one was kept.
    """

    facts: dict[str, Any]
    epochs: list[Row]
    state_dict: dict[str, Tensor]

    @property
    def tag(self) -> str:
        """What its weights are called."""
        return str(self.facts.get("tag", self.facts["recipe"]))

    @property
    def results(self) -> dict[str, Any]:
        """What a ``results.json`` says of any such run."""
        average = {key: self.facts[key] for key in ("average",) if key in self.facts}
        return average | {
            "model": self.facts["model"],
            "recipe_name": self.facts["recipe"],
            "recipe": self.facts["settings"],
            "epochs": self.epochs,
            "hardware": self.facts["hardware"],
            "versions": {name: version(name) for name in ("torch", "timm", "wszoo")},
            "python": platform.python_version(),
            "code": named_code(self.facts["code"]),
            "recipe_hash": recipe_hash(self.facts["settings"]),
        }


def is_pretrained_run(run: Path) -> bool:
    """Whether ``run`` is the folder of such a run, finished or not."""
    try:
        return "recipe" in json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def read_pretrained(run: Path) -> PretrainedRun:
    """What a finished run has left.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: The run is not finished, or its newest checkpoint is damaged.
    """
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    epochs, _ = read_rows(run / "metrics.jsonl")
    wanted = sum(count for count, _ in facts["settings"]["phases"])
    if len(epochs) < wanted and facts["settings"].get("patience") is None:
        raise ValueError(f"{run} has {len(epochs)} of {wanted} epochs; repeat its command to go on")
    return PretrainedRun(facts=facts, epochs=epochs, state_dict=finished_weights(run))


def finished_weights(run: Path) -> dict[str, Tensor]:
    """The weights of the newest checkpoint: their moving average, where one was kept.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged.
    """
    loaded = load_checkpoint(run, on_damaged=_refuse_damaged)
    if loaded is None:
        raise FileNotFoundError(f"{run} holds no checkpoint; train it first")
    learner = loaded[0]["learner"]
    weights: dict[str, Tensor] = learner["model"] if learner["ema"] is None else learner["ema"]
    return weights


def _refuse_damaged(folder: Path) -> None:
    raise ValueError(f"{folder} is damaged; repeat the run's command to make it again")


def write_pretrained(run: Path, folder: Path, words: Words) -> tuple[str, ...]:
    """Write card, configuration, results, curves and weights of a run into ``folder``.

    Args:
        run: Of ``train.pretrain``.
        folder: There, with nothing in it but an earlier card.
        words: What the run does not hold.

    Returns:
        What the card says is not stated.

    Raises:
        FileNotFoundError, ValueError: As for ``read_pretrained``; or the net is not of this zoo, or
            ``words`` state another licence than that of the weights it began with.
        OSError: The folder cannot be written.
    """
    trained = read_pretrained(run)
    model, recipe = trained.facts["model"], trained.facts["settings"]
    if model not in timm.list_models(module="ws_resnet"):
        raise ValueError(f"{run} trained {model!r}, which is not of this zoo; see `wszoo list`")
    base = _began_with(model, recipe)
    license = licence_of(words, base) or NOT_STATED
    results = trained.results
    metadata = file_metadata(
        model=model, tag=trained.tag, formula="jhu", settings=recipe, code=results["code"]
    )
    write_whole(folder / WEIGHTS_FILE, weights_bytes(trained.state_dict, metadata))
    weights = Weights(
        model=model,
        tag=trained.tag,
        sha256=sha256_of(folder / WEIGHTS_FILE),
        license=license,
        dtype="F32",
        num_classes=len(trained.state_dict["fc.bias"]),
        input_size=(3, recipe["test_size"], recipe["test_size"]),
        crop_pct=recipe["test_crop"],
        interpolation="bicubic",
    )
    results |= {
        "data": trained.facts["data"],
        "file_bytes": (folder / WEIGHTS_FILE).stat().st_size,
        "sha256": weights.sha256,
    }
    name = words.name or weights.name
    draw_training(results, name, folder)
    results["pictures"] = sorted(path.name for path in folder.glob("*.png"))
    text = json.dumps(results, indent=2) + "\n"
    (folder / RESULTS).write_text(text, encoding="utf-8")
    write_config(folder, weights)
    card = pretrained_card(weights, results, replace(words, name=name))
    (folder / CARD).write_text(card, encoding="utf-8")
    return missing(words, inherits=base is not None)


def _began_with(model: str, recipe: dict[str, Any]) -> Weights | None:
    tag = recipe.get("start_tag")
    return record_of(f"{model}.{tag}") if tag else None


def pretrained_card(weights: Weights, results: dict[str, Any], words: Words) -> str:
    """The README.md of a run of ``train.pretrain``.

    Args:
        weights: What a record would say of them.
        results: What its ``results.json`` holds.
        words: What a person says of it.
    """
    name, data = words.name or weights.name, words.data_name
    described, last = describe(weights.model, weights), results["epochs"][-1]
    norm, base = described["norm"], _began_with(weights.model, results["recipe"])
    scores = {
        key.replace("top", "top-"): round(last[f"held_out_{key}"], 2)
        for key in ("top1", "top5")[: 1 + (weights.num_classes > 5)]
        if isinstance(last.get(f"held_out_{key}"), (int, float))
    }
    front = front_matter(
        name,
        license=licence_of(words, base),
        license_url=link_of(base),
        results=[_measured(key, value, data) for key, value in scores.items() if data],
        tags=[*layer_tags(norm), "resnet"],
        metrics=["accuracy"],
    )
    sections = (
        _summary(name, weights, results, data),
        why(norm),
        _usage(name, weights, described),
        _facts(weights, described, results),
        _results(scores, weights),
        training_section(results, weights.num_classes, _COMMAND),
        f"## Intended use and limits\n\n{_LIMITS}",
        f"## Licences\n\n{paragraph(told(words, base), f'Data: {words.data_license}.')}",
        citations(norm),
    )
    return front + join(sections)


def _measured(metric: str, value: float, data: str) -> EvalResult:
    return EvalResult(
        task_type="image-classification",
        dataset_name=data,
        dataset_type=slug(data),
        dataset_split="held-out",
        metric_type="accuracy",
        metric_name=f"{metric} (%)",
        metric_value=value,
    )


def _summary(name: str, weights: Weights, results: dict[str, Any], data: str | None) -> str:
    photos, recipe = results["data"]["photos"], results["recipe_name"]
    text = paragraph(
        f"A {weights.model} trained on {photos:,} photos of {weights.num_classes} "
        f"classes{f' ({data})' if data else ''} by the recipe `{recipe}` of wszoo, "
        f"with {results['recipe']['batch_size']} images per step."
    )
    return f"# {name}\n\n{text}"


def _facts(weights: Weights, described: dict[str, Any], results: dict[str, Any]) -> str:
    rows = size_rows(weights, described) | {
        "classes": weights.num_classes,
        "file": f"{results['file_bytes']:,} bytes, {weights.dtype}",
        "sha256": f"`{weights.sha256}`",
        "recipe hash": f"`{results['recipe_hash']}`",
    }
    return f"## Facts\n\n{facts(rows)}"


def _results(scores: dict[str, float], weights: Weights) -> str:
    how = f"held-out photos, last epoch, {weights.input_size[-1]} px, crop {weights.crop_pct}"
    rows = [(key, f"{value} %", how) for key, value in scores.items()]
    text = paragraph(
        "Not measured: accuracy on a test set, the same net with BatchNorm, spread over seeds, "
        "speed, energy."
    )
    return f"## Results\n\n{table(('what', 'result', 'how'), rows)}\n\n{text}"


def _usage(name: str, weights: Weights, described: dict[str, Any]) -> str:
    size, channels = weights.input_size[-1], described["channels"]
    here = "local-dir:FOLDER"
    return "\n\n".join(
        (
            "## Use",
            usage.classify(here, weights.num_classes, answer="int(shares.argmax())"),
            usage.features(here, size, described["strides"], channels, registered=False),
            usage.embed(here, size, channels[-1]),
            usage.places(name, hub=None, here=None),
        )
    )
