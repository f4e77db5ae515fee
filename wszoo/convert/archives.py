"""Zip archives with weights: checkpoints of torch.save, and NumPy's .npz."""

import math
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from numpy.lib import format as npy
from torch import Tensor

from wszoo.convert.arrays import UnreadableError
from wszoo.convert.pickles import outline_of

_PICKLE_LIMIT = 100_000_000  # bytes; of the largest net published it is below one million
_END = struct.Struct("<4s4H2LH")  # end of the central directory, and its 64-bit forms
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")


def read_zip(path: Path, limit: int) -> Any:
    """Whatever a zip archive of torch.save or ``numpy.savez`` holds.

    Raises:
        UnreadableError: It is another archive, damaged, unsafe, or over ``limit`` bytes unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive, limit)
            _check_extent(path, archive)
            if all(name.endswith(".npy") for name in entries):
                return {name[: -len(".npy")]: _array(archive, e) for name, e in entries.items()}
            _check_checkpoint(archive, entries, limit)
    except UnreadableError:
        raise
    except Exception as error:  # a damaged archive raises nearly anything
        raise UnreadableError(f"is a damaged archive ({error}); fetch it again") from error
    return load_checkpoint(path, mmap=True)


def load_checkpoint(path: Path, *, mmap: bool) -> Any:
    """What torch.save wrote, its outline having been checked.

    Raises:
        UnreadableError: torch refuses it.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch promises none in particular
        raise UnreadableError(  # its own text may advise to load the file unsafely
            "is refused by torch.load, as it holds what no state dict has; "
            "have its publisher save that alone"
        ) from error


def _entries(archive: zipfile.ZipFile, limit: int) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    repeated = [name for name, count in Counter(i.filename for i in infos).items() if count > 1]
    if repeated:
        raise UnreadableError(f"is an archive with two entries {repeated[0]!r}")
    if not infos:
        raise UnreadableError("is an empty archive")
    if any(info.flag_bits & 1 for info in infos):
        raise UnreadableError("is an encrypted archive")
    unpacked = sum(info.file_size for info in infos)
    if unpacked > limit:
        raise UnreadableError(
            f"unpacks to {unpacked} bytes, over the limit of {limit}; "
            f"no published file of this kind is as large"
        )
    return {info.filename: info for info in infos}


def _check_extent(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse bytes before or behind an archive.

    Python finds an archive behind other bytes, torch one that begins the file: of two archives one
    would be checked and the other one loaded. Layout: APPNOTE.TXT of PKWARE, 4.3.14 to 4.3.16.
    """
    is_one = True
    with path.open("rb") as file:
        end = file.seek(-_END.size, 2)
        mark, _, _, _, _, length, begin, comment = _END.unpack(file.read())
        if end >= _LOCATOR.size + _END64.size:
            file.seek(end - _LOCATOR.size)
            locator_mark, _, end64, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
            if locator_mark == b"PK\x06\x07":  # torch.save always writes the 64-bit records
                end -= _LOCATOR.size + _END64.size
                file.seek(end)
                mark64, *_, length, begin = _END64.unpack(file.read(_END64.size))
                is_one = mark64 == b"PK\x06\x06" and end64 == end
    first = min(info.header_offset for info in archive.infolist())
    is_one = is_one and mark == b"PK\x05\x06" and comment == 0
    if not is_one or first != 0 or begin + length != end:
        raise UnreadableError(
            "has bytes before or behind its archive, or is several in one; fetch it again"
        )


def _check_checkpoint(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], limit: int
) -> None:
    roots = [name[: -len("data.pkl")] for name in entries if name.endswith("data.pkl")]
    root = roots[0] if len(roots) == 1 else None  # of two, torch and we might read different ones
    folded = Counter(name.lower() for name in entries)  # torch finds entries in either case
    if max(folded.values()) > 1 or any(e.filename != e.orig_filename for e in entries.values()):
        raise UnreadableError("is an archive with entries whose names torch confuses")
    if root is None or f"{root}constants.pkl" in entries:
        raise UnreadableError(
            "is a zip archive, but neither an .npz file nor the state dict of torch.save"
        )
    if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
        raise UnreadableError("is a compressed archive, which torch.save never writes")
    if entries[f"{root}data.pkl"].file_size > _PICKLE_LIMIT:
        raise UnreadableError("holds more than 100 MB of names and settings; that is no state dict")
    with archive.open(f"{root}data.pkl") as file:
        outline = outline_of(file)
    if outline.tensor_bytes > limit:
        raise UnreadableError(
            f"declares {outline.tensor_bytes} bytes of tensors, over the limit of {limit}"
        )
    for storage in outline.storages.values():
        entry = entries.get(f"{root}data/{storage.key}")
        held = entry.file_size if entry else 0
        if held != storage.nbytes:
            raise UnreadableError(
                f"declares a storage of {storage.nbytes} bytes and holds {held} of it"
            )


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    """One array; its header is believed only where the entry is as long as it says."""
    name = entry.filename
    with archive.open(entry) as file:
        try:
            version = npy.read_magic(file)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, _is_fortran, dtype = read(file)
        except (ValueError, KeyError) as error:
            raise UnreadableError(f"holds an array {name!r} with a damaged header") from error
        if dtype.kind not in "fiub":
            raise UnreadableError(f"holds an array {name!r} of {dtype}, not of numbers")
        needed, held = math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()
        if min(shape, default=0) < 0 or needed != held:
            raise UnreadableError(
                f"declares an array {name!r} of shape {shape}, {needed} bytes, "
                f"and holds {held} of it"
            )
    with archive.open(entry) as file:
        values = npy.read_array(file, allow_pickle=False)
    return torch.from_numpy(values.astype(dtype.newbyteorder("="), order="C", copy=False))
