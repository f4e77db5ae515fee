"""What a conversion writes and says of it, through ``convert_file``."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wszoo.conversion import Report, convert_file, files, proof
from wszoo.conversion.proof import Proof
from wszoo.convert import restore_state

RandomWeights = Callable[..., dict[str, Tensor]]
SMALL = "resnet10_gn_ws"


def written(state: dict[str, Tensor], folder: Path, **options: Any) -> Report:
    """Convert these tensors to ``folder / "new"``."""
    path = folder / "file.pth"
    torch.save(state, path)
    return convert_file(path, folder / "new", **options)


@pytest.fixture
def any_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """No forward of large nets; the errors are distinct numbers."""

    def rows(logits: float) -> dict[str, dict[str, float]]:
        return {"64": {"stage 4": 10 * logits, "logits": logits}}

    found = Proof(
        float64=rows(1e-13),
        stored=rows(2e-7),
        float32=rows(3e-6),
        own=1e-6,
        outputs=("logits",),
        tolerance={"float64": 1e-9, "stored": 1e-5, "float32": 5e-5},
    )
    monkeypatch.setattr(files, "prove", lambda *_args, **_options: found)


def changes_of(report: Report) -> dict[str, str]:
    return {row.ours: row.change for row in report.mapped}


@pytest.mark.usefixtures("any_proof")
def test_what_is_written_for_timm_is_described_by_its_own_keys(
    tmp_path: Path, random_weights: RandomWeights
) -> None:
    state = restore_state(random_weights("resnet50_gn_ws", "0.05"), "jhu")
    body = {key.removeprefix("module."): v for key, v in state.items() if ".fc." not in key}

    report = written(body, tmp_path, source="jhu", to="timm")

    assert report.kept == ()
    assert report.missing == ("head.fc.weight", "head.fc.bias")
    changes = changes_of(report)
    assert changes["stem.conv.weight"] == "rescaled from jhu to timm_bit"
    assert changes["stem.norm.weight"] == "as it is"
    card = (tmp_path / "new" / "README.md").read_text()
    assert "- 1.0e-13 in float64" in card  # of the logits, not of the worst stage
    assert "- 2.0e-07 with the kernels" in card and "- 3.0e-06 with these" in card


@pytest.mark.slow
@pytest.mark.usefixtures("any_proof")
def test_a_classifier_made_a_convolution_is_told(
    tmp_path: Path, random_weights: RandomWeights
) -> None:
    state = restore_state(random_weights("resnet50_gn_ws", "0.05"), "jhu_detectron")

    report = written(state, tmp_path, source="jhu_detectron", to="timm")

    changes = changes_of(report)
    assert changes["head.fc.weight"] == "made a 1x1 convolution"
    assert changes["stem.conv.weight"] == "rescaled from jhu to timm_bit; BGR to RGB"


@pytest.mark.usefixtures("any_proof")
def test_all_that_was_done_to_kernels_of_bit_is_told(
    tmp_path: Path, random_weights: RandomWeights
) -> None:
    state = restore_state(random_weights("resnetv2_50x1_bit", "0.05"), "bit")
    arrays = {key: value.numpy() for key, value in state.items()}
    np.savez(tmp_path / "bit.npz", allow_pickle=False, **arrays)

    report = convert_file(tmp_path / "bit.npz", tmp_path / "new")

    changes = changes_of(report)
    assert changes["stem.conv.weight"] == "HWIO to OIHW; rescaled from bit to timm_bit"
    assert changes["head.fc.weight"] == "HWIO to OIHW"
    assert changes["norm.weight"] == "as it is"
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["pretrained_cfg"]["crop_mode"] == "squash"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_file_with_values_that_are_not_finite_is_refused_by_the_tensor(
    value: float, tmp_path: Path, random_weights: RandomWeights
) -> None:
    weights = random_weights(SMALL, "0.05")
    weights["layer1.0.bn1.weight"][0] = value

    with pytest.raises(
        ValueError, match=r"file\.pth: module\.layer1\.0\.bn1\.weight holds infinities or NaN; get"
    ):
        written(restore_state(weights, "jhu"), tmp_path)
    assert not (tmp_path / "new").exists()


def test_values_beyond_half_precision_are_refused_by_the_tensor(
    tmp_path: Path, random_weights: RandomWeights
) -> None:
    weights = random_weights(SMALL, "0.05")
    weights["fc.bias"][0] = 70000.0

    with pytest.raises(ValueError, match=r"fc\.bias has values beyond the range of float16; store"):
        written(restore_state(weights, "jhu"), tmp_path, dtype="fp16")


def test_a_net_that_overflows_in_float32_fails_and_the_report_is_json(
    tmp_path: Path, random_weights: RandomWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    weights = random_weights(SMALL, "0.05")
    weights["layer4.0.bn2.weight"] = torch.full((512,), 3e38)  # each finite; their sums are not
    weights["fc.weight"] = weights["fc.weight"].abs() * 100

    report = written(restore_state(weights, "jhu"), tmp_path)

    assert not report.passed
    assert report.proof.worst["float64"] < 1e-9
    text = (tmp_path / "new" / "report.failed.json").read_text()
    assert "Infinity" not in text and "NaN" not in text
    assert "which is no number: FAILED" in str(report)
    assert "infinite or NaN: float32 error of " in str(report)


def test_tensors_that_share_memory_are_written_apart(
    tmp_path: Path, random_weights: RandomWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    state = restore_state(random_weights(SMALL, "0.05"), "jhu")
    state["module.layer1.0.bn2.weight"] = state["module.layer1.0.bn1.weight"]

    assert written(state, tmp_path).passed


def test_the_same_file_gives_the_same_bytes(
    tmp_path: Path, random_weights: RandomWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    state = restore_state(random_weights(SMALL, "0.05"), "jhu")

    report = written(state, tmp_path)

    content = (tmp_path / "new" / "model.safetensors").read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    assert header.startswith(
        b'{"__metadata__":{"format":"pt","formula":"jhu","model":"resnet10_gn_ws"},'
    )
    assert report.sha256_out == written(state, tmp_path).sha256_out


def test_an_empty_working_directory_is_filled_and_not_exchanged(
    tmp_path: Path, random_weights: RandomWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    torch.save(restore_state(random_weights(SMALL, "0.05"), "jhu"), tmp_path / "file.pth")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    assert convert_file(tmp_path / "file.pth", Path()).passed

    assert sorted(os.listdir()) == ["config.json", "model.safetensors", "report.json"]
