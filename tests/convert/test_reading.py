"""Foreign files of every kind, good and bad."""

import pickle
import struct
import tarfile
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wszoo.convert import read_foreign

State = dict[str, Tensor]
Writer = Callable[[State, Path], Any]


def some_weights() -> State:
    return {
        "conv1.weight": torch.randn(4, 3, 3, 3),
        "bn1.weight": torch.randn(4),
        "fc.weight": torch.randn(2, 4),
    }


def write_legacy(state: State, path: Path) -> None:
    torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=False)


def write_zip(state: State, path: Path) -> None:
    torch.save(OrderedDict(state), path)


def write_npz(state: State, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{k: tensor.numpy() for k, tensor in state.items()})  # type: ignore[arg-type]


def write_pickle(state: State, path: Path, protocol: int = 2) -> None:
    blobs = {key: tensor.numpy() for key, tensor in state.items()}
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "NUM_GPUS: 8"}, protocol=protocol))


def write_pickle_of_python_2(state: State, path: Path) -> None:
    """Opcode by opcode what Python 2 and its NumPy wrote, which Detectron's files are."""

    def text(value: str | bytes) -> bytes:
        raw = value.encode() if isinstance(value, str) else value
        return b"T" + struct.pack("<i", len(raw)) + raw

    def array(tensor: Tensor) -> bytes:
        shape = b"(" + b"".join(b"K" + bytes([size]) for size in tensor.shape) + b"t"
        dtype = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNN" + 2 * b"J\xff\xff\xff\xff"
        empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        values = text(tensor.numpy().tobytes())
        return empty + b"(K\x01" + shape + dtype + b"K\x00tb\x89" + values + b"tb"

    blobs = b"".join(text(key) + array(tensor) + b"s" for key, tensor in state.items())
    path.write_bytes(b"\x80\x02}" + text("blobs") + b"}" + blobs + b"s.")


WRITERS: dict[str, Writer] = {
    "torch up to 1.5": write_legacy,
    "torch from 1.6": write_zip,
    "safetensors": save_file,
    "npz": write_npz,
    "pickle of Python 2": write_pickle_of_python_2,
    **{f"pickle, protocol {n}": partial(write_pickle, protocol=n) for n in (2, 3, 4, 5)},
}


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert all(found[key].dtype == tensor.dtype for key, tensor in expected.items())


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_is_recognised_by_content_and_read_whole(kind: str, tmp_path: Path) -> None:
    state = some_weights()
    path = tmp_path / "weights.of_no_known_suffix"
    WRITERS[kind](state, path)

    found = read_foreign(path)

    assert_same(found, state)
    if kind != "safetensors":  # which sorts
        assert list(found) == list(state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "blobs"])
def test_wrapped_weights_are_found_and_optimizers_left_behind(wrapper: str, tmp_path: Path) -> None:
    state = some_weights()
    optimizer = {"state": {0: {"momentum_buffer": torch.randn(4)}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch": 90, "best": 76.3, wrapper: OrderedDict(state), "optimizer": optimizer}
    for is_zip in (True, False):
        torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=is_zip)
        assert_same(read_foreign(tmp_path / "weights.pth"), state)


def test_weights_wrapped_twice_are_found(tmp_path: Path) -> None:
    state = some_weights()
    torch.save({"model": {"state_dict": state}}, tmp_path / "weights.pth")

    assert_same(read_foreign(tmp_path / "weights.pth"), state)


def test_parameters_buffers_and_half_precision_are_read(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).half()
    for is_zip in (True, False):
        for content in (net.state_dict(), dict(net.named_parameters())):
            torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=is_zip)
            found = read_foreign(tmp_path / "net.pth")
            assert_same(found, dict(content))
            assert not any(tensor.requires_grad for tensor in found.values())


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2", "<i8", "|u1"])
def test_arrays_of_any_byte_order_and_type_are_read(dtype: str, tmp_path: Path) -> None:
    array = np.arange(6).astype(dtype).reshape(2, 3)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": array, "b": np.asfortranarray(array)}))
    np.savez(tmp_path / "a.npz", a=array, b=np.asfortranarray(array))

    for name in ("a.pkl", "a.npz"):
        found = read_foreign(tmp_path / name)
        for key in ("a", "b"):
            assert found[key].tolist() == [[0, 1, 2], [3, 4, 5]]
            assert found[key].is_contiguous()
            assert found[key].numpy().dtype == array.dtype.newbyteorder("=")


def test_folded_kernels_are_not_taken_for_raw_ones(tmp_path: Path) -> None:
    path = tmp_path / "folded.safetensors"
    save_file(some_weights(), path, {"folded": "true"})
    with pytest.raises(ValueError, match=r"folded\.safetensors holds folded kernels, .* pass the"):
        read_foreign(path)
    save_file(some_weights(), path, {"folded": "false"})
    assert len(read_foreign(path)) == 3


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*gone\.pth"):
        read_foreign(tmp_path / "gone.pth")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        read_foreign(tmp_path)


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    write_zip(some_weights(), path)

    with pytest.raises(ValueError, match=r"weights\.pth has \d+ bytes, over the limit of 100;"):
        read_foreign(path, limit=100)


OTHER_FILES = {
    "is empty": b"",
    "is a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "is a web page": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
    "is a tar or gzip archive": b"\x1f\x8b\x08" + bytes(20),
    "is no weights file": b"TFL3 and whatever follows",
}


@pytest.mark.parametrize("reason", OTHER_FILES)
def test_what_is_no_weights_file_is_called_what_it_is(reason: str, tmp_path: Path) -> None:
    path = tmp_path / "R-50-GN-WS.pth.tar"
    path.write_bytes(OTHER_FILES[reason])

    with pytest.raises(ValueError, match=rf"R-50-GN-WS\.pth\.tar {reason}"):
        read_foreign(path)


def test_a_tar_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    write_zip(some_weights(), tmp_path / "inner.pth")
    with tarfile.open(tmp_path / "outer.tar", "w") as archive:
        archive.add(tmp_path / "inner.pth", "inner.pth")

    with pytest.raises(ValueError, match="is a tar or gzip archive; unpack it first"):
        read_foreign(tmp_path / "outer.tar")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused_in_one_line(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    WRITERS[kind](some_weights(), path)
    content = path.read_bytes()
    path.write_bytes(content[: max(4, int(share * len(content)))])

    with pytest.raises(ValueError, match=r"weights ") as refusal:
        read_foreign(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_damaged_file_never_fails_in_another_way(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    WRITERS[kind](some_weights(), path)
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), max(1, len(content) // 40)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found = read_foreign(path)
        except ValueError:
            refused += 1
        else:
            assert all(isinstance(tensor, Tensor) for tensor in found.values())
    assert refused > 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "holds no state dict"),
        ([torch.ones(1)], "holds no state dict"),
        ({"a": torch.ones(1), "lr": 0.1}, "holds float under 'lr'"),
        ({1: torch.ones(1)}, "holds Tensor under 1"),
        (torch.ones(1), "holds no state dict"),
    ],
)
def test_what_holds_more_or_less_than_tensors_is_refused(
    content: Any, reason: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "weights.pth")

    with pytest.raises(ValueError, match=reason):
        read_foreign(tmp_path / "weights.pth")


def test_a_memo_of_absurd_length_is_not_made(tmp_path: Path) -> None:
    """It takes 2**31 places, and the unpickler in C would fill 32 GB."""
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")

    started = time.perf_counter()
    with pytest.raises(ValueError, match="holds no state dict"):
        read_foreign(path)
    assert time.perf_counter() - started < 5
