"""Proving that a weights file is what it should be, and writing folded ones."""

import contextlib
import copy
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from wszoo.files import sha256_of
from wszoo.layers import fold, formula_name, to_formula
from wszoo.loading import adapt_state_dict
from wszoo.origin import ORIGIN_FILE, check_converted, read_provenance
from wszoo.weights import (
    WEIGHTS,
    WEIGHTS_FILE,
    check_file,
    find,
    locate,
    read_header,
    read_metadata,
    record_of,
)
from wszoo.ws_resnet import WSResNet


def verify_name(name: str) -> dict[str, Any]:
    """Locate the weights of a record and check their file, down to every value.

    Raises:
        FileNotFoundError: The file is nowhere to be found.
        ValueError: It is not the published one, or does not fit the net.
    """
    weights = find(name)
    path = locate(weights)
    facts = verify_file(path, weights.name)
    if weights.origin:
        facts["origin"] = _made_from(path)
        facts["checked_against_original"] = weights.origin.checked_against_original
    return facts


def _made_from(path: Path) -> str:
    stated = read_provenance(path.parent)
    if stated is None:
        return f"not stated: no {ORIGIN_FILE} beside the file"
    return f"{stated.url}, sha256 {stated.original_sha256}, converted {stated.converted_at}"


def verify_file(path: Path, expected: str | None = None) -> dict[str, Any]:
    """Check a file against a record, a ``config.json`` beside it, or at least itself.

    Args:
        path: A safetensors file.
        expected: ``"model.tag"`` for the published weights, or ``"model"`` for any of that net;
            found by its digest or by the ``config.json`` beside it where None.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Whatever is wrong with it.
    """
    header = read_header(path)
    metadata = read_metadata(path)
    digest = sha256_of(path)
    config = _config_beside(path)
    if expected is None:
        expected = _published_as(path, digest)
        if expected is None and metadata.get("folded") != "true":
            named = f"{metadata.get('model')}.{metadata.get('tag')}"  # as it calls itself
            expected = next((w.name for w in WEIGHTS if w.name == named and w.sha256), None)
        expected = expected or _architecture(path, config)
    if metadata.get("folded") == "true" and expected is not None:
        raise ValueError(f"{path} holds folded kernels, not the weights of {expected!r}")
    # A variant alone may have weights of its own making: only a tag names one certain file.
    weights = next((w for w in WEIGHTS if w.name == expected), None)
    ours = asdict(weights) if weights else config.get("wszoo", {})
    formula = _check_formula(path, metadata.get("formula"), ours.get("formula"))
    if expected is not None:
        _require_fit(path, expected.split(".")[0], header, formula)
    if weights and weights.origin:
        check_converted(path, weights)
    else:
        check_file(path, sha256=ours.get("sha256"), dtype=ours.get("dtype"))
    _require_finite(path, header)
    return {
        "file": str(path),
        "sha256": digest,
        "net": expected or "unknown: no record has this digest; name it with --model",
        "formula": formula or "not stated",
        "folded": metadata.get("folded") == "true",
        "tensors": len(header),
        "values": sum(math.prod(entry["shape"]) for entry in header.values()),
        "finite": True,
    }


def _published_as(path: Path, digest: str) -> str | None:
    """The record that has this digest, or that ``origin.json`` names beside the file."""
    stated = read_provenance(path.parent)
    if stated and path.name == WEIGHTS_FILE and record_of(stated.name):
        return stated.name
    return next((w.name for w in WEIGHTS if w.sha256 == digest), None)


# Of what config.json has of ours.
_STATED: dict[str, tuple[type, ...]] = {"formula": (str, list), "sha256": (str,), "dtype": (str,)}


def _config_beside(path: Path) -> dict[str, Any]:
    config = path.with_name("config.json")
    if not config.is_file():
        return {}
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{config} is not JSON: {error}; fetch it again") from error
    ours = content.get("wszoo", {}) if isinstance(content, dict) else None
    if not isinstance(ours, dict) or not all(
        ours.get(key) is None or isinstance(ours[key], kind) for key, kind in _STATED.items()
    ):
        raise ValueError(f"{config} is not the configuration of a net; fetch it again")
    return content


def _architecture(path: Path, config: dict[str, Any]) -> str | None:
    name = config.get("architecture")
    if name is not None and name not in timm.list_models(module="ws_resnet"):
        raise ValueError(
            f"{path.with_name('config.json')} names the architecture {name!r}, which is not of "
            f"this zoo; name one of `wszoo list` with --model"
        )
    return name


def _check_formula(path: Path, stated: str | None, declared: str | None) -> str | None:
    for formula in filter(None, (stated, declared)):
        try:
            to_formula(formula)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if stated and declared and to_formula(stated) != to_formula(declared):
        raise ValueError(
            f"{path} says it was trained with the WS formula {stated!r}, its record says "
            f"{declared!r}; this is another file than was published"
        )
    return stated or declared


def _require_fit(path: Path, model: str, header: dict[str, Any], formula: str | None) -> None:
    if model not in timm.list_models(module="ws_resnet"):
        raise ValueError(f"{model!r} is not of this zoo; see `wszoo list`")
    classes = [*header.get("fc.weight", {}).get("shape", []), 1][0]
    with torch.device("meta"):
        net = timm.create_model(model, num_classes=classes, formula=formula)
        tensors = {key: torch.empty(entry["shape"]) for key, entry in header.items()}
    wanted, stem = net.state_dict(), f"{net.first_conv}.weight"
    try:
        adapt_state_dict({k: wanted[k] if k == stem else v for k, v in tensors.items()}, net)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for key in (stem, "fc.weight", "fc.bias"):  # where adapting is lenient
        found, right = (tuple(t[key].shape) if key in t else None for t in (tensors, wanted))
        if found not in (None, right):
            raise ValueError(f"{path} has {key} of shape {found}, {model!r} has {right or 'none'}")
    if ("fc.weight" in header) != ("fc.bias" in header):
        raise ValueError(f"{path} holds half a classifier: fc.weight or fc.bias is missing")


def _require_finite(path: Path, header: dict[str, Any]) -> None:
    with safe_open(path, framework="pt") as file:
        for key in header:
            if not torch.isfinite(file.get_tensor(key).double()).all():
                raise ValueError(f"{path}: {key} holds values that are not finite; train it again")


@torch.inference_mode()
def save_folded(model: WSResNet, name: str, output: Path) -> float:
    """Fold a copy of ``model``, write it with the mark, and compare what comes back.

    Returns:
        Largest difference of logits on noise, relative to the largest logit.

    Raises:
        OSError: The file or its folder cannot be written; nothing is left half-written.
    """
    folded = fold(copy.deepcopy(model).eval())
    metadata = {
        "format": "pt",
        "folded": "true",
        "model": name,
        "formula": formula_name(model.formula),
    }
    content = save({k: v.contiguous() for k, v in folded.state_dict().items()}, metadata)
    folded.load_state_dict(_write(content, output))
    size = model.pretrained_cfg["input_size"]
    noise = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    before, after = model(noise), folded(noise)
    return float((before - after).abs().max() / before.abs().max())


def _write(content: bytes, output: Path) -> dict[str, torch.Tensor]:
    """Put a file in place whole, and say what it holds."""
    make_folder(output.parent)
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        tensors = load_file(aside)
        aside.replace(output)
    except OSError as error:
        raise OSError(f"cannot write {output}: {error.strerror}; name another file") from error
    finally:
        with contextlib.suppress(OSError):  # such as a name that is too long to be looked up
            aside.unlink(missing_ok=True)
    return tensors


def make_folder(folder: Path) -> None:
    """Make sure that there is such a folder.

    Raises:
        OSError: It cannot be made; the message names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the folder {folder}: {error.strerror}; name another one"
        ) from error
