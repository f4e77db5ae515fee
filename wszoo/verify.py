"""Proving that a weights file is what it should be, and writing folded ones."""

import copy
import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file

from wszoo.files import sha256_of
from wszoo.layers import fold, formula_name, to_formula
from wszoo.loading import adapt_state_dict
from wszoo.weights import WEIGHTS, check_file, find, locate, read_header, read_metadata
from wszoo.ws_resnet import WSResNet


def verify_name(name: str) -> dict[str, Any]:
    """Locate the weights of a record, check the file, and load it strictly.

    Raises:
        FileNotFoundError: The file is nowhere to be found.
        ValueError: It is not the published one, or does not fit the net.
    """
    weights = find(name)
    return verify_file(locate(weights), weights.name)


def verify_file(path: Path, expected: str | None = None) -> dict[str, Any]:
    """Check a file against a record, a ``config.json`` beside it, or at least itself.

    Args:
        path: A safetensors file.
        expected: ``"model.tag"`` or ``"model"``; found by its digest or by the ``config.json``
            beside it where None.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Whatever is wrong with it.
    """
    check_file(path)
    digest = sha256_of(path)
    config = _config_beside(path)
    if expected is None:
        expected = next((w.name for w in WEIGHTS if w.sha256 == digest), None)
        expected = expected or config.get("architecture")
    weights = next((w for w in WEIGHTS if w.name == expected), None)
    ours = config.get("wszoo", {})
    check_file(
        path,
        sha256=weights.sha256 if weights else ours.get("sha256"),
        dtype=weights.dtype if weights else ours.get("dtype"),
    )
    metadata = read_metadata(path)
    if metadata.get("folded") == "true" and expected is not None:
        raise ValueError(f"{path} holds folded kernels, not the weights of {expected!r}")
    declared = weights.formula if weights else ours.get("formula")
    formula = _check_formula(path, metadata.get("formula"), declared)
    header = read_header(path)
    if expected is not None:
        _require_fit(path, expected.split(".")[0], header, formula)
    return {
        "file": str(path),
        "sha256": digest,
        "net": expected or "unknown: no record has this digest; name it with --model",
        "formula": formula or "not stated",
        "folded": metadata.get("folded") == "true",
        "tensors": len(header),
        "values": sum(_size(entry["shape"]) for entry in header.values()),
    }


def _config_beside(path: Path) -> dict[str, Any]:
    config = path.with_name("config.json")
    if not config.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config} is not JSON: {error}; fetch it again") from error
    return content


def _check_formula(path: Path, stated: str | None, declared: str | None) -> str | None:
    if stated and declared and to_formula(stated) != to_formula(declared):
        raise ValueError(
            f"{path} says it was trained with the WS formula {stated!r}, its record says "
            f"{declared!r}; this is another file than was published"
        )
    return stated or declared


def _require_fit(path: Path, model: str, header: dict[str, Any], formula: str | None) -> None:
    classes = header["fc.weight"]["shape"][0] if "fc.weight" in header else 0
    with torch.device("meta"):
        net = timm.create_model(model, num_classes=classes, formula=formula)
    with torch.device("meta"):
        tensors = {k: torch.empty(entry["shape"]) for k, entry in header.items()}
    try:
        adapt_state_dict(tensors, net)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


@torch.inference_mode()
def save_folded(model: WSResNet, name: str, output: Path) -> float:
    """Fold a copy of ``model``, write it with the mark, and compare what comes back.

    Returns:
        Largest difference of logits on noise, relative to the largest logit.
    """
    folded = fold(copy.deepcopy(model).eval())
    metadata = {
        "format": "pt",
        "folded": "true",
        "model": name,
        "formula": formula_name(model.formula),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in folded.state_dict().items()}, output, metadata)
    folded.load_state_dict(load_file(output))
    size = model.pretrained_cfg["input_size"]
    noise = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    before, after = model(noise), folded(noise)
    return float((before - after).abs().max() / before.abs().max())
