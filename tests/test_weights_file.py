"""Telling an intact file from everything that passes for one, and writing the same one again."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from wszoo.files import sha256_of
from wszoo.weights_file import (
    WEIGHTS_FILE,
    check_file,
    file_metadata,
    named_code,
    read_header,
    read_metadata,
    recipe_hash,
    weights_bytes,
    with_metadata,
    write_whole,
)


def make_file(path: Path, dtype: torch.dtype = torch.float16, **metadata: str) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "conv1.weight": torch.randn(4, 3, 3, 3, generator=generator).to(dtype),
        "fc.bias": torch.zeros(5, dtype=dtype),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata or None)
    return path


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
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    path = make_file(tmp_path / WEIGHTS_FILE)
    digest = sha256_of(path)
    check_file(path, sha256=digest, dtype="F16")

    damage(path)

    with pytest.raises(ValueError, match=DAMAGES[damage]) as raised:
        check_file(path, sha256=digest, dtype="F16")
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


def test_integers_beside_the_weights_are_no_other_storage_type(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS_FILE
    counter = torch.tensor(7)
    save_file({"bn.weight": torch.ones(3), "bn.num_batches_tracked": counter}, path)

    check_file(path, dtype="F32")
    with pytest.raises(ValueError, match="1 tensors of F32, 1 tensors of I64, its record says F16"):
        check_file(path, dtype="F16")


def test_other_metadata_leaves_every_tensor_as_it_was(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3.0), "a": torch.eye(2).half()}
    content = weights_bytes(tensors, {"format": "pt"})

    for length in range(9):  # of the metadata, whatever padding that takes
        changed = with_metadata(content, {"format": "pt", "code": "c" * length})
        (tmp_path / WEIGHTS_FILE).write_bytes(changed)

        check_file(tmp_path / WEIGHTS_FILE)
        assert read_metadata(tmp_path / WEIGHTS_FILE) == {"format": "pt", "code": "c" * length}
        assert changed[-20:] == content[-20:]  # 12 and 8 bytes
    assert with_metadata(changed, {"format": "pt"}) == content


def test_metadata_tells_of_the_run_and_leaves_out_what_is_unknown() -> None:
    made = file_metadata(settings={"lr": 1, "steps": (2, 3)}, code="0123", model="m", formula=None)

    assert made == {
        "format": "pt",
        "model": "m",
        "recipe_hash": recipe_hash({"steps": [2, 3], "lr": 1}),
        "code": "0123",
    }
    assert recipe_hash({"lr": 2}) != recipe_hash({"lr": 1})


def test_code_is_called_by_its_commit_or_by_the_version() -> None:
    assert named_code("0123-dirty") == "0123-dirty"
    assert named_code("unknown") == f"wszoo {version('wszoo')}"


WRITE = """
import hashlib, torch
from wszoo.weights_file import weights_bytes

tensors = {"b": torch.arange(3.0), "a": torch.ones(2, dtype=torch.int64), "c": torch.eye(2).t()}
metadata = {"tag": "t", "model": "m", "format": "pt", "formula": "jhu"}
print(hashlib.sha256(weights_bytes(tensors, metadata)).hexdigest())
"""


@pytest.mark.slow
def test_the_same_content_has_the_same_digest_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", WRITE], capture_output=True, check=True, text=True
        ).stdout
        for _ in range(2)  # the library's own order comes out twice with a chance of 1 in 24
    }

    assert len(digests) == 1


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS_FILE
    for length in range(1, 10):  # of the metadata, whatever padding that takes
        tensors = {"b": torch.randn(2, 3).t(), "a": torch.tensor(5), "c": torch.zeros(0)}
        metadata = {"tag": "t" * length, "format": "pt"}

        write_whole(path, weights_bytes(tensors, metadata))

        check_file(path, dtype="F32")
        assert read_metadata(path) == metadata
        read = load_file(path)
        assert all(torch.equal(read[key], tensor) for key, tensor in tensors.items())
        assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    (tmp_path / "folder").mkdir()

    for path in (tmp_path / "file" / "x", tmp_path / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(OSError, match=f"cannot write {path}: .*; free some space, or name"):
            write_whole(path, b"content")

    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
