"""The card of weights that others have trained and ``wszoo`` converts."""

from typing import Any

from wszoo.cards import usage
from wszoo.cards.data_sets import DataSet, data_set_of
from wszoo.cards.licences import NONE_STATED
from wszoo.cards.size import size_rows
from wszoo.cards.text import (
    NOT_MEASURED,
    citations,
    facts,
    front_matter,
    join,
    layer_tags,
    paragraph,
    table,
    why,
)
from wszoo.convert import SOURCES
from wszoo.describe import describe, is_checked, where
from wszoo.weights import PUBLISHED, Weights

_ANSWER = 'wszoo.weights.find("{}").label_names()[shares.argmax()]'


def converted_card(weights: Weights, results: dict[str, Any] | None = None) -> str:
    """The README.md of converted weights: what is known of them, and by whose word.

    Args:
        weights: A record with an origin.
        results: ``file_bytes`` is shown, where the file is at hand.
    """
    data, described = data_set_of(weights), describe(weights.model, weights)
    norm = described["norm"]
    sections = (
        _summary(weights),
        why(norm),
        _usage(weights, described),
        _facts(weights, described, results or {}),
        _results(weights),
        _origin(weights),
        _training_and_limits(weights, data),
        _licences(weights, data),
        citations(norm, data.citation),
    )
    front = front_matter(
        weights.name,
        license=None if weights.license == NONE_STATED else weights.license,
        license_url=weights.origin_url,
        results=(),  # the Hub would show figures as measured
        tags=[*layer_tags(norm), "resnet"],
        datasets=[data.identifier],
    )
    return front + join(sections)


def _summary(weights: Weights) -> str:
    data, origin = data_set_of(weights), weights.origin
    assert origin is not None
    checked = (
        "The conversion was confirmed on the original file."
        if is_checked(weights)
        else "**Not checked against the original**: the conversion is proved on files of the same "
        "layout; nobody has confirmed it on the original yet."
    )
    return f"# {weights.name}\n\n" + paragraph(
        f"Trained on {data.name} by the authors of {weights.origin_url}, published as "
        f"`{origin.file_name}`, and converted to safetensors by wszoo without changing a value.",
        checked,
    )


def _usage(weights: Weights, described: dict[str, Any]) -> str:
    name, size, channels = weights.name, weights.input_size[-1], described["channels"]
    parts = (
        "## Use",
        usage.classify(name, weights.num_classes, answer=_ANSWER.format(name)),
        usage.features(name, size, described["strides"], channels, registered=True),
        usage.embed(name, size, channels[-1]),
        usage.places(name, hub=weights.hub, here=where(weights)),
    )
    return "\n\n".join(parts)


def _facts(weights: Weights, described: dict[str, Any], results: dict[str, Any]) -> str:
    size = results.get("file_bytes")
    rows = size_rows(weights, described) | {
        "file": f"{size:,} bytes, {weights.dtype}" if size else weights.dtype,
        "sha256": f"`{weights.sha256}`" if weights.sha256 else "not confirmed yet",
    }
    check = f"`wszoo verify {weights.name}` checks the file, down to every value."
    return f"## Facts\n\n{facts(rows)}\n\n{check}"


def _results(weights: Weights) -> str:
    rows = [
        (f"{metric.replace('top', 'top-')}, {data}", f"{value:.2f} %", _by_whom(data, weights))
        for data, scores in weights.metrics.items()
        for metric, value in scores.items()
    ] or [("accuracy", "none published", NOT_MEASURED)]
    text = paragraph(
        f"`wszoo eval {weights.name} --data imagenet/val` measures by the published protocol "
        f"(short side {round(weights.input_size[-1] / weights.crop_pct)}, centre "
        f"{weights.input_size[-1]}, RGB) and prints the published figure beside."
    )
    return f"## Results\n\n{table(('what', 'result', 'by whom'), rows)}\n\n{text}"


def _by_whom(data: str, weights: Weights) -> str:
    if data == PUBLISHED:
        return f"published by the authors, not measured here ({weights.origin_url})"
    return f"`wszoo confirm {weights.name} --data imagenet/val`"


def _origin(weights: Weights) -> str:
    origin = weights.origin
    assert origin is not None
    rows = [
        (
            file.url,
            SOURCES[file.source].title,
            f"begins with {file.sha256_prefix}" if file.sha256_prefix else "none published",
        )
        for file in origin.files
    ]
    text = (
        f"`wszoo confirm {weights.name} --data imagenet/val` fetches the original, proves its "
        f"conversion against an independent forward, and measures it."
    )
    return (
        f"## Origin\n\n{table(('file', 'layout', 'sha256'), rows)}\n\n{paragraph(text)}\n\n"
        f"The file is read without running any code in it."
    )


def _training_and_limits(weights: Weights, data: DataSet) -> str:
    training = paragraph(
        f"By its authors, see {weights.origin_url}. Their hardware, hours and energy are not known "
        f"here."
    )
    limits = paragraph(
        "For research: to fine-tune classifiers, detectors and segmenters with few images per "
        "step, and to classify. Out of scope: what its licence or that of its data excludes, and "
        "decisions about people.",
        data.limits,
        "Not measured here: accuracy, robustness, calibration, fairness, speed, energy.",
    )
    return f"## Training\n\n{training}\n\n## Intended use and limits\n\n{limits}"


def _licences(weights: Weights, data: DataSet) -> str:
    none = "Their authors stated none for them: ask before you publish copies."
    return "## Licences\n\n" + paragraph(
        f"Weights: {weights.license}.",
        none * (weights.license == NONE_STATED),
        f"Data: {data.name}, {data.terms} ({data.terms_url}).",
    )
