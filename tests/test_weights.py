"""Finding weights, and telling an intact file from everything that passes for one."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import PretrainedCfg

import wszoo.weights
from wszoo.files import sha256_of
from wszoo.layers import FORMULAS
from wszoo.weights import (
    ASSETS,
    WEIGHTS,
    WEIGHTS_FILE,
    Weights,
    check_file,
    find,
    locate,
    read_header,
    read_metadata,
)

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


def test_an_intact_file_passes(tmp_path: Path) -> None:
    path = make_file(tmp_path / WEIGHTS_FILE, formula="bit", folded="false")

    check_file(path)
    check_file(path, sha256=sha256_of(path), dtype="F16")
    header = read_header(path)
    assert set(header) == {"conv1.weight", "fc.bias"}
    assert header["conv1.weight"]["shape"] == [4, 3, 3, 3]
    assert read_metadata(path) == {"formula": "bit", "folded": "false"}


def test_a_file_without_metadata_has_none(tmp_path: Path) -> None:
    assert read_metadata(make_file(tmp_path / WEIGHTS_FILE)) == {}


def test_a_header_of_any_length_is_recognized(tmp_path: Path) -> None:
    # Its length comes first in the file; 128 and 640 look like the first bytes of a pickle.
    first_bytes = set()
    for padding in range(640):
        path = make_file(tmp_path / "padded.safetensors", padding="x" * padding)
        first_bytes.add(path.read_bytes()[:2])
        check_file(path)

    assert b"\x80\x02" in first_bytes


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def flip_a_byte_of_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[10] ^= 0xFF
    path.write_bytes(content)


def cut_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_within_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def keep_the_length_only(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:8])


def append_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def put_html(path: Path) -> None:
    path.write_text("\n <!DOCTYPE html><html><body>Please log in</body></html>")


def put_an_lfs_pointer(path: Path) -> None:
    path.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 22830336\n"
    )


def put_a_zip(path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, path)


def put_a_pickle(path: Path) -> None:
    torch.save(
        {"conv1.weight": torch.zeros(4, 3, 3, 3)}, path, _use_new_zipfile_serialization=False
    )


def put_text(path: Path) -> None:
    path.write_text("Internal server error " * 10)


def put_no_tensors(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2) + b"{}")


def put_a_list(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 8) + b"[1, 2]  ")


def change_the_dtype(path: Path) -> None:
    save_file({key: tensor.float() for key, tensor in load_file(path).items()}, path)


DAMAGES: dict[Callable[[Path], None], str] = {
    flip_a_byte: "damaged or another one; fetch it again",
    flip_a_byte_of_the_header: "damaged safetensors header; fetch it again",
    cut_the_end: "cut short or overlong; fetch it again",
    cut_within_the_header: r"\(60 bytes\) is cut short or not safetensors; fetch it again",
    keep_the_length_only: r"\(8 bytes\) is cut short",
    append_bytes: "cut short or overlong; fetch it again",
    empty: r"\(0 bytes\) is cut short or not safetensors; fetch it again",
    put_html: "a web page .*, not safetensors; fetch the real file",
    put_an_lfs_pointer: "a Git LFS pointer .*clone with git-lfs",
    put_a_zip: "a pickle or zip archive .*convert it, never rename it",
    put_a_pickle: "a pickle or zip archive .*convert it, never rename it",
    put_text: "not safetensors; fetch it again",
    put_no_tensors: "fetch it again",
    put_a_list: "fetch it again",
    change_the_dtype: "stores 2 tensors of F32, its record says F16; fetch it again",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_bad_file_is_refused_in_one_line_that_names_it_and_a_way_out(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(make_file(tmp_path / "toy.e1_toys" / WEIGHTS_FILE))
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path))
    path = locate(record)

    damage(path)

    with pytest.raises(ValueError, match=DAMAGES[damage]) as raised:
        locate(record)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
    assert "fetch" in str(raised.value)


def test_a_changed_byte_in_the_header_passes_or_is_refused_in_one_line(tmp_path: Path) -> None:
    path = make_file(tmp_path / WEIGHTS_FILE, formula="bit")
    content = path.read_bytes()
    length = 8 + struct.unpack("<Q", content[:8])[0]
    messages = []

    for place in range(length):
        for flip in (*(1 << bit for bit in range(8)), 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            try:
                check_file(path, dtype="F16")
                read_metadata(path)
            except ValueError as error:
                messages.append(str(error))

    assert len(messages) > 4 * length
    assert all(text.startswith(str(path)) and "fetch" in text for text in messages)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": 16},
        {"dtype": ["F16"]},
        {"dtype": "F17"},
        {"shape": 3},
        {"shape": {}, "data_offsets": [0, 2]},
        {"shape": [True, 3]},
        {"shape": [-1, -3]},
        {"shape": [4]},
        {"data_offsets": [0]},
        {"data_offsets": [0, "6"]},
        {"data_offsets": [-6, 0]},
        {"data_offsets": [2, 8]},
        {"data_offsets": None},
    ],
    ids=str,
)
def test_a_header_that_contradicts_itself_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    entry = {"dtype": "F16", "shape": [1, 3], "data_offsets": [0, 6]}
    header = json.dumps({"fc.bias": entry | changes}).encode()
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(6))

    with pytest.raises(ValueError, match="damaged safetensors header; fetch it again"):
        check_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*gone"):
        check_file(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="no weights file at"):
        check_file(tmp_path)


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


def test_a_file_in_the_hubs_cache_is_found_without_a_network(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--zoo--toy" / "snapshots" / COMMIT
    record = make_record(make_file(snapshot / WEIGHTS_FILE), hub=f"zoo/toy@{COMMIT}")

    assert locate(record, cache_dir=tmp_path) == snapshot / WEIGHTS_FILE

    flip_a_byte(snapshot / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="damaged or another one"):
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


def test_a_record_is_timms_configuration(tmp_path: Path) -> None:
    path = make_file(tmp_path / WEIGHTS_FILE)
    record = make_record(path, num_classes=200, input_size=(3, 96, 96), crop_pct=1.0)

    cfg = record.pretrained_cfg(first_conv="conv1", classifier="fc")

    assert isinstance(cfg, PretrainedCfg)
    assert (cfg.num_classes, cfg.input_size, cfg.crop_pct) == (200, (3, 96, 96), 1.0)
    assert (cfg.license, cfg.interpolation, cfg.first_conv) == ("CC0-1.0", "bilinear", "conv1")
    assert cfg.file is None and not cfg.has_weights
    on_hub = make_record(path, hub=f"zoo/toy@{COMMIT}").pretrained_cfg()
    assert (on_hub.hf_hub_id, on_hub.hf_hub_filename) == (f"zoo/toy@{COMMIT}", WEIGHTS_FILE)
    packaged = make_record(path, packaged=True).pretrained_cfg()
    assert packaged.file == str(ASSETS / "toy.e1_toys" / WEIGHTS_FILE)


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    record = make_record(make_file(tmp_path / WEIGHTS_FILE), num_classes=3)

    assert record.label_names() == record.label_ids() == ["0", "1", "2"]


# The records themselves


@pytest.mark.parametrize("record", WEIGHTS, ids=lambda record: record.name)
def test_every_record_is_complete(record: Weights) -> None:
    assert record.model in timm.list_models(module="ws_resnet")
    assert record.formula in FORMULAS
    assert len(record.sha256) == 64 and set(record.sha256) <= set("0123456789abcdef")
    assert record.license
    assert len(record.label_names()) == len(record.label_ids()) == record.num_classes
    cfg = timm.get_pretrained_cfg(record.name)
    assert cfg is not None and cfg.num_classes == record.num_classes


def test_no_two_records_share_a_name() -> None:
    assert len({record.name for record in WEIGHTS}) == len(WEIGHTS)


@pytest.mark.parametrize(
    "record", [record for record in WEIGHTS if record.packaged], ids=lambda record: record.name
)
def test_every_packaged_file_is_the_published_one_and_loads(record: Weights) -> None:
    path = locate(record)

    model = timm.create_model(record.name, pretrained=True)

    stored = load_file(path)
    assert stored.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[key].to(tensor.dtype)), key
    other = next(name for name in FORMULAS if name != record.formula)
    with pytest.raises(ValueError, match=f"formula '{record.formula}', not '{other}'"):
        timm.create_model(record.name, pretrained=True, formula=other)
