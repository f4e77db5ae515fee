"""Zip archives that hold too much, too little, or something else."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from wszoo.convert import read_foreign


def checkpoint(path: Path) -> dict[str, bytes]:
    """The entries of a good checkpoint."""
    torch.save({"weight": torch.arange(100.0)}, path)
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def named(entries: dict[str, bytes], end: str) -> str:
    return next(name for name in entries if name.endswith(end))


def test_a_checkpoint_packed_by_hand_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "again.pth", checkpoint(tmp_path / "weights.pth"))
    assert read_foreign(path)["weight"].tolist() == list(range(100))


@pytest.mark.parametrize("make", [np.savez_compressed, np.savez])
def test_a_zip_bomb_is_refused_by_what_it_declares(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    make(path, **{f"a{n}": np.zeros(500_000, "f4") for n in range(4)})
    assert make is np.savez or path.stat().st_size < 20_000

    with pytest.raises(ValueError, match=r"bomb\.npz .* over the limit of 1000000; no"):
        read_foreign(path, limit=1_000_000)
    assert len(read_foreign(path, limit=10_000_000)) == 4


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    entries = checkpoint(tmp_path / "weights.pth")
    path = write(tmp_path / "bomb.pth", entries, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="is a compressed archive, which torch.save never writes"):
        read_foreign(path)


def test_an_array_of_objects_is_refused_and_not_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "made by the array",)

    path = tmp_path / "weights.npz"
    array = np.empty(1, dtype=object)
    array[0] = Bomb()
    np.savez(path, a=np.ones(2), b=array)

    with pytest.raises(ValueError, match=r"holds an array 'b\.npy' of object, not of numbers"):
        read_foreign(path)
    assert not (tmp_path / "made by the array").exists()


@pytest.mark.parametrize("dtype", ["U4", "S4", "M8[s]", "c8", [("x", "f4")]])
def test_an_array_of_anything_but_numbers_is_refused(dtype: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", a=np.zeros(2, dtype=dtype))
    with pytest.raises(ValueError, match=r"holds an array 'a\.npy' of .*, not of numbers"):
        read_foreign(tmp_path / "weights.npz")


def array_file(shape: tuple[int, ...], content: bytes) -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": "<f4"})
    return file.getvalue() + content


@pytest.mark.parametrize("shape", [(10**15,), (2**32, 2**32), (3,), (1,)])
def test_an_absurd_shape_is_refused_before_it_is_made(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = write(tmp_path / "weights.npz", {"a.npy": array_file(shape, bytes(8))})
    with pytest.raises(ValueError, match=r"'a\.npy' of shape .*, and holds 8 of it"):
        read_foreign(path)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    content = array_file((2,), bytes(8))
    for damaged in (
        content[:20],
        content.replace(b"(2,)", b"(x,)"),
        b"\x93NUMPY\x09\x00" + content,
    ):
        path = write(tmp_path / "weights.npz", {"a.npy": damaged})
        with pytest.raises(ValueError, match=r"'a\.npy' with a damaged header"):
            read_foreign(path)


def test_a_path_in_an_archive_is_but_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    for name in ("../outside", str(tmp_path / "outside"), "C:\\outside"):
        path = write(folder / "weights.npz", {f"{name}.npy": array_file((2,), bytes(8))})
        assert list(read_foreign(path)) == [name]
    assert [entry.name for entry in tmp_path.iterdir()] == ["inner"]


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", array_file((2,), bytes(8)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", array_file((2,), bytes(8)))
    with pytest.raises(ValueError, match=r"is an archive with two entries 'a\.npy'"):
        read_foreign(path)


def test_two_checkpoints_in_one_are_refused(tmp_path: Path) -> None:
    entries = checkpoint(tmp_path / "weights.pth")
    path = write(tmp_path / "two.pth", entries | {"other/data.pkl": b"\x80\x02}."})
    with pytest.raises(ValueError, match="neither an .npz file nor the state dict of torch.save"):
        read_foreign(path)


@pytest.mark.parametrize("change", ["two", "before", "behind", "two, 32 bits"])
def test_an_archive_with_bytes_around_it_is_refused(change: str, tmp_path: Path) -> None:
    """Python would check the second of two archives, and torch load the first."""
    first, second = (tmp_path / "weights.pth", tmp_path / "changed.pth")
    torch.save({"weight": torch.zeros(3)}, first)
    torch.save({"weight": torch.ones(3)}, second)
    one, other = first.read_bytes(), second.read_bytes()
    content = {
        "two": one + other,
        "before": b"PK\x03\x04" + one,
        "behind": one + bytes(7),
        "two, 32 bits": hand_packed(tmp_path, 0.0) + hand_packed(tmp_path, 1.0),
    }[change]
    first.write_bytes(content)
    with pytest.raises(ValueError, match="has bytes before or behind its archive, or is several"):
        read_foreign(first)


def hand_packed(folder: Path, value: float) -> bytes:
    """A checkpoint with the 32-bit end record."""
    torch.save({"weight": torch.full((3,), value)}, folder / "one.pth")
    with zipfile.ZipFile(folder / "one.pth") as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    return write(folder / "packed.pth", entries).read_bytes()


def test_a_64_bit_end_elsewhere_than_before_the_end_is_refused(tmp_path: Path) -> None:
    """Python takes the record before the locator, torch the one that the locator names."""
    path = tmp_path / "weights.pth"
    checkpoint(path)
    content = bytearray(path.read_bytes())
    assert content[-42:-38] == b"PK\x06\x07"
    content[-34:-26] = (8).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="has bytes before or behind its archive"):
        read_foreign(path)


@pytest.mark.parametrize("name", ["DATA.pkl", "data/0.PKL"])
def test_names_that_differ_only_in_case_are_refused(name: str, tmp_path: Path) -> None:
    entries = checkpoint(tmp_path / "weights.pth")
    root = named(entries, "data.pkl")[: -len("data.pkl")]
    extra = {f"{root}{name}": b"", f"{root}{name.lower()}": entries[f"{root}data.pkl"]}
    path = write(tmp_path / "case.pth", entries | extra)
    with pytest.raises(ValueError, match="entries whose names torch confuses"):
        read_foreign(path)


def test_the_advice_of_torch_to_load_unsafely_is_not_passed_on(tmp_path: Path) -> None:
    entries = checkpoint(tmp_path / "weights.pth")
    entries[named(entries, "data.pkl")] = b"\x80\x02}}b."  # a dict with notes
    path = write(tmp_path / "notes.pth", entries)
    with pytest.raises(pickle.UnpicklingError, match="`weights_only` set to `False` will"):
        torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match="is refused by torch.load, as it holds what") as refusal:
        read_foreign(path)
    assert "weights_only" not in str(refusal.value)


def test_a_storage_shorter_than_declared_is_refused(tmp_path: Path) -> None:
    entries = checkpoint(tmp_path / "weights.pth")
    name = named(entries, "data/0")
    for content, held in ((entries[name][:-4], 396), (entries[name] + bytes(4), 404), (None, 0)):
        changed = {k: v for k, v in entries.items() if k != name}
        changed |= {} if content is None else {name: content}
        with pytest.raises(ValueError, match=f"a storage of 400 bytes and holds {held} of it"):
            read_foreign(write(tmp_path / "short.pth", changed))


def test_torchscript_and_other_archives_are_refused(tmp_path: Path) -> None:
    net = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    net.save(str(tmp_path / "net.pt"))
    write(tmp_path / "words.docx", {"word/document.xml": b"<w/>"})
    for name in ("net.pt", "words.docx"):
        with pytest.raises(ValueError, match="but neither an .npz file nor the state dict of"):
            read_foreign(tmp_path / name)


def test_an_empty_and_an_encrypted_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is an empty archive"):
        read_foreign(write(tmp_path / "empty.npz", {}))
    path = write(tmp_path / "secret.npz", {"a.npy": array_file((2,), bytes(8))})
    content = path.read_bytes().replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
    )
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is an encrypted archive"):
        read_foreign(path)
