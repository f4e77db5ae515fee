"""Pickles that would run code, or take memory that they have no right to."""

import pickle
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wszoo.convert import read_foreign


class Bomb:
    """Makes a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


class Call:
    """Calls ``function`` with ``arguments`` when unpickled."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def write_bomb(path: Path, kind: str, bomb: Any) -> None:
    content = {"state_dict": OrderedDict(weight=torch.ones(2)), "meta": bomb}
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"blobs": {"a": np.ones(2)}, "meta": bomb}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch from 1.6")


KINDS = ["pickle", "torch up to 1.5", "torch from 1.6"]


@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_pickle_is_named_and_never_run(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "made by the pickle"
    path = tmp_path / "weights.pth"
    write_bomb(path, kind, Bomb(target))

    with pytest.raises(ValueError, match=r"weights\.pth is a pickle that calls \S+, .* may be cod"):
        read_foreign(path)
    assert not target.exists()
    if kind != "pickle":  # the bomb works: whoever loads it otherwise is hit
        torch.load(path, weights_only=False)
        assert target.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "function", [eval, getattr, torch.load, torch.jit.load, np.load, __import__, torch.hub.load]
)
def test_no_function_but_those_that_make_tensors_is_called(
    function: Any, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    write_bomb(path, kind, Call(function, "1"))

    with pytest.raises(ValueError, match="is a pickle that calls"):
        read_foreign(path)


def test_a_pickle_cannot_change_what_stands_in_for_its_classes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02cnumpy\nndarray\n(N}U\x06tensorNstb.")
    with pytest.raises(ValueError, match="is a pickle that sets attributes of type"):
        read_foreign(path)


def test_a_pickle_of_arrays_cannot_refer_to_files(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02U\x0b/etc/passwdQ.")
    with pytest.raises(ValueError, match="refers to data outside of it"):
        read_foreign(path)


def test_an_array_of_objects_in_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"a": np.array([{}, None], dtype=object)}))
    with pytest.raises(ValueError, match="holds an array of 'O8', not of numbers"):
        read_foreign(path)


def test_an_array_of_records_in_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"a": np.zeros(2, dtype=[("x", "f4"), ("y", "f4")])}))
    with pytest.raises(ValueError, match="holds an array of 'V8', not of numbers"):
        read_foreign(path)


def test_an_absurd_shape_in_a_pickle_is_refused_before_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    content = pickle.dumps({"a": np.ones((3, 77), dtype="f4")}, protocol=2)
    assert content.count(b"K\x03KM\x86") == 1
    many = b"J" + struct.pack("<i", 2**31 - 1)
    path.write_bytes(content.replace(b"K\x03KM\x86", many + many + b"\x86"))

    with pytest.raises(ValueError, match=r"shape \(2147483647, 2147483647\), .* holds 924 bytes"):
        read_foreign(path)


def test_a_dict_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["blobs"] = content
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="holds dict under 'blobs'"):
        read_foreign(tmp_path / "weights.pkl")


def test_arrays_that_share_one_buffer_are_counted_each(tmp_path: Path) -> None:
    reduced: Any = np.ones(1).__reduce__()
    state = (1, (25_000,), np.dtype("f4"), False, bytes(100_000))
    arrays = {str(n): Call(reduced[0], *reduced[1], state=state) for n in range(20)}
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    assert path.stat().st_size < 200_000

    assert len(read_foreign(path, limit=2_000_000)) == 20
    with pytest.raises(ValueError, match="unpacks to 2000000 bytes, over the limit of 1999999;"):
        read_foreign(path, limit=1_999_999)


def test_bytes_that_are_encoded_again_and_again_take_no_memory(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<i", 1_000_000) + bytes(1_000_000)
    encode = b"c_codecs\nencode\nq\x00h\x00" + text + b"q\x01U\x06latin1q\x02\x86R"
    again = b"h\x00h\x01h\x02\x86R"
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02]" + b"(" + encode + 500 * again + b"e.")

    assert peak_of_refusal(path, "holds no state dict") < 10_000_000


def test_dicts_that_refer_to_one_another_are_not_copied(tmp_path: Path) -> None:
    inner: dict[Any, Any] = dict.fromkeys(range(300))
    middle = dict.fromkeys(range(300), inner)
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({str(n): middle for n in range(100)}, protocol=2))

    assert peak_of_refusal(path, "holds dict under '0'") < 5_000_000


def test_a_pickle_of_too_many_steps_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02" + b"}" * 1_000_000 + b".")

    with pytest.raises(ValueError, match="of more than 1000000 steps, which no state dict takes"):
        read_foreign(path)


@pytest.mark.parametrize("name", [b"OrderedDict", b"Counter"])
def test_a_dict_copied_over_and_over_is_refused(name: bytes, tmp_path: Path) -> None:
    entries = b"".join(b"K" + bytes([n]) + b"N" for n in range(200))
    many = b"".join(b"c" + b"collections\n" + name + b"\nh\x00\x85R" for _ in range(6000))
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02](}q\x00(" + entries + b"u" + many + b"e.")

    with pytest.raises(ValueError, match="is a pickle that copies its content over and over"):
        read_foreign(path)


@pytest.mark.parametrize(("before", "behind"), [(b"}", b"Ns"), (b"}(", b"Nu")])
def test_a_key_of_nested_tuples_is_refused_and_not_hashed(
    before: bytes, behind: bytes, tmp_path: Path
) -> None:
    """To hash 60 levels of pairs takes 2**60 steps."""
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02" + before + b"K\x01" + b"2\x86" * 60 + behind + b".")

    with pytest.raises(ValueError, match="is a pickle with tuple as key of a dict"):
        read_foreign(path)


def test_a_nested_value_is_not_spelt_out_in_a_message(tmp_path: Path) -> None:
    """60 levels of pairs are 2**60 words."""
    nested = b"K\x01" + b"2\x86" * 60
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02cnumpy\ndtype\n" + nested + b"\x85R.")

    with pytest.raises(ValueError, match="holds an array of tuple, not of numbers"):
        read_foreign(path)


def test_a_byte_array_longer_than_its_file_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 300_000_000) + b"N.")

    with pytest.raises(ValueError, match="is cut short or damaged"):
        read_foreign(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"cnumpy\nndarray\n)\x81", "is a pickle that makes objects without a call"),
        (b"(cnumpy\nndarray\no", "is a pickle that makes objects without a call"),
        (b"\x8f", "is a pickle with EMPTY_SET, which no state dict has"),
        (b"}U\x01acnumpy\nndarray\n)Rs", "holds an array without values"),
        (b"ccollections\nCounter\nU\x02ab\x85R", "is a pickle that counts str"),
        (b"ccollections\nCounter\n]R", "is a pickle that calls with list"),
    ],
)
def test_an_object_made_in_an_unusual_way_is_refused(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02" + content + b".")
    with pytest.raises(ValueError, match=reason):
        read_foreign(path)


def peak_of_refusal(path: Path, reason: str) -> int:
    """Bytes that Python took at most until it refused a file."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=reason):
            read_foreign(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class _Declares:
    """A tensor that claims to lie in storage ``key`` of ``size`` numbers."""

    def __init__(self, shape: Any, size: int, stride: Any = (1,), key: str = "0") -> None:
        self.shape, self.size, self.stride, self.key = shape, size, stride, key

    def __reduce__(self) -> Any:
        rebuild = torch._utils._rebuild_tensor_v2
        storage = _Storage(self.key, self.size)
        return rebuild, (storage, 0, self.shape, self.stride, False, OrderedDict())


class _Storage:
    def __init__(self, key: str, size: int) -> None:
        self.key, self.size = key, size


class _Pickler(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        if not isinstance(thing, _Storage):
            return None
        return "storage", torch.FloatStorage, thing.key, "cpu", thing.size, None


def write_legacy(path: Path, declared: Any, storages: dict[str, torch.Tensor]) -> None:
    """The layout of torch up to 1.5, with whatever it declares."""
    with path.open("wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(part, file, protocol=2)
        _Pickler(file, protocol=2).dump(declared)
        pickle.dump(sorted(storages), file, protocol=2)
        for key in sorted(storages):
            file.write(struct.pack("<q", len(storages[key])) + storages[key].numpy().tobytes())


def test_the_old_format_written_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    write_legacy(path, {"a": _Declares((4,), 4)}, {"0": torch.arange(4.0)})

    assert read_foreign(path)["a"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (_Declares((2**50,), 2**50), "is cut short: it declares"),
        (_Declares((2**50,), 4), r"shape \(1125899906842624,\) in a storage of 4 numbers"),
        (_Declares((2**50,), 4, stride=(0,)), r"shape \(1125899906842624,\) in a storage of 4"),
        (_Declares((2, 2), 4, stride=(4, 1)), r"shape \(2, 2\) in a storage of 4 numbers"),
        (_Declares((-1,), 4), r"declares a tensor of shape \(-1,\)"),
        (_Declares((1.5,), 4), r"declares a tensor of shape \(1.5,\)"),
        (_Declares((4,), 4, stride=(-1,)), r"declares a tensor of shape \(-1,\)"),
        (_Declares((4,), -4), r"declares a tensor of shape \(-4,\)"),
    ],
)
def test_an_absurd_shape_in_the_old_format_is_refused(
    declared: Any, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    write_legacy(path, {"a": declared}, {"0": torch.arange(4.0)})

    with pytest.raises(ValueError, match=reason):
        read_foreign(path)


def test_a_storage_declared_with_two_sizes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    declared = {"a": _Declares((4,), 4), "b": _Declares((2**50,), 2**50)}
    write_legacy(path, declared, {"0": torch.arange(4.0)})

    with pytest.raises(ValueError, match="declares the storage '0' twice"):
        read_foreign(path)


def test_many_views_of_little_memory_count_as_what_they_unfold_to(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    views = {str(n): view for n, view in enumerate(torch.ones(1000).expand(100, 1000))}
    for is_zip in (True, False):
        torch.save(views, path, _use_new_zipfile_serialization=is_zip)
        assert len(read_foreign(path)) == 100
        with pytest.raises(ValueError, match="declares 400000 bytes of tensors, over the limit"):
            read_foreign(path, limit=100_000)
