"""The proof's own way from a file to a net, which finds faults in the way of ``wszoo.convert``."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from wszoo.conversion import Report, convert_file, proof
from wszoo.conversion.renaming import as_stock_net
from wszoo.convert import SOURCES, convert_state, layouts, mmdet, restore_state
from wszoo.convert.architecture import Layer

RandomWeights = Callable[..., dict[str, Tensor]]
NETS = {"bcn": "resnet50_bcn_ws", "bit": "resnetv2_50x1_bit", "timm_bit": "resnetv2_50x1_bit"}


def shaped(architecture: str) -> dict[str, Tensor]:
    """Values that tell every tensor and every element of a row from the others."""
    with torch.device("meta"):
        places = timm.create_model(architecture, num_classes=3).state_dict()
    return {
        key: torch.arange(place.numel()).float().view(place.shape).add(number)
        for number, (key, place) in enumerate(places.items())
    }


@pytest.mark.parametrize("source", sorted(SOURCES.keys() - {"mmdet"}))
def test_both_ways_lead_to_the_same_tensors(source: str) -> None:
    ours = shaped(NETS.get(source, "resnet50_gn_ws"))

    renamed = as_stock_net(restore_state(ours, source), source)

    assert renamed.keys() == ours.keys()
    assert all(torch.equal(renamed[key], ours[key]) for key in ours)


def test_keys_of_another_source_are_refused() -> None:
    with pytest.raises(ValueError, match=r"conv1\.weight is no tensor of 'detectron'"):
        as_stock_net({"conv1.weight": torch.zeros(1)}, "detectron")
    two = {"layer1.0.gn1.weight": torch.zeros(1), "layer1.0.bn1.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"two tensors of this file are layer1\.0\.bn1\.weight"):
        as_stock_net(two, "openmmlab")


def exchanged(layout: layouts.Layout, first: str, second: str) -> layouts.Layout:
    """A layout that takes two layers of every block for one another."""
    other = {first: second, second: first}

    def layout_with_fault(layer: Layer) -> Iterator[layouts.Entry]:
        pattern = rf"(?<=\.)({re.escape(first)}|{re.escape(second)})(?=[./_]|$)"
        renamed = re.sub(pattern, lambda match: other[match[1]], layer.name)
        for entry, named in zip(layout(layer), layout(layer._replace(name=renamed)), strict=True):
            yield replace(entry, theirs=named.theirs)

    return layout_with_fault


def proven(path: Path, state: dict[str, Tensor], output: Path, source: str) -> Report:
    if path.suffix == ".npz":
        np.savez(path, allow_pickle=False, **{key: value.numpy() for key, value in state.items()})
    else:
        torch.save(state, path)
    return convert_file(path, output, source=source)


@pytest.mark.parametrize("source", ["jhu", "openmmlab", "tf"])
def test_norms_exchanged_by_the_mapping_fail(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_weights: RandomWeights
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    state = restore_state(random_weights("resnet10_gn_ws", "0.05"), source)
    path = tmp_path / ("file.npz" if source == "tf" else "file.pth")
    assert proven(path, state, tmp_path / "right", source).passed
    name = SOURCES[source].layout
    layout, nets = layouts.LAYOUTS[name]
    monkeypatch.setitem(layouts.LAYOUTS, name, (exchanged(layout, "bn1", "bn2"), nets))

    report = proven(path, state, tmp_path / "wrong", source)

    assert not report.passed
    assert report.proof.worst["float64"] > 1e-3
    assert [file.name for file in (tmp_path / "wrong").iterdir()] == ["report.failed.json"]


def test_kernels_with_height_and_width_exchanged_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_weights: RandomWeights
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    state = restore_state(random_weights("resnet10_gn_ws", "0.05"), "tf")
    turned = layouts.Change(
        "HWIO", lambda k: k.permute(3, 2, 1, 0), lambda k: k.permute(3, 2, 1, 0)
    )
    monkeypatch.setattr(layouts, "HWIO", turned)

    assert not proven(tmp_path / "file.npz", state, tmp_path / "new", "tf").passed


@pytest.mark.parametrize("change", ["_BACKGROUND_FIRST", "_BACKGROUND_BOXES", "_BACKGROUND_MASK"])
def test_a_background_in_the_wrong_place_fails(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    state = detector_of_mmdetection()
    right = getattr(mmdet, change)
    fault: Any = right._replace(to_ours=lambda rows: right.to_ours(rows).flip(0))
    monkeypatch.setattr(mmdet, change, fault)

    report = proven(tmp_path / "file.pth", state, tmp_path / "new", "mmdet")

    assert not report.passed


def detector_of_mmdetection() -> dict[str, Tensor]:
    from wszoo import detection

    net = detection.mask_rcnn(
        "resnet10_gn_ws", num_classes=4, pretrained=False, pyramid_channels=64
    )
    ours = {key: value + 0.1 * torch.randn_like(value) for key, value in net.state_dict().items()}
    return restore_state(ours, "mmdet")


def test_both_ways_lead_to_the_same_detector() -> None:
    state = detector_of_mmdetection()

    renamed = as_stock_net(state, "mmdet")

    ours = convert_state(state).state_dict
    assert renamed.keys() == ours.keys()
    assert all(torch.equal(renamed[key], ours[key]) for key in ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "names"),
    [("bcn", ("bn1", "bn2")), ("detectron", ("bn1", "bn2")), ("bit", ("norm2", "norm3"))],
)
def test_norms_exchanged_in_large_nets_fail(
    source: str,
    names: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    random_weights: RandomWeights,
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    state = restore_state(random_weights(NETS.get(source, "resnet50_gn_ws"), "0.05"), source)
    path = tmp_path / ("file.npz" if source == "bit" else "file.pth")
    name = SOURCES[source].layout
    layout, nets = layouts.LAYOUTS[name]
    monkeypatch.setitem(layouts.LAYOUTS, name, (exchanged(layout, *names), nets))

    assert not proven(path, state, tmp_path / "new", source).passed
