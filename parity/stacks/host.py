"""Plain memory as a device: what every stack on the host shares."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .base import Graph, Memory


class HostDevice:
    """Plain memory and PyTorch's threads."""

    torch_device = torch.device("cpu")
    asynchronous = False
    recorded_rows: Sequence[int] = range(1, 65)

    def memory(self) -> Memory:
        """What the machine and our control groups leave us."""
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        free = _available() or total // 2
        for limit, used in group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")):
            total, free = min(total, limit), min(free, limit - used)
        return Memory(total, max(free, 0))

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        # numpy asks the system for zeroed memory and leaves it untouched; torch would write every byte.
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return torch.zeros(shape, dtype=dtype)
        return torch.from_numpy(np.zeros(size, np.uint8)).view(dtype).view(shape)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self.zeros(shape, dtype)

    def use_threads(self, count: int) -> None:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(count or usable)

    def synchronize(self) -> None:
        """Nothing runs behind our back."""

    def capture(self, run: Callable[[], Tensor], beside: Graph | None = None) -> tuple[Graph | None, Tensor]:
        """PyTorch's own kernels cannot be recorded."""
        return None, run()

    def send(self, data: Tensor) -> Tensor:
        return data

    def fetch(self, data: Tensor) -> Callable[[], Tensor]:
        return lambda: data

    def read(self, data: Tensor) -> None:
        data.sum()

    def describe(self) -> Mapping[str, str]:
        return {
            "device": _cpu_name(),
            "torch": torch.__version__,
            "threads": str(torch.get_num_threads()),
            "isa": torch.backends.cpu.get_cpu_capability(),
        }


def group_limits(membership: Path, root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use) of the control groups, of either version, that bound our memory: ours and those around it.

    What files keep in memory is not in use, as it is not for the machine's own count: the system gives it up.

    Args:
        membership: as /proc/self/cgroup.
        root: as /sys/fs/cgroup.
    """
    for line in _lines(membership):
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        base = root / "memory" if kinds else root
        limit_name, used_name, prefix = _GROUPS_OLD if kinds else _GROUPS
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            limit, used = (_number(place / name) for name in (limit_name, used_name))
            if limit is not None and used is not None:
                counts = dict(line.split() for line in _lines(place / "memory.stat"))
                yield limit, used - sum(int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
            if place == base:
                break


_GROUPS = ("memory.max", "memory.current", "")
_GROUPS_OLD = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _available() -> int | None:
    found = (int(line.split()[1]) * 1024 for line in _lines(Path("/proc/meminfo")) if line.startswith("MemAvailable:"))
    return next(found, None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _lines(path: Path) -> list[str]:
    """A file's lines; none if it is not there."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _cpu_name() -> str:
    found = (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name"))
    return next(found, None) or platform.processor() or platform.machine()
