"""Named arrays as a safetensors entry, and reading one back without trust: types, lengths and values are checked."""

from __future__ import annotations

import struct
from typing import Any, TypeVar

import msgspec
import numpy as np
import safetensors.numpy

from ...core.errors import FormatError

_MAX_HEADER_BYTES = 1 << 20
_DTYPES = ("float32", "int32")
_T = TypeVar("_T")
Arrays = dict[str, Any]


def save(arrays: Arrays) -> bytes:
    """As a safetensors entry."""
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def load(data: bytes, what: str) -> Arrays:
    """The arrays of a safetensors entry.

    Raises:
        FormatError: it is none, or holds what no pack holds; `what` is in its text.
    """
    if len(data) < 8 or struct.unpack("<Q", data[:8])[0] > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise FormatError(f"{what} is not a safetensors entry: its header is longer than itself")
    try:
        arrays = safetensors.numpy.load(data)
    except Exception as error:  # the library raises several unrelated types on bad bytes
        raise FormatError(f"{what} is not a valid safetensors entry: {str(error)[:200]}") from None
    for name, array in arrays.items():
        finite = np.isfinite(array) | (np.isnan(array) if name.endswith(".log_tail") else False)
        if array.dtype.name not in _DTYPES or not finite.all():
            raise FormatError(f"{what}: {name[:80]!r} is not finite {' or '.join(_DTYPES)}")
    return arrays


def take(arrays: Arrays, name: str, dtype: str, shape: tuple[Any, ...], what: str) -> Any:
    """One array of this dtype and shape; None stands for any length, a last ... for any further dimensions.

    Raises:
        FormatError: it is not there, or not so.
    """
    array = arrays.get(name)
    if array is None or array.dtype.name != dtype:
        raise FormatError(f"{what} lacks {name} as {dtype}")
    fixed = shape[:-1] if shape[-1:] == (...,) else shape
    loose = len(fixed) < len(shape)
    fits = array.ndim >= len(fixed) if loose else array.ndim == len(fixed)
    if not fits or any(want is not None and have != want for have, want in zip(array.shape, fixed, strict=False)):
        raise FormatError(f"{what}: {name} has the shape {list(array.shape)}")
    return array


def typed(value: Any, kind: type[_T], what: str) -> _T:
    """JSON as a dataclass.

    Raises:
        FormatError: a field is missing or of another type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise FormatError(f"{what}: {error}") from None
