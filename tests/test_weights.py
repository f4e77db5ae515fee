"""Finding records and their files."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import wszoo.weights
from tests.hub_server import HubServer
from wszoo.files import sha256_of
from wszoo.weights import WEIGHTS_FILE, Weights, download, find, locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_file(path: Path, dtype: torch.dtype = torch.float16, **metadata: str) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "conv1.weight": torch.randn(4, 3, 3, 3, generator=generator).to(dtype),
        "fc.bias": torch.zeros(5, dtype=dtype),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata or None)
    return path


def make_record(path: Path, **fields: Any) -> Weights:
    fields = {"model": "toy", "tag": "e1_toys", "license": "CC0-1.0"} | fields
    return Weights(sha256=sha256_of(path), **fields)


def test_the_folder_in_the_environment_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(
        make_file(tmp_path / "toy.e1_toys" / WEIGHTS_FILE), packaged=True, hub=f"zoo/toy@{COMMIT}"
    )

    with pytest.raises(FileNotFoundError, match="no weights file at"):  # none is packaged
        locate(record)
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path))
    assert locate(record) == tmp_path / "toy.e1_toys" / WEIGHTS_FILE


@pytest.mark.parametrize(
    ("below", "told"),
    [
        ("gone", r"WSZOO_WEIGHTS='.*gone' is no folder; it is ignored, unset or mend it"),
        (
            "test_resnet_gn_ws.e3_tin200",
            r"holds model.safetensors itself; it is ignored, set it to the folder above, '.*'\Z",
        ),
        ("", None),
    ],
)
def test_a_folder_in_the_environment_that_can_hold_nothing_is_warned_of_once(
    below: str,
    told: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = find("test_resnet_gn_ws")
    packaged = locate(record)
    make_file(tmp_path / record.name / WEIGHTS_FILE)
    if not below:
        (tmp_path / record.name / WEIGHTS_FILE).unlink()  # one that holds other weights is fine
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path / below))

    assert locate(record) == locate(record) == packaged

    warnings = [line.getMessage() for line in caplog.records]
    assert len(warnings) == bool(told)
    assert told is None or re.search(told, warnings[0])


def test_a_record_in_the_repository_only_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(make_file(tmp_path / WEIGHTS_FILE))

    message = (
        "'toy.e1_toys' are in the repository only; set WSZOO_WEIGHTS to its folder model_cards"
    )
    with pytest.raises(FileNotFoundError, match=message):
        locate(record)
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"does not hold toy.e1_toys/model.safetensors"):
        locate(record)


def test_a_file_in_the_hubs_cache_is_found_without_a_network(
    tmp_path: Path, hub: HubServer
) -> None:
    snapshot = tmp_path / "models--zoo--toy" / "snapshots" / COMMIT
    record = make_record(make_file(snapshot / WEIGHTS_FILE), hub=f"zoo/toy@{COMMIT}")

    assert locate(record, cache_dir=tmp_path) == snapshot / WEIGHTS_FILE
    assert hub.requests == []

    make_file(snapshot / WEIGHTS_FILE, other="file")
    message = "damaged or another one; fetching it a second time failed: there is no repository"
    with pytest.raises(ValueError, match=message):
        locate(record, cache_dir=tmp_path)


def test_records_are_found_by_name_and_the_first_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_file(tmp_path / WEIGHTS_FILE)
    toy, fine, other = (
        make_record(path),
        make_record(path, tag="e9_toys"),
        make_record(path, model="top"),
    )
    monkeypatch.setattr(wszoo.weights, "WEIGHTS", (toy, fine, other))

    assert find("toy") is toy and find("toy.e1_toys") is toy
    assert find("toy.e9_toys") is fine and find("top") is other
    assert fine.name == "toy.e9_toys"
    with pytest.raises(
        ValueError, match="no weights for model 'tow'; models with weights: toy, top"
    ):
        find("tow.e1_toys")
    with pytest.raises(ValueError, match="no weights tagged 'e2_toys'; its tags: e1_toys, e9_toys"):
        find("toy.e2_toys")


def test_weights_are_copied_to_where_the_environment_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = find("test_resnet_gn_ws")

    path = download(record, tmp_path / "new")
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path / "new"))

    assert locate(record) == path == tmp_path / "new" / record.name / WEIGHTS_FILE
    assert download(record, tmp_path / "new") == path, "once more, onto itself"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot make .*file/test_res.*; name another folder"):
        download(record, tmp_path / "file")
