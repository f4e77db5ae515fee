"""The card of weights that this zoo has trained."""

from typing import Any

from huggingface_hub import EvalResult

from wszoo.cards import usage
from wszoo.cards.converted import converted_card
from wszoo.cards.data_sets import DataSet, data_set_of
from wszoo.cards.results import STUDY_FIGURE, TOPICS
from wszoo.cards.size import size_rows
from wszoo.cards.text import (
    NOT_MEASURED,
    citations,
    facts,
    front_matter,
    join,
    layer_tags,
    paragraph,
    pictures,
    table,
    why,
)
from wszoo.cards.training import training_section
from wszoo.describe import describe, where
from wszoo.weights import WEIGHTS, Weights
from wszoo.weights_file import recipe_hash

_Row = tuple[str, str, str]  # what, result, how
_ANSWER = 'wszoo.weights.find("{}").label_names()[shares.argmax()]'
_PICTURES = {
    "confusion.png": "true class by predicted class",
    **{f"{topic}.png": what for topic, what in TOPICS.items()},
}
_AVERAGE = "python -m train.average {parts} --tag {tag} --data DIR --cache DIR"
_COMMANDS = """python -m train.pretrain {model} --recipe {recipe_name} --data DIR --out RUN
python -m train.publish RUN --data DIR"""


def render_card(weights: Weights, results: dict[str, Any]) -> str:
    """The README.md of one set of weights.

    Args:
        weights: The record.
        results: What its ``results.json`` holds; nothing is needed for converted weights.

    Raises:
        ValueError: ``results`` lack what is known of all weights of this zoo.
    """
    if weights.origin is not None:
        return converted_card(weights, results)
    if lacking := {"evaluation", "epochs", "recipe"} - results.keys():
        raise ValueError(
            f"the results of {weights.name} lack {min(lacking)!r}; publish them with "
            f"`python -m train.publish`"
        )
    data, described = data_set_of(weights), describe(weights.model, weights)
    sections = (
        _summary(weights, results, data),
        why(described["norm"]),
        _usage(weights, described),
        _facts(weights, results, described),
        _results(weights, results, data),
        training_section(results, weights.num_classes, _commands(weights, results)),
        _intended_use(data),
        _licences(weights, data),
        _versions(weights),
        citations(described["norm"], data.citation),
    )
    return _front_matter(weights, results, data, described["norm"]) + join(sections)


def _front_matter(weights: Weights, results: dict[str, Any], data: DataSet, norm: str) -> str:
    return front_matter(
        weights.name,
        license=weights.license,
        license_url=data.terms_url,
        results=[
            EvalResult(
                task_type="image-classification",
                dataset_name=f"{data.name} val",
                dataset_type=data.identifier,
                dataset_split=data.split,
                metric_type="accuracy",
                metric_name=f"{name} (%)",
                metric_value=results["evaluation"][key],
            )
            for key, name in (("top1", "top-1"), ("top5", "top-5"))
        ],
        tags=[*layer_tags(norm), "resnet"],
        metrics=["accuracy"],
        datasets=[data.identifier],
        new_version=_newer_on_hub(weights),
    )


def _newer_on_hub(weights: Weights) -> str | None:
    """Where the default weights of the net are, if these are others."""
    default = next(each for each in WEIGHTS if each.model == weights.model)
    if default == weights or default.hub is None:
        return None
    return default.hub.partition("@")[0]


def _summary(weights: Weights, results: dict[str, Any], data: DataSet) -> str:
    small = "a small data set: a backbone for fine-tuning and for tests, not an ImageNet classifier"
    score = results["evaluation"]
    first = paragraph(
        f"Trained on {data.name} ({data.what}){f', {small}' * data.is_small}.",
        f"Top-1 {score['top1']} % ± {score['standard_error']}, top-5 {score['top5']} % on its "
        f"{score['photos']:,} validation photos at {weights.input_size[-1]} pixels.",
    )
    return f"# {weights.name}\n\n{first}"


def _usage(weights: Weights, described: dict[str, Any]) -> str:
    name, size = weights.name, weights.input_size[-1]
    strides, channels = described["strides"], described["channels"]
    parts = (
        "## Use",
        usage.classify(name, weights.num_classes, answer=_ANSWER.format(name)),
        usage.features(name, size, strides, channels, registered=True),
        usage.embed(name, size, channels[-1]),
        usage.places(name, hub=weights.hub, here=where(weights)),
    )
    return "\n\n".join(parts)


def _facts(weights: Weights, results: dict[str, Any], described: dict[str, Any]) -> str:
    rows = size_rows(weights, described) | {
        "file": f"{results['file_bytes']:,} bytes, {weights.dtype}",
        "sha256": f"`{weights.sha256}`",
        "recipe hash": f"`{recipe_hash(results['recipe'])}`",
    }
    before = ", ".join(f"`{digest}`" for digest in results.get("sha256_before", ()))
    text = paragraph(
        f"`wszoo verify {weights.name}` checks the file, down to every value.",
        f"Its header was completed later, with recipe hash and code; until then its sha256 was "
        f"{before}. Every tensor is the same, byte by byte."
        if before
        else "",
    )
    return f"## Facts\n\n{facts(rows)}\n\n{text}"


def _results(weights: Weights, results: dict[str, Any], data: DataSet) -> str:
    score, command = results["evaluation"], f"`wszoo eval {weights.name} --data DIR`"
    protocol = f"{data.name} val, {weights.input_size[-1]} px, crop {weights.crop_pct}"
    found: dict[str, list[_Row]] = {topic: [] for topic in TOPICS}
    found |= _by_topic(results)
    rows = [
        ("top-1", f"{score['top1']} % ± {score['standard_error']}", f"{protocol}; {command}"),
        ("top-5", f"{score['top5']} %", "likewise"),
    ]
    if not found["seeds"]:
        seed = results["recipe"].get("seed", 0)
        rows.append((TOPICS["seeds"], NOT_MEASURED, f"one run, seed {seed}"))
        del found["seeds"]
    for topic, each in found.items():
        elsewhere = "of another net: see below" if topic in results.get("studies", {}) else ""
        rows += each or [(TOPICS[topic], NOT_MEASURED, elsewhere)]
    note = paragraph(
        f"DIR holds the archives or class folders of {data.name}. The error is the binomial one of "
        f"so many photos, which were looked at with the published file alone."
    )
    parts = [
        "## Results",
        table(("what", "result", "how"), rows),
        note,
        _size_not_chosen(weights, results),
        _classes(results),
        pictures(_PICTURES, results.get("pictures", ())),
        *(_study(topic, told) for topic, told in results.get("studies", {}).items()),
    ]
    return "\n\n".join(filter(None, parts))


def _study(topic: str, told: dict[str, str]) -> str:
    """What a study of another net has shown."""
    text = paragraph(
        f"{TOPICS[topic].capitalize()}, of another net than this one. {told['note']}",
        f"`{told['command']}`; {told['source']}.",
    )
    return f"{text}\n\n![{told['title']}]({STUDY_FIGURE.format(topic)})"


def _by_topic(results: dict[str, Any]) -> dict[str, list[_Row]]:
    rows: dict[str, list[_Row]] = {}
    for finding in (*results.get("measured", ()), *results.get("findings", ())):
        how = "; ".join(
            filter(None, (f"`{finding['command']}`", finding.get("source") and finding["source"]))
        )
        topic = finding["topic"]
        rows.setdefault(topic, []).append((TOPICS[topic], finding["finding"], how))
    return rows


def _size_not_chosen(weights: Weights, results: dict[str, Any]) -> str:
    """Where the size of evaluation is not the one that does best on photos held out."""
    by_pixels, own = results.get("held_out_by_pixels", {}), str(weights.input_size[-1])
    best = max(by_pixels, key=by_pixels.__getitem__, default=own)
    if own not in by_pixels or by_pixels[own] == by_pixels[best]:
        return ""
    return paragraph(
        f"The size of {own} pixels was not chosen by the photos held out, which do best at {best}: "
        f"{by_pixels[best]} % in place of {by_pixels[own]} %."
    )


def _classes(results: dict[str, Any]) -> str:
    """Which classes are told well and which are not."""
    if "classes" not in results:
        return ""
    told = {
        kind: ", ".join(f"{name} {share:g} %" for name, share in results["classes"][kind])
        for kind in ("best", "worst")
    }
    taken = "; ".join(
        f"{true} for {given} ({count})" for true, given, count in results["classes"]["taken"]
    )
    return paragraph(
        f"Recognised best: {told['best']}. Worst: {told['worst']}.",
        f"Most often taken for one another, with how often: {taken}.",
    )


def _commands(weights: Weights, results: dict[str, Any]) -> str:
    if "average" not in results:
        return _COMMANDS
    tried = {name: None for each in results["average"]["tried"] for name in each["shares"]}
    first = next(iter(results["average"]["shares"]))
    parts = " ".join([first, *(name for name in tried if name != first)])
    return _AVERAGE.format(parts=parts, tag=weights.tag)


def _intended_use(data: DataSet) -> str:
    as_it_is = "classify photos like those it learned from" if data.is_small else "classify photos"
    return "## Intended use and limits\n\n" + paragraph(
        f"For research: to fine-tune classifiers, detectors and segmenters with few images per "
        f"step, and to {as_it_is}. Out of scope: any use that its licence excludes, and decisions "
        f"about people.",
        data.limits,
        "Not measured: robustness, calibration, fairness, and what the table above says so of.",
    )


def _licences(weights: Weights, data: DataSet) -> str:
    return "## Licences\n\n" + paragraph(
        f"Weights: {weights.license}, for they inherit the terms of their data.",
        f"Data: {data.name} is {data.terms} ({data.terms_url}).",
        "The code of wszoo, which is not in this folder: Apache-2.0.",
    )


def _versions(weights: Weights) -> str:
    """All weights of the net, the default first."""
    rows = [
        (
            f"`{each.tag}`{' (these)' * (each.name == weights.name)}",
            "; ".join(
                f"{data}: {scores['top1']:.2f} %"
                for data, scores in each.metrics.items()
                if "top1" in scores
            )
            or "-",
            f"`{(each.sha256 or '-')[:12]}`",
        )
        for each in WEIGHTS
        if each.model == weights.model
    ]
    note = "The first is what the name without a tag loads. A tag is never given to other values."
    heads = ("tag", "top-1", "sha256 begins with")
    return f"## Weights of this net\n\n{table(heads, rows)}\n\n{note}"
