"""The cpu as a device that records: a step is a list of native calls, replayed without Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..base import Graph
from ..host import HostDevice
from .graph import TORCH_THREADS, RecordedStep, capture
from .native import native


class NativeDevice(HostDevice):
    """Plain memory and the threads of the native kernels."""

    def use_threads(self, count: int) -> None:
        native().set_threads(count)
        TORCH_THREADS.use(native().threads())

    def capture(self, run: Callable[[], Tensor], beside: Graph | None = None) -> tuple[Graph | None, Tensor]:
        assert beside is None or isinstance(beside, RecordedStep)
        return capture(run, beside)

    def read(self, data: Tensor) -> None:
        out = torch.empty(native().threads())
        native().read(data.data_ptr(), data.numel(), out.data_ptr())

    def describe(self) -> Mapping[str, str]:
        return {**super().describe(), "threads": str(native().threads()), "isa": native().isa()}
