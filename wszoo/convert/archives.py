"""Zip archives with weights: checkpoints of torch.save, and NumPy's .npz."""

import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from numpy.lib import format as npy
from torch import Tensor

from wszoo.convert.pickles import UnreadableError, outline_of

_PICKLE_LIMIT = 100_000_000  # bytes; of the largest net published it is below one million


def read_zip(path: Path, limit: int) -> Any:
    """Whatever a zip archive of torch.save or ``numpy.savez`` holds.

    Raises:
        UnreadableError: It is another archive, damaged, unsafe, or over ``limit`` bytes unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive, limit)
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
        reason = str(error).strip().split("\n")[0]
        raise UnreadableError(f"is refused by torch.load: {reason}") from error


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
            f"pass limit= if that is what you expect"
        )
    return {info.filename: info for info in infos}


def _check_checkpoint(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], limit: int
) -> None:
    roots = [name[: -len("data.pkl")] for name in entries if name.endswith("data.pkl")]
    root = roots[0] if len(roots) == 1 else None  # of two, torch and we might read different ones
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
