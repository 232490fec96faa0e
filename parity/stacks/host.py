"""Plain memory as a device: what every stack on the host shares."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
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
        """What the machine and our control group leave us."""
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        free = _available() or total // 2
        limit, used = (_number(f"/sys/fs/cgroup/{name}") for name in ("memory.max", "memory.current"))
        if limit is not None and used is not None:
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


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
