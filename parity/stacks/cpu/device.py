"""The cpu as a device that records: a step is a list of native calls, replayed without Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ..base import Graph
from ..host import HostDevice
from .graph import capture
from .native import native


class NativeDevice(HostDevice):
    """Plain memory and the threads of the native kernels."""

    def capture(self, run: Callable[[], Tensor]) -> tuple[Graph | None, Tensor]:
        return capture(run)

    def describe(self) -> Mapping[str, str]:
        return {**super().describe(), "threads": str(native().threads()), "isa": native().isa()}
