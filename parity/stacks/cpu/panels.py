"""Memory for panels: weights beside each other in regions of large pages.

A matrix of a few megabytes holds one whole page of 2 MiB, or none. Read from memory, panels in pages of 4 KiB take a
twentieth longer.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from contextlib import suppress

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_REGION_BYTES = 64 << 20
"""Of a region at least. It is the system's until it is touched."""
_LARGE_PAGE = 2 << 20
_ALIGNMENT = 64


class _Regions:
    """Gives out pieces of a region, one after the other; who holds a piece keeps its region, and nobody else does.

    The place of the latest piece is given out again if nobody holds it any more: an expert's panels are copied into its stack
    and dropped.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._region: weakref.ref[npt.NDArray[np.uint8]] | None = None
        self._used = 0
        self._latest: weakref.ref[npt.NDArray[np.uint8]] | None = None
        self._start = 0

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        with self._lock:
            region = None if self._region is None else self._region()
            if self._latest is not None and self._latest() is None:
                self._used = self._start
            if region is None or self._used + size > region.size:
                region = _region(max(size, _REGION_BYTES))
                self._region, self._used = weakref.ref(region), -region.ctypes.data % _LARGE_PAGE
            piece = region[self._used : self._used + size]
            self._latest, self._start = weakref.ref(piece), self._used
            self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
            return piece


def _region(size: int) -> npt.NDArray[np.uint8]:
    """An array of its own, since pieces keep alive what owns their memory, with room for the way to the first large page."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(size + _LARGE_PAGE, np.uint8)
    memory = mmap.mmap(-1, size + _LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


_regions = _Regions()


def empty_panels(count: int, size: int) -> Tensor:
    """Uninitialised memory [count, size] of bytes, aligned for the kernels."""
    return torch.from_numpy(_regions.take(count * size)).view(count, size)
