"""Detectors, written and proven against torchvision's own with GroupNorm."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from wszoo import detection
from wszoo.conversion import convert_file, proof
from wszoo.conversion.detectors import detector_target, reference_detector
from wszoo.conversion.proof import Proof, prove
from wszoo.convert import SOURCES, Converted, convert_state, restore_state

OURS: dict[str, Callable[..., torch.nn.Module]] = {
    "faster_rcnn": detection.faster_rcnn,
    "mask_rcnn": detection.mask_rcnn,
}


def published(kind: str) -> dict[str, Tensor]:
    """A small detector in mmdetection's layout, with random weights."""
    model = OURS[kind]("resnet10_gn_ws", num_classes=4, pretrained=False, pyramid_channels=64)
    for parameter in model.parameters():
        spread = 0.2 if parameter.ndim == 1 else 0.1 * parameter.std()
        parameter.data.add_(spread * torch.randn_like(parameter))
    ours = model.state_dict()
    # mmdetection knows no boxes and masks of the background; ours does not use them.
    heads = "roi_heads."
    for key, rows in (("box_predictor.bbox_pred", 4), ("mask_predictor.mask_fcn_logits", 1)):
        for kind_of in ("weight", "bias"):
            if (name := f"{heads}{key}.{kind_of}") in ours:
                ours[name][:rows] = 0
    return restore_state(ours, "mmdet")


def proof_of(converted: Converted, truth: Converted | None = None) -> Proof:
    target = detector_target(converted)
    truth = truth or converted
    reference = reference_detector(truth, truth.state_dict)
    stored = target.state_dict
    return prove(target, reference, target.taps, stored=stored, dtype="fp32")


@pytest.fixture(autouse=True)
def one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "PIXELS", (97,))


@pytest.mark.parametrize("kind", OURS)
def test_every_part_of_a_detector_is_proven(kind: str) -> None:
    result = proof_of(convert_state(published(kind)))

    outputs = {"objectness", "proposals", "classes", "boxes"}
    outputs |= {"masks"} if kind == "mask_rcnn" else set()
    below = {"stem", *(f"{part} {i}" for part in ("stage", "pyramid") for i in range(1, 5))}
    assert set(result.float64["97"]) == below | outputs
    assert result.worst["float64"] < 1e-12
    assert result.passed


def test_exchanged_kernels_of_a_head_fail_there_alone() -> None:
    truth = convert_state(published("mask_rcnn"))
    first, second = (f"roi_heads.mask_head.{i}.0.weight" for i in (0, 1))
    weights = truth.state_dict
    changed = {**weights, first: weights[second], second: weights[first]}

    result = proof_of(replace(truth, state_dict=changed), truth)

    errors = result.float64["97"]
    assert errors.pop("masks") > 1e-3
    assert max(errors.values()) < 1e-12
    assert not result.passed


@pytest.mark.parametrize("formula", ["tf", "timm", "bcn"])
def test_another_formula_fails(formula: str) -> None:
    truth = convert_state(published("faster_rcnn"))
    small = {k: v * 1e-2 if v.ndim == 4 else v for k, v in truth.state_dict.items()}
    truth = replace(truth, state_dict=small)

    other = replace(truth, source=replace(SOURCES["mmdet"], formula=formula))

    assert proof_of(truth).passed
    assert not proof_of(truth, other).passed


def test_parts_that_are_missing_are_named_and_the_rest_is_proven() -> None:
    state = published("faster_rcnn")
    head = {key: value for key, value in state.items() if "bbox_head.fc_reg" in key}
    agnostic = {key: value[:4] for key, value in head.items()}  # one box for all classes

    converted = convert_state({**state, **agnostic})
    result = proof_of(converted)

    assert "roi_heads.box_predictor.bbox_pred.weight" in converted.missing
    assert {"objectness", "proposals"} < set(result.float64["97"])
    assert not {"classes", "boxes"} & set(result.float64["97"])
    assert result.passed


def test_another_pyramid_is_refused() -> None:
    state = published("faster_rcnn")
    del state["neck.fpn_convs.3.gn.bias"]

    with pytest.raises(ValueError, match=r"stand on another pyramid than ours: .*neck\.fpn_convs"):
        detector_target(convert_state(state))


def test_a_detector_is_written_with_what_it_takes_to_load_it(tmp_path: Path) -> None:
    torch.save({"state_dict": published("mask_rcnn")}, tmp_path / "mask_rcnn.pth")

    report = convert_file(tmp_path / "mask_rcnn.pth", tmp_path / "new")

    assert report.passed and report.source == "mmdet"
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["detector"] == "mask_rcnn"
    assert config["wszoo"]["formula"] == "jhu"
    expected = (
        "wszoo.detection.mask_rcnn('resnet10_gn_ws', pyramid_channels=64, num_classes=4, "
        "pretrained=False)"
    )
    assert report.call == expected
    assert expected in (tmp_path / "new" / "README.md").read_text()
    model = OURS[config["detector"]](
        config["backbone"],
        pyramid_channels=config["pyramid_channels"],
        num_classes=config["num_classes"],
        pretrained=False,
    )
    model.load_state_dict(load_file(tmp_path / "new" / "model.safetensors"))
    with pytest.raises(ValueError, match="timm alone has no net for a 'mask_rcnn'"):
        convert_file(tmp_path / "mask_rcnn.pth", tmp_path / "other", to="timm")
