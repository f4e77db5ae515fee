"""Foreign weights files, told apart by content and read without running anything in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from wszoo.convert.archives import load_checkpoint, read_zip
from wszoo.convert.arrays import NumpyArray, UnreadableError, shown
from wszoo.convert.pickles import legacy_outline, read_pickle

LIMIT = 2**32  # bytes; the largest net of all sources, BiT R152x4 with 21843 classes, takes 3.8e9
_WRAPPERS = ("state_dict", "model", "blobs")  # mmdetection and training loops, BiT, Detectron


def read_foreign(path: Path, *, limit: int = LIMIT) -> dict[str, Tensor]:
    """Read the weights in a file of torch.save, safetensors, NumPy (.npz) or Detectron (.pkl).

    What kind of file it is shows in its content, whatever its name. Code in a file is never run,
    its sizes are checked before memory is taken, and no path in it is used. Of a checkpoint that
    wraps its weights only those are returned; optimizers and settings stay behind.

    Args:
        path: The file.
        limit: Bytes that it may have, packed or unpacked.

    Returns:
        Tensors on the CPU, under the keys and in the order of the file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is none of these kinds, holds code or anything but tensors, is damaged, or
            is over the limit.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    try:
        return _weights_in(_content(path, limit), limit)
    except UnreadableError as error:
        raise ValueError(f"{path} {error}") from error


def _content(path: Path, limit: int) -> Any:
    size = path.stat().st_size
    if size == 0:
        raise UnreadableError("is empty; fetch it again")
    if size > limit:
        raise UnreadableError(
            f"has {size} bytes, over the limit of {limit}; "
            f"no published file of this kind is as large"
        )
    with path.open("rb") as file:
        head = file.read(512)
    if head[8:9] == b"{":  # first of all, since any byte may come before it
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        return read_zip(path, limit)
    if head.startswith(b"\x80"):
        return _read_pickle(path, limit)
    raise UnreadableError(_what_it_is(head))


def _what_it_is(head: bytes) -> str:
    start = head.lstrip()[:64].lower()
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer; clone with git-lfs, or download the file itself"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, which a proxy or a login page answered; fetch the file itself"
    if head[257:262] == b"ustar" or head.startswith(b"\x1f\x8b"):
        return "is a tar or gzip archive; unpack it first"
    return "is no weights file: neither torch.save, safetensors, .npz nor a Detectron pickle"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("folded") == "true":
                raise UnreadableError(
                    "holds folded kernels, which no longer say what they were before; "
                    "pass the weights that were folded"
                )
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise UnreadableError(f"is damaged safetensors ({error}); fetch it again") from error


def _read_pickle(path: Path, limit: int) -> Any:
    with path.open("rb") as file:
        is_legacy, content = read_pickle(file)
        if not is_legacy:
            return content
        outline = legacy_outline(file)
    if outline.tensor_bytes > limit:
        raise UnreadableError(
            f"declares {outline.tensor_bytes} bytes of tensors, over the limit of {limit}"
        )
    return load_checkpoint(path, mmap=False)  # the old format cannot be mapped


def _weights_in(content: Any, limit: int) -> dict[str, Tensor]:
    for _ in range(2):  # {"model": {"state_dict": ...}} is seen, too
        if isinstance(content, Mapping):
            inner = (content[w] for w in _WRAPPERS if isinstance(content.get(w), Mapping))
            content = next(inner, content)
    if not isinstance(content, Mapping) or not content:
        raise UnreadableError("holds no state dict; save that alone")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor | NumpyArray):
            kind = "array" if isinstance(value, NumpyArray) else type(value).__name__
            raise UnreadableError(
                f"holds {kind} under {shown(key)}, where a state dict has tensors"
            )
    needed = sum(value.nbytes for value in content.values() if isinstance(value, NumpyArray))
    if needed > limit:
        raise UnreadableError(
            f"unpacks to {needed} bytes, over the limit of {limit}; "
            f"no published file of this kind is as large"
        )
    return {
        key: value.to_tensor() if isinstance(value, NumpyArray) else value.detach()
        for key, value in content.items()
    }
