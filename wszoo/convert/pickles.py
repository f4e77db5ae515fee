"""What a pickle holds, found out without running any of it.

Every name that a pickle may use is looked up in a table of stand-ins of our own, so reading one
neither imports nor calls what the file asks for, and nothing as large as the file claims is made.
"""

import math
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first object of what torch.save wrote before it used zip
_NUMPY_CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class UnreadableError(ValueError):
    """Why a file cannot be used, as the rest of a sentence that begins with its name."""


@dataclass(frozen=True)
class Storage:
    """The memory behind tensors, as a checkpoint declares it."""

    key: str
    dtype: torch.dtype
    size: int

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass
class Outline:
    """What a checkpoint declares, before any of it is allocated.

    Attributes:
        storages: By key.
        tensor_bytes: Of all tensors together, views counted as if each had memory of its own.
    """

    storages: dict[str, Storage] = field(default_factory=dict)
    tensor_bytes: int = 0


class NumpyType:
    """Stands in for ``numpy.dtype`` while a pickle is read."""

    def __init__(self, code: str, *_flags: Any) -> None:
        if code not in _NUMPY_CODES:
            raise UnreadableError(f"holds an array of {code!r}, not of numbers; it may be objects")
        self.dtype = np.dtype(code)

    def set_state(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class NumpyArray:
    """Stands in for ``numpy.ndarray`` while a pickle is read."""

    def __init__(self, *_arguments: Any) -> None:
        self.tensor: Tensor | None = None

    def set_state(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, is_fortran, raw = state
        self.fill(raw, kind, shape, "F" if is_fortran else "C")

    def fill(self, raw: Any, kind: Any, shape: Any, order: str) -> None:
        if not isinstance(kind, NumpyType) or not isinstance(raw, str | bytes | bytearray):
            raise UnreadableError("holds an array of objects, not of numbers")
        content = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        needed = _count(shape) * kind.dtype.itemsize
        if needed != len(content):
            raise UnreadableError(
                f"declares an array of shape {tuple(shape)}, {needed} bytes, and holds "
                f"{len(content)} bytes of it"
            )
        values = np.frombuffer(content, kind.dtype).reshape(
            shape, order="F" if order == "F" else "C"
        )
        native = values.astype(
            kind.dtype.newbyteorder("="), order="C"
        )  # a copy that can be written
        self.tensor = torch.from_numpy(native)


def _scalar(kind: Any, raw: Any) -> NumpyArray:
    array = NumpyArray()
    array.fill(raw, kind, (), "C")
    return array


def _from_buffer(raw: Any, kind: Any, shape: Any, order: str, *_axes: Any) -> NumpyArray:
    array = NumpyArray()
    array.fill(raw, kind, shape, order)
    return array


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise UnreadableError(f"holds bytes written as {encoding!r}, which numpy never does")
    return text.encode("latin1")


_PLAIN: dict[str, Any] = {"collections.OrderedDict": OrderedDict, "collections.Counter": Counter}
_NUMPY: dict[str, Any] = _PLAIN | {
    "numpy.ndarray": NumpyArray,
    "numpy.dtype": NumpyType,
    "_codecs.encode": _encode,
}
for _core in ("numpy.core", "numpy._core"):  # the older and the newer name of one module
    _NUMPY[f"{_core}.multiarray._reconstruct"] = NumpyArray
    _NUMPY[f"{_core}.multiarray.scalar"] = _scalar
    _NUMPY[f"{_core}.numeric._frombuffer"] = _from_buffer

_STORAGES: dict[str, Any] = {
    f"torch.{name}Storage": getattr(torch, dtype)
    for name, dtype in {
        "Double": "float64",
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
    }.items()
}


class _InertUnpickler(pickle._Unpickler):
    """Python's own unpickler with a table in place of imports.

    The one in C would make its memo as long as a file says, before it looks further.
    """

    def __init__(
        self,
        file: IO[bytes],
        allowed: dict[str, Any],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, encoding="latin1")  # what numpy needs of arrays from Python 2
        self._allowed = allowed
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        if (found := self._allowed.get(f"{module}.{name}")) is None:
            raise UnreadableError(
                f"is a pickle that calls {module}.{name}, which is no tensor and may be code; "
                f"have its publisher save the state dict alone"
            )
        return found

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise UnreadableError("is a pickle that refers to data outside of it")
        return self._persistent(pid)

    def load_build(self) -> None:
        """Hand a state to a stand-in; setting whatever a file names would change our own code."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        instance = self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(instance, NumpyArray | NumpyType):
            instance.set_state(state)
        elif not isinstance(instance, dict):  # of a state dict, torch's notes about versions
            raise UnreadableError(f"is a pickle that sets attributes of {type(instance).__name__}")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
    }


def _load(unpickler: _InertUnpickler) -> Any:
    try:
        return unpickler.load()
    except UnreadableError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UnreadableError(
            f"is cut short or damaged ({type(error).__name__}: {error})"
        ) from error


def _count(shape: Any) -> int:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise UnreadableError(f"declares a tensor of shape {shape!r}")
    return math.prod(shape)


def outline_of(file: IO[bytes]) -> Outline:
    """What the pickle of a checkpoint declares.

    Raises:
        UnreadableError: It holds code, is damaged, or declares a tensor beyond its storage.
    """
    outline = Outline()

    def persistent(pid: Any) -> Storage:
        kind, dtype, key, _device, size = pid[:5]
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise UnreadableError(f"refers to {kind!r} data of an unknown type")
        storage = Storage(str(key), dtype, _count((size,)))
        if outline.storages.setdefault(storage.key, storage) != storage:
            raise UnreadableError(f"declares the storage {key!r} twice, with different sizes")
        return storage

    def rebuild(storage: Storage, offset: int, shape: Any, stride: Any, *_rest: Any) -> None:
        count, _ = _count(shape), _count(stride)
        last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if count > storage.size or (count and _count((offset,)) + last >= storage.size):
            raise UnreadableError(
                f"declares a tensor of shape {tuple(shape)} in a storage of {storage.size} numbers"
            )
        outline.tensor_bytes += count * storage.dtype.itemsize

    allowed = _PLAIN | _STORAGES
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        allowed[f"torch._utils.{name}"] = rebuild
    allowed["torch._utils._rebuild_parameter"] = lambda data, *_rest: data
    allowed["torch.Size"] = tuple
    _load(_InertUnpickler(file, allowed, persistent))
    return outline


def read_pickle(file: IO[bytes]) -> tuple[bool, Any]:
    """The containers and numbers of a pickle, its NumPy arrays as tensors.

    Returns:
        Whether it is the mark of torch 1.5 or older, with ``file`` placed behind it; the content.

    Raises:
        UnreadableError: It holds anything else, or is damaged.
    """
    content = _load(_InertUnpickler(file, _NUMPY))
    return content == _TORCH_MAGIC, _with_tensors(content, depth=3)


def _with_tensors(content: Any, depth: int) -> Any:
    if isinstance(content, NumpyArray):
        return content.tensor
    if isinstance(content, dict) and depth > 0:  # a pickle may hold a dict that holds itself
        return {key: _with_tensors(value, depth - 1) for key, value in content.items()}
    return content


def legacy_outline(file: IO[bytes]) -> Outline:
    """As ``outline_of``, for a file of torch 1.5 or older, placed behind its mark.

    Raises:
        UnreadableError: As there, or it is shorter than what it declares.
    """
    for _ in ("protocol version", "system"):
        _load(_InertUnpickler(file, _PLAIN))
    outline = outline_of(file)
    _load(_InertUnpickler(file, _PLAIN))  # order of the storages
    begin = file.tell()
    held = file.seek(0, 2) - begin
    needed = sum(storage.nbytes + 8 for storage in outline.storages.values())  # 8: its length
    if needed > held:
        raise UnreadableError(
            f"is cut short: it declares {needed} bytes of values, {held} are there"
        )
    return outline
