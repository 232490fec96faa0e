"""Memory for the arrays of a step: pieces of a few regions that stay.

What a step computes lives for an operation or two. From the C library such arrays are either mapped anew each time, page by
page, or leave holes of every size between what lives longer: three times the memory of the arrays that live at once.
"""

from __future__ import annotations

import math
import threading
import weakref
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_REGION_BYTES = 64 << 20
"""Of a region at least. It is the system's until it is touched."""
_ALIGNMENT = 64


class Memory:
    """Regions, which several arenas may share."""

    def __init__(self) -> None:
        self.regions: list[npt.NDArray[np.uint8]] = []
        self._most: list[int] = []

    @property
    def num_bytes(self) -> int:
        """Bytes of its regions up to the last that was ever given out."""
        return sum(self._most)

    def add(self, size: int) -> None:
        """One region more, with room for so many bytes."""
        memory = np.empty(max(size, _REGION_BYTES) + _ALIGNMENT, np.uint8)
        self.regions.append(memory[-memory.ctypes.data % _ALIGNMENT :])
        self._most.append(0)

    def use(self, region: int, stop: int) -> None:
        """Counts what was given out."""
        self._most[region] = max(self._most[region], stop)


@dataclass(order=True, slots=True)
class _Piece:
    """An array that was given out: its region, where in it it begins and ends, and what tells that it is gone."""

    region: int
    start: int
    stop: int
    watch: weakref.ref[npt.NDArray[np.uint8]] | None = field(default=None, compare=False)


class Arena:
    """Gives out arrays at the first place that is free; a place is free again once no tensor looks at it.

    Any thread may ask for arrays and drop them.

    Args:
        memory: where they lie. Arenas that share it overwrite each other's arrays.
    """

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = Memory() if memory is None else memory
        self._pieces: list[_Piece] = []
        self._dropped: deque[_Piece] = deque()  # filled whenever Python drops an array, in the midst of `empty` included
        self._lock = threading.Lock()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An array with anything in it."""
        size = math.prod(shape) * dtype.itemsize
        with self._lock:
            self._take_back()
            piece = self._place(size)
            array = self.memory.regions[piece.region][piece.start : piece.stop]
            piece.watch = weakref.ref(array, lambda _: self._dropped.append(piece))
            insort(self._pieces, piece)
            self.memory.use(piece.region, piece.stop)
        return torch.from_numpy(array).view(dtype).view(tuple(shape))

    def keeps_only(self, result: Tensor) -> bool:
        """Whether a tensor looks at none of the arrays but the one that `result` looks at."""
        address = result.untyped_storage().data_ptr()
        with self._lock:
            self._take_back()
            return all(self.memory.regions[piece.region].ctypes.data + piece.start == address for piece in self._pieces)

    def _take_back(self) -> None:
        while self._dropped:
            dropped = self._dropped.popleft()
            self._pieces = [piece for piece in self._pieces if piece is not dropped]

    def _place(self, size: int) -> _Piece:
        for region, memory in enumerate(self.memory.regions):
            start = 0
            for piece in self._pieces:
                if piece.region != region:
                    continue
                if start + size <= piece.start:
                    break
                start = -(-piece.stop // _ALIGNMENT) * _ALIGNMENT
            if start + size <= len(memory):
                return _Piece(region, start, start + size)
        self.memory.add(size)
        return _Piece(len(self.memory.regions) - 1, 0, size)


LARGE_BYTES = 1 << 16
"""From here on arrays lie in the arena; the C library has use for the holes of smaller ones."""
_STEPS = Arena()
"""For what is computed and not recorded."""


class _Thread(threading.local):
    """What a thread does."""

    records = False


_thread = _Thread()


@contextmanager
def recording() -> Iterator[None]:
    """Meanwhile this thread's memory is asked of PyTorch, where the recording steps in."""
    _thread.records = True
    try:
        yield
    finally:
        _thread.records = False


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An array for what an op computes, with anything in it."""
    if _thread.records or math.prod(shape) * dtype.itemsize < LARGE_BYTES:
        return torch.empty(shape, dtype=dtype)
    return _STEPS.empty(shape, dtype)
