"""What a pickle holds, found out without running any of it.

Every name that a pickle may use is looked up in a table of stand-ins of our own, so reading one
neither imports nor calls what the file asks for, and nothing as large as the file claims is made.
A few bytes may refer to one object many times, so nothing here walks or copies what is nested.
"""

import pickle
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar

import torch

from wszoo.convert.arrays import (
    NumpyArray,
    NumpyType,
    UnreadableError,
    count_of,
    encode_later,
    from_buffer,
    scalar,
    shown,
)

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first object of what torch.save wrote before it used zip
_MOST_STEPS = 1_000_000  # of one pickle; Mask R-CNN's, its optimizer included, takes 20 000
_NEVER_WRITTEN = {  # of what a state dict has: sets, outside memory, other tables of names
    *("EXT1", "EXT2", "EXT4", "DICT", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
    *("NEXT_BUFFER", "READONLY_BUFFER"),
}


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


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    made = OrderedDict(pairs if isinstance(pairs, dict) else ())
    for key, value in () if isinstance(pairs, dict) else pairs:
        made[_checked_key(key)] = value
    return made


def _counter(counts: Any = None) -> Counter[Any]:
    if not isinstance(counts, dict | None):
        raise UnreadableError(f"is a pickle that counts {type(counts).__name__}")
    return Counter(counts)


def _size(sizes: Any) -> tuple[int, ...]:
    count_of(sizes)
    return tuple(sizes)


def _checked_key(key: Any) -> Any:
    """A key of a dict; to hash nested tuples may take for ever."""
    parts = key if isinstance(key, tuple) and len(key) <= 8 else (key,)
    for part in parts:
        is_small = isinstance(part, int) and abs(part) < 2**64
        if not is_small and not isinstance(part, str | bytes | float | None):
            raise UnreadableError(
                f"is a pickle with {type(part).__name__} as key of a dict, which no state dict has"
            )
    return key


_PLAIN: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
}
_NUMPY: dict[str, Any] = _PLAIN | {
    "numpy.ndarray": NumpyArray,
    "numpy.dtype": NumpyType,
    "_codecs.encode": encode_later,
}
for _core in ("numpy.core", "numpy._core"):  # the older and the newer name of one module
    _NUMPY[f"{_core}.multiarray._reconstruct"] = NumpyArray
    _NUMPY[f"{_core}.multiarray.scalar"] = scalar
    _NUMPY[f"{_core}.numeric._frombuffer"] = from_buffer

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


_INSTANCES = (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX)


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
        self._copied = 0

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

    def load_reduce(self) -> None:
        """Count what is handed over: a call of a few bytes may copy a list of any length."""
        arguments = self.stack[-1]  # type: ignore[attr-defined]
        if not isinstance(arguments, tuple):
            raise UnreadableError(f"is a pickle that calls with {type(arguments).__name__}")
        containers = (a for a in arguments if isinstance(a, dict | list | tuple))
        self._copied += len(arguments) + sum(len(container) for container in containers)
        if self._copied > _MOST_STEPS:
            raise UnreadableError("is a pickle that copies its content over and over")
        pickle._Unpickler.load_reduce(self)  # type: ignore[attr-defined]

    def load_instance(self) -> None:
        raise UnreadableError("is a pickle that makes objects without a call; no state dict does")

    def load_setitem(self) -> None:
        _checked_key(self.stack[-2])  # type: ignore[attr-defined]
        pickle._Unpickler.load_setitem(self)  # type: ignore[attr-defined]

    def load_setitems(self) -> None:
        for key in self.stack[::2]:  # type: ignore[attr-defined]
            _checked_key(key)
        pickle._Unpickler.load_setitems(self)  # type: ignore[attr-defined]

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
        **dict.fromkeys(map(ord, _INSTANCES), load_instance),
        pickle.REDUCE[0]: load_reduce,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.BUILD[0]: load_build,
    }


def _load(
    file: IO[bytes], allowed: dict[str, Any], persistent: Callable[[Any], Any] | None = None
) -> Any:
    try:
        begin = file.tell()
        _check_steps(file)
        file.seek(begin)
        return _InertUnpickler(file, allowed, persistent).load()
    except UnreadableError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UnreadableError(
            f"is cut short or damaged ({type(error).__name__}: {error})"
        ) from error


def _check_steps(file: IO[bytes]) -> None:
    for number, (opcode, _argument, _position) in enumerate(pickletools.genops(file)):
        if opcode.name in _NEVER_WRITTEN:
            raise UnreadableError(
                f"is a pickle with {opcode.name}, which no state dict has; save that alone"
            )
        if number >= _MOST_STEPS:
            raise UnreadableError(
                f"is a pickle of more than {_MOST_STEPS} steps, which no state dict takes; "
                f"save that alone"
            )


def outline_of(file: IO[bytes]) -> Outline:
    """What the pickle of a checkpoint declares.

    Raises:
        UnreadableError: It holds code, is damaged, or declares a tensor beyond its storage.
    """
    outline = Outline()

    def persistent(pid: Any) -> Storage:
        kind, dtype, key, _device, size = pid[:5]
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise UnreadableError(f"refers to {shown(kind)} data of an unknown type")
        if not isinstance(key, str):
            raise UnreadableError(f"names a storage by {type(key).__name__}, not by a string")
        storage = Storage(key, dtype, count_of((size,)))
        if outline.storages.setdefault(storage.key, storage) != storage:
            raise UnreadableError(f"declares the storage {shown(key)} twice, with different sizes")
        return storage

    def rebuild(storage: Storage, offset: int, shape: Any, stride: Any, *_rest: Any) -> None:
        count, _ = count_of(shape), count_of(stride)
        last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if count > storage.size or (count and count_of((offset,)) + last >= storage.size):
            raise UnreadableError(
                f"declares a tensor of shape {tuple(shape)} in a storage of {storage.size} numbers"
            )
        outline.tensor_bytes += count * storage.dtype.itemsize

    allowed = _PLAIN | _STORAGES
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        allowed[f"torch._utils.{name}"] = rebuild
    allowed["torch._utils._rebuild_parameter"] = lambda data, *_rest: data
    allowed["torch.Size"] = _size
    _load(file, allowed, persistent)
    return outline


def read_pickle(file: IO[bytes]) -> tuple[bool, Any]:
    """The containers and numbers of a pickle, its NumPy arrays as ``NumpyArray``.

    Returns:
        Whether it is the mark of torch 1.5 or older, with ``file`` placed behind it; the content.

    Raises:
        UnreadableError: It holds anything else, or is damaged.
    """
    content = _load(file, _NUMPY)
    return content == _TORCH_MAGIC, content


def legacy_outline(file: IO[bytes]) -> Outline:
    """As ``outline_of``, for a file of torch 1.5 or older, placed behind its mark.

    Raises:
        UnreadableError: As there, or it is shorter than what it declares.
    """
    for _ in ("protocol version", "system"):
        _load(file, _PLAIN)
    outline = outline_of(file)
    _load(file, _PLAIN)  # order of the storages
    begin = file.tell()
    held = file.seek(0, 2) - begin
    needed = sum(storage.nbytes + 8 for storage in outline.storages.values())  # 8: its length
    if needed > held:
        raise UnreadableError(
            f"is cut short: it declares {needed} bytes of values, {held} are there"
        )
    return outline
