"""Files of weights: telling an intact safetensors file from everything that passes for one."""

import contextlib
import hashlib
import json
import math
import os
import struct
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from wszoo.files import flush_to_disk, sha256_of

WEIGHTS_FILE = "model.safetensors"
_HEADER_LIMIT = 100_000_000  # bytes, the format's own
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F16": 2, "BF16": 2, "U16": 2}
_BYTES |= {"I16": 2, "F32": 4, "U32": 4, "I32": 4, "F64": 8, "U64": 8, "I64": 8, "C64": 8}


def check_file(path: Path, *, sha256: str | None = None, dtype: str | None = None) -> None:
    """Make sure that ``path`` is an intact safetensors file, and the one that is meant.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is something else, damaged, or of another storage type or digest.
    """
    header = read_header(path)
    types = Counter(entry["dtype"] for entry in header.values())
    floating = {kind for kind in types if "F" in kind}  # others count batches, as BatchNorm does
    if dtype is not None and floating != {dtype}:
        stored = ", ".join(f"{count} tensors of {kind}" for kind, count in sorted(types.items()))
        raise ValueError(f"{path} stores {stored}, its record says {dtype}; fetch it again")
    if sha256 is not None and (found := sha256_of(path)) != sha256:
        raise ValueError(
            f"{path} has sha256 {found[:12]}…, its record says {sha256[:12]}…: "
            f"the file is damaged or another one; fetch it again"
        )


def read_header(path: Path) -> dict[str, Any]:
    """The tensors a safetensors file declares; metadata is left out.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is not an intact safetensors file; the message says what it looks like.
    """
    return _read_header(path)[0]


def _read_header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
        if (reason := _impostor(head)) is not None:
            raise ValueError(f"{path} is {reason}, not safetensors; fetch the real file")
        length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else 0
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise ValueError(
                f"{path} ({size} bytes) is cut short or not safetensors; fetch it again"
            )
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            if not header or not all(isinstance(text, str) for text in metadata.values()):
                raise ValueError("no tensors, or metadata that is no text")
            end = _end_of_tensors(header)
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} has a damaged safetensors header; fetch it again") from error
    if size != 8 + length + end:
        raise ValueError(
            f"{path} has {size} bytes where its header promises {8 + length + end}: "
            f"cut short or overlong; fetch it again"
        )
    return header, metadata


def _end_of_tensors(header: dict[str, Any]) -> int:
    """Last byte of the values; the tensors must fill all up to there, as the format wants it."""
    end = 0
    for entry in sorted(header.values(), key=lambda entry: tuple(entry["data_offsets"])):
        (begin, stop), shape = entry["data_offsets"], entry["shape"]
        is_sane = isinstance(shape, list) and begin == end
        is_sane &= all(type(number) is int and number >= 0 for number in (*shape, begin, stop))
        if not is_sane or stop - begin != math.prod(shape) * _BYTES[entry["dtype"]]:
            raise ValueError(entry)
        end = stop
    return end


def placeholder(head: bytes) -> str | None:
    """What the first bytes of a file are, if plainly of what stands in for a file."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (clone with git-lfs, or download the file itself)"
    if head.lstrip()[:64].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page (a proxy or a login page answered)"
    return None


def _impostor(head: bytes) -> str | None:
    """What the first bytes of a file are, if plainly not those of safetensors."""
    if head[8:9] == b"{":  # safetensors, whatever the eight bytes of its length look like
        return None
    if head.startswith(b"PK\x03\x04") or head[:1] == b"\x80":
        return "a pickle or zip archive such as torch.save writes (convert it, never rename it)"
    return placeholder(head)


def read_metadata(path: Path) -> dict[str, str]:
    """Free-form metadata of a safetensors file, e.g. ``folded`` or ``formula``."""
    return _read_header(path)[1]


def weights_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file in memory, the same bytes for the same content.

    The library alone writes the metadata in another order in every process, and a digest could not
    be pinned.
    """
    return with_metadata(
        save({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata), metadata
    )


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with other metadata; the tensors stay as they are, byte by byte.

    Args:
        content: An intact file.
        metadata: What its header shall say, in the place of what it says.
    """
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return b"".join((struct.pack("<Q", len(text)), text, memoryview(content)[8 + length :]))


def recipe_hash(settings: Mapping[str, Any]) -> str:
    """Digest of a run's settings, whatever their order."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def named_code(commit: str) -> str:
    """What to call the code of a run: its commit, or the version of wszoo where none is known."""
    return f"wszoo {version('wszoo')}" if commit in ("", "unknown") else commit


def file_metadata(*, settings: Mapping[str, Any], code: str, **facts: str | None) -> dict[str, str]:
    """What the header of a file says of it, for whoever has nothing but the file.

    Args:
        settings: Of the run that made it, as its ``results.json`` or ``config.json`` holds them.
        code: What trained it, as ``named_code`` calls it.
        facts: What else it says, such as ``model`` and ``formula``; None is left out.
    """
    told = {key: value for key, value in facts.items() if value is not None}
    return {"format": "pt", **told, "recipe_hash": recipe_hash(settings), "code": code}


def write_whole(path: Path, content: bytes) -> None:
    """Put a file in place by renaming, so that it is there whole or not at all.

    Raises:
        OSError: ``path`` cannot be written; nothing is left half-written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        flush_to_disk(aside)
        aside.replace(path)
        flush_to_disk(path.parent)
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror}; free some space, or name another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
