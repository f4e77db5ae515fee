"""From a foreign file to a folder that timm loads, with the report that proves it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._hub import save_config_for_hf
from torch import Tensor

from wszoo.conversion.card import detector_card, inference_card
from wszoo.conversion.detectors import DetectorTarget, detector_target, reference_detector
from wszoo.conversion.folder import (
    REPORT_FILE,
    leave_failed_report,
    replaced_whole,
    require_replaceable,
)
from wszoo.conversion.nets import Target, taps_of_reference, target_for
from wszoo.conversion.proof import Proof, prove
from wszoo.conversion.reference import reference_net
from wszoo.conversion.renaming import as_stock_net
from wszoo.conversion.report import UNCHANGED, MappedTensor, Report
from wszoo.convert import Card, Converted, convert_state, read_foreign
from wszoo.convert.attribution import source_of_file
from wszoo.files import sha256_of
from wszoo.weights_file import WEIGHTS_FILE, weights_bytes, write_whole

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "fp64": torch.float64}
_NAMES = {"fp32": "F32", "fp16": "F16", "fp64": "F64"}  # as safetensors writes them


def convert_file(
    path: Path,
    output: Path,
    *,
    model: str | None = None,
    source: str | None = None,
    to: str = "wszoo",
    dtype: str = "fp32",
) -> Report:
    """Convert the weights in ``path``, prove the result, and write it to a folder.

    The folder holds ``model.safetensors``, ``config.json`` and ``report.json``. A classifier is
    loaded by ``timm.create_model("local-dir:FOLDER", pretrained=True)``; a detector, which timm
    does not build, by the lines in its ``README.md``. The folder appears whole or not at all; where
    the proof fails, ``report.failed.json`` alone is added to it.

    Args:
        path: A file of one of ``wszoo.convert.SOURCES``; no code in it is run.
        output: A new or empty folder, or that of an earlier conversion, which is replaced.
        model: The net that the file has to hold; another one is refused.
        source: Key of ``SOURCES``; recognised from the tensors where None.
        to: ``"wszoo"``, or ``"timm"`` for a net that timm builds without this package.
        dtype: Type to store: fp32, fp16 or fp64.

    Returns:
        The report; ``passed`` says whether the proof held.

    Raises:
        FileExistsError: The folder holds something else, or does once the proof is done.
        OSError: The file cannot be read, or the folder not written.
        ValueError: The file is not weights of any known source, or not those of ``model``; or
            holds values that are not finite, or will not be in the type to store.
    """
    require_replaceable(output)
    state, sha256 = read_foreign(path), sha256_of(path)
    try:
        converted = convert_state(
            state,
            source,
            known_as=source_of_file(path.name, sha256) if source is None else None,
            architecture=None if model is None else model.partition(".")[0],
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    is_detector = converted.backbone is not None and to != "timm"
    target = detector_target(converted) if is_detector else target_for(converted, to)
    stored = _as_stored(target.state_dict, DTYPES[dtype])
    _require_finite(path, state, stored)
    proof = _prove(state, converted, target, stored, dtype)
    report = Report(
        file=str(path),
        output=str(output),
        sha256_in=sha256,
        dtype=dtype,
        proof=proof,
        **_facts(state, converted, target),
    )
    if not report.passed:
        leave_failed_report(output, json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
        return report
    with replaced_whole(output) as folder:
        return _write(folder, report, target, stored)


def _as_stored(state_dict: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of the type asked for, each with memory of its own, as safetensors needs them."""
    return {
        key: value.to(dtype if value.is_floating_point() else value.dtype).clone(
            memory_format=torch.contiguous_format
        )
        for key, value in state_dict.items()
    }


def _require_finite(path: Path, state: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    for key, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"{path}: {key} holds infinities or NaN; get an intact file")
    for key, value in stored.items():
        if not value.isfinite().all():
            kind = str(value.dtype).removeprefix("torch.")
            raise ValueError(
                f"{path}: {key} has values beyond the range of {kind}; "
                f"store a wider type with --dtype"
            )


def _prove(
    state: Mapping[str, Tensor],
    converted: Converted,
    target: Target,
    stored: Mapping[str, Tensor],
    dtype: str,
) -> Proof:
    source = converted.source
    published = as_stock_net(
        {key: tensor for key, tensor in state.items() if key not in converted.dropped}, source.name
    )
    if isinstance(target, DetectorTarget):
        reference, taps = reference_detector(converted, published), target.taps
    else:
        reference = reference_net(converted.architecture, published, source.formula)
        taps = taps_of_reference(converted.architecture)
    return prove(target, reference, taps, stored=stored, dtype=dtype)


def _facts(state: Mapping[str, Tensor], converted: Converted, target: Target) -> dict[str, Any]:
    """What a report says of the net, before anything is run."""
    source = converted.source
    mapped = _mapped(state, converted, target)
    return dict(
        source=source.name,
        title=source.title,
        architecture=converted.architecture,
        model=target.model,
        model_args=target.model_args,
        call=target.call,
        published_formula=source.formula,
        formula=target.formula,
        num_classes=target.num_classes,
        license=converted.license,
        published_card=source.card,
        card=_card_of(source.card, target),
        mapped=mapped,
        kept=tuple(tensor.source for tensor in mapped if tensor.source == tensor.ours),
        dropped=converted.dropped,
        missing=tuple(target.names.get(key, key) for key in converted.missing),
        notes=(*converted.notes, *target.notes),
        versions={name: version(name) for name in ("wszoo", "torch", "timm")},
    )


def _mapped(
    state: Mapping[str, Tensor], converted: Converted, target: Target
) -> tuple[MappedTensor, ...]:
    rows = []
    for theirs, ours in converted.mapped.items():
        final = target.names.get(ours, ours)
        changes = [*filter(None, [converted.changed.get(theirs)]), *target.changes.get(final, ())]
        row = MappedTensor(
            source=theirs,
            ours=final,
            shape=tuple(target.state_dict[final].shape),
            dtype=str(state[theirs].dtype).removeprefix("torch."),
            change="; ".join(changes) or UNCHANGED,
        )
        rows.append(row)
    return tuple(rows)


def _card_of(published: Card, target: Target) -> Card:
    if not target.flips_channels:
        return published
    return replace(published, channels="RGB", mean=published.mean[::-1], std=published.std[::-1])


def _write(folder: Path, report: Report, target: Target, stored: dict[str, Tensor]) -> Report:
    formula = {} if report.formula is None else {"formula": report.formula}
    weights = folder / WEIGHTS_FILE
    metadata = {"format": "pt", "model": report.model, **formula}
    write_whole(weights, weights_bytes(stored, metadata))
    report = replace(report, sha256_out=sha256_of(weights))
    ours = {**formula, "sha256": report.sha256_out, "dtype": _NAMES[report.dtype]}
    if isinstance(target, DetectorTarget):
        _write_detector_config(folder / "config.json", report, ours)
    else:
        _write_config(folder / "config.json", report, target, ours)
    text = json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n"
    (folder / REPORT_FILE).write_text(text, encoding="utf-8")
    if report.model_args.get("preact") is False:
        (folder / "README.md").write_text(inference_card(report), encoding="utf-8")
    elif isinstance(target, DetectorTarget):
        (folder / "README.md").write_text(detector_card(report), encoding="utf-8")
    return report


def _write_config(path: Path, report: Report, target: Target, ours: dict[str, Any]) -> None:
    with torch.device("meta"):
        net = timm.create_model(
            target.model,
            num_classes=target.num_classes,
            pretrained_cfg=_pretrained_cfg(report, target),
            **target.model_args,
        )
    save_config_for_hf(net, str(path), model_config={"wszoo": ours})


def _write_detector_config(path: Path, report: Report, ours: dict[str, Any]) -> None:
    """What it takes to build a detector; timm's format is for classifiers."""
    config = {
        "detector": report.model,
        **report.model_args,
        "num_classes": report.num_classes,
        "mean": report.card.mean,
        "std": report.card.std,
        "wszoo": ours,
    }
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _pretrained_cfg(report: Report, target: Target) -> dict[str, Any]:
    card = report.card
    return dict(
        num_classes=target.num_classes,
        input_size=(3, card.size, card.size),
        pool_size=(card.size // 32, card.size // 32),
        crop_pct=card.size / card.resize,
        crop_mode=card.crop_mode,
        interpolation=card.interpolation,
        mean=card.mean,
        std=card.std,
        first_conv=target.first_conv,
        classifier=target.classifier,
        license=report.license,
    )
