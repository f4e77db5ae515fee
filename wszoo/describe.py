"""What there is to say about a variant and its weights; one source for every table."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from typing import Any

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from wszoo.layers import BatchChannelNorm, formula_name
from wszoo.weights import WEIGHTS, Weights
from wszoo.ws_resnet import WSResNet

_COCO_CLASSES, _VOC_CLASSES = 91, 21


def list_rows(pattern: str = "*", *, pretrained: bool = False) -> list[dict[str, Any]]:
    """One row per set of weights, and one per variant without any.

    Args:
        pattern: Glob that the name must match, with its tag or without.
        pretrained: Leave out variants without weights.
    """
    rows = []
    for variant in timm.list_models(module="ws_resnet"):
        records: list[Weights | None] = [w for w in WEIGHTS if w.model == variant]
        chosen = [
            weights
            for weights in records or [None]
            if weights or not pretrained
            if fnmatch(weights.name if weights else variant, pattern) or fnmatch(variant, pattern)
        ]
        if chosen:  # building a net takes longer than all else here
            rows += [_row(variant, _on_meta(variant, weights), weights) for weights in chosen]
    return rows


def _row(variant: str, model: WSResNet, weights: Weights | None) -> dict[str, Any]:
    return {
        "name": weights.name if weights else variant,
        "model": variant,
        "tag": weights.tag if weights else None,
        "params_m": round(parameter_count(model) / 1e6, 2),
        "norm": norm_name(model),
        "formula": weights.formula if weights else None,
        "top1": (_scores(weights, "top1") or None) if weights else None,
        "input": weights.input_size[-1] if weights else None,
        "license": weights.license if weights else None,
        "where": where(weights) if weights else None,
        "checked_against_original": is_checked(weights) if weights else None,
    }


def _scores(weights: Weights, metric: str) -> str:
    return ", ".join(
        f"{scores[metric]:.2f} % ({data.replace(' (', ', ').rstrip(')')})"
        for data, scores in weights.metrics.items()
        if metric in scores
    )


def where(weights: Weights) -> str:
    """Where the file of a record is, in a word or two."""
    if weights.packaged:
        return "in the package"
    if weights.hub:
        return f"hub {weights.hub}"
    if weights.origin:
        unchecked = "" if is_checked(weights) else " (not checked against the original)"
        return f"from {weights.origin.host}{unchecked}"
    return "in the repository, model_cards/"


def is_checked(weights: Weights) -> bool | None:
    """Whether a person has confirmed converted weights; None for weights of this zoo."""
    return weights.origin.checked_against_original if weights.origin else None


def norm_name(model: WSResNet) -> str:
    """``GN`` or ``BCN``."""
    is_bcn = any(isinstance(module, BatchChannelNorm) for module in model.modules())
    return "BCN" if is_bcn else "GN"


def parameter_count(model: torch.nn.Module) -> int:
    """Number of learned values."""
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: torch.nn.Module, input_size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image; ``model`` may be on the meta device."""
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, *input_size, device=device))
    return int(counter.get_total_flops() // 2)


def _macs_text(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e8 else f"{count / 1e6:.0f} M"


def describe_variant(name: str) -> dict[str, Any]:
    """Everything a user asks before loading ``name``: ``model`` or ``model.tag``."""
    weights = next((w for w in WEIGHTS if name in (w.name, w.model)), None)
    return describe(name.split(".")[0], weights)


def describe(variant: str, weights: Weights | None) -> dict[str, Any]:
    """The same for a record that need not be published yet, or for none."""
    model = _on_meta(variant, weights)
    size = weights.input_size if weights else (3, 224, 224)
    described: dict[str, Any] = {
        "model": variant,
        "params": f"{parameter_count(model) / 1e6:.2f} M",
        "MACs": f"{_macs_text(macs(model, size))} at {size[1]} x {size[2]}",
        "norm": norm_name(model),
        "formula": formula_name(model.formula),
        "channels": [info["num_chs"] for info in model.feature_info],
        "strides": [info["reduction"] for info in model.feature_info],
    }
    if weights is None:
        return {**described, "weights": "none yet; use pretrained=False"}
    return {
        **described,
        "weights": weights.name,
        "where": where(weights),
        "license": weights.license,
        "recipe": weights.recipe,
        "classes": weights.num_classes,
        "accuracy": weights.metrics,
        "input": f"RGB, {size[1]} x {size[2]}, crop {weights.crop_pct}, {weights.interpolation}",
        "mean": weights.mean,
        "std": weights.std,
        "sha256": weights.sha256,
        **_origin_facts(weights),
        "load": f'import timm, wszoo; timm.create_model("{weights.name}", pretrained=True)',
    }


def fact_lines(facts: dict[str, Any]) -> list[str]:
    """What ``describe`` says, one line per fact, for people."""
    short = {"checked_against_original": "checked"}
    return [f"{short.get(key, key):<9} {_fact_text(fact)}" for key, fact in facts.items()]


def _fact_text(fact: Any) -> str:
    """Scores of data sets, lists and plain facts as a person writes them."""
    if isinstance(fact, dict):
        return "; ".join(f"{data}: {_scores_text(scores)}" for data, scores in fact.items()) or "-"
    if isinstance(fact, (list, tuple)):
        return ", ".join(map(str, fact))
    return {None: "-", True: "yes", False: "no"}.get(fact, str(fact))


def _scores_text(scores: dict[str, float]) -> str:
    named = {"top1": "top-1", "top5": "top-5"}
    return ", ".join(f"{named.get(key, key)} {value:.2f} %" for key, value in scores.items())


def describe_heads(variant: str, heads: Sequence[str]) -> list[dict[str, Any]]:
    """Size and norms of detectors and segmenters over a variant, one row each; nothing is computed.

    Args:
        variant: The backbone, without a tag.
        heads: Constructors of ``wszoo.detection`` and ``wszoo.segmentation``.

    Returns:
        For each ``head``, ``task``, ``params``, ``MACs`` of one photo at the size that is trained
        by default, ``classes`` (those of COCO or Pascal VOC, background included), ``norms`` (class
        name to count) and ``batch_norms``, those that no BatchChannelNorm holds.
    """
    return [_describe_head(variant, head) for head in heads]


def _describe_head(variant: str, head: str) -> dict[str, Any]:
    from wszoo import detection, segmentation

    detects = hasattr(detection, head)
    classes = _COCO_CLASSES if detects else _VOC_CLASSES
    make = getattr(detection if detects else segmentation, head)
    with torch.device("meta"):
        model: torch.nn.Module = make(variant, num_classes=classes, pretrained=False)
    describe: Callable[[Any], dict[str, Any]] = (
        detection.describe_detector if detects else segmentation.describe_segmenter
    )
    facts = describe(model)
    parts = {module.bn for module in model.modules() if isinstance(module, BatchChannelNorm)}
    kind = torch.nn.modules.batchnorm._BatchNorm
    found = (module for module in model.modules() if isinstance(module, kind))
    return {
        "head": head,
        "task": "detect" if detects else "segment",
        "params": facts["params"],
        "MACs": facts["MACs"],
        "classes": classes,
        "norms": facts["norms"],
        "batch_norms": sum(module not in parts for module in found),
    }


def heads_table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ``describe_heads`` with their norms as text: a census that names BatchNorm always."""
    return [
        {**row, "norms": ", ".join([*_census(row["norms"]), f"{row['batch_norms']} BatchNorm"])}
        for row in rows
    ]


def _census(norms: dict[str, int]) -> list[str]:
    return [f"{count} {name}" for name, count in norms.items() if "BatchNorm" not in name]


def _origin_facts(weights: Weights) -> dict[str, Any]:
    """Where foreign weights come from, and how to confirm them."""
    if weights.origin is None:
        return {}
    facts = {
        "origin": [file.url for file in weights.origin.files],
        "by": weights.origin_url,
        "checked_against_original": is_checked(weights),
    }
    if not is_checked(weights):
        facts["confirm"] = f"wszoo confirm {weights.name} --data imagenet/val"
    return facts


def _on_meta(variant: str, weights: Weights | None) -> WSResNet:
    """The net with as many classes as the weights have."""
    with torch.device("meta"):
        model = timm.create_model(variant, num_classes=weights.num_classes if weights else 1000)
    assert isinstance(model, WSResNet)
    return model


def weights_table() -> str:
    """The published weights as a Markdown table, for the README."""
    lines = [
        "| name | parameters | top-1 | top-5 | pixels | file | licence |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for weights in WEIGHTS:
        page = weights.origin_url or f"model_cards/{weights.name}/README.md"
        millions = f"{parameter_count(_on_meta(weights.model, weights)) / 1e6:.2f} M"
        lines.append(
            f"| [`{weights.name}`]({page}) | {millions} "
            f"| {_scores(weights, 'top1') or '-'} | {_percent(weights, 'top5')} "
            f"| {weights.input_size[-1]} | {where(weights)} | {weights.license} |"
        )
    return "\n".join(lines)


def _percent(weights: Weights, metric: str) -> str:
    return ", ".join(f"{scores[metric]:.2f} %" for scores in weights.metrics.values()) or "-"
