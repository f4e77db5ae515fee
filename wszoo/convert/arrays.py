"""NumPy arrays of a pickle, without NumPy's own code for them, and how a file is refused."""

import math
import reprlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

_NUMPY_CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class UnreadableError(ValueError):
    """Why a file cannot be used, as the rest of a sentence that begins with its name."""


def shown(value: Any) -> str:
    """A value from a file as a message may show it; a nested one could fill the memory."""
    parts = value if isinstance(value, tuple) else (value,)
    if all(isinstance(part, str | bytes | int | float | None) for part in parts):
        return _REPR.repr(value)
    return type(value).__name__


_REPR = reprlib.Repr()
_REPR.maxstring = 100


def count_of(shape: Any) -> int:
    """Numbers in an array of a shape that a file declares.

    Raises:
        UnreadableError: That is no shape.
    """
    is_shape = isinstance(shape, tuple) and len(shape) <= 64  # of more axes is no array
    if not is_shape or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise UnreadableError(f"declares a tensor of shape {shown(shape)}")
    return math.prod(shape)


class NumpyType:
    """Stands in for ``numpy.dtype`` while a pickle is read."""

    def __init__(self, code: str, *_flags: Any) -> None:
        if code not in _NUMPY_CODES:
            raise UnreadableError(
                f"holds an array of {shown(code)}, not of numbers; it may be objects"
            )
        self.dtype = np.dtype(code)

    def set_state(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class NumpyArray:
    """Stands in for ``numpy.ndarray``; its bytes stay those of the pickle until it is used.

    Attributes:
        nbytes: What ``to_tensor`` takes. Arrays may share the bytes of the pickle.
    """

    nbytes = 0

    def __init__(self, *_arguments: Any) -> None:
        self._content: tuple[Any, np.dtype[Any], Any, bool] | None = None

    def set_state(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, is_fortran, raw = state
        self.fill(raw, kind, shape, bool(is_fortran))

    def fill(self, raw: Any, kind: Any, shape: Any, is_fortran: bool) -> None:
        if not isinstance(kind, NumpyType) or not isinstance(raw, str | bytes | bytearray):
            raise UnreadableError("holds an array of objects, not of numbers")
        needed = count_of(shape) * kind.dtype.itemsize
        if needed != len(raw):
            raise UnreadableError(
                f"declares an array of shape {shape}, {needed} bytes, and holds "
                f"{len(raw)} bytes of it"
            )
        self._content, self.nbytes = (raw, kind.dtype, shape, is_fortran), needed

    def to_tensor(self) -> Tensor:
        """A copy of its values.

        Raises:
            UnreadableError: It has none.
        """
        if self._content is None:
            raise UnreadableError("holds an array without values")
        raw, dtype, shape, is_fortran = self._content
        try:
            values = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype)
            shaped = values.reshape(shape, order="F" if is_fortran else "C")
            native = shaped.astype(dtype.newbyteorder("="), order="C")  # a copy: can be written
            return torch.from_numpy(native)
        except (ValueError, RuntimeError) as error:  # a shape or a character that cannot be
            raise UnreadableError(f"holds a damaged array ({error})") from error


def scalar(kind: Any, raw: Any) -> NumpyArray:
    """Stands in for ``numpy.core.multiarray.scalar``."""
    return from_buffer(raw, kind, (), "C")


def from_buffer(raw: Any, kind: Any, shape: Any, order: str, *_axes: Any) -> NumpyArray:
    """Stands in for ``numpy.core.numeric._frombuffer``."""
    array = NumpyArray()
    array.fill(raw, kind, shape, order == "F")
    return array


def encode_later(text: str, encoding: str) -> str:
    """Stands in for ``_codecs.encode``, which is how protocol 2 keeps the bytes of arrays."""
    if encoding != "latin1":
        raise UnreadableError(f"holds bytes written as {shown(encoding)}, which numpy never does")
    return text  # encoded when it is used: a pickle may ask for it many times
