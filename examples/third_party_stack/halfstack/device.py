"""A device: where tensors live and how much room there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from parity.core.errors import Unsupported
from parity.stacks.base import Graph, Memory

_BYTES = 4 << 30


class PlainDevice:
    """The host's memory; a real one would name its accelerator here and nowhere else."""

    torch_device = torch.device("cpu")
    asynchronous = False
    recorded_rows = ()

    def memory(self) -> Memory:
        """As much as this stack means to use."""
        return Memory(total=_BYTES, free=_BYTES)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A real one would give pinned memory."""
        return self.zeros(shape, dtype)

    def use_threads(self, count: int) -> None:
        raise Unsupported("this stack takes PyTorch's number of threads")

    def synchronize(self) -> None:
        """Nothing runs behind our back."""

    def capture(self, run: Callable[[], Tensor], beside: Graph | None = None) -> tuple[Graph | None, Tensor]:
        """Computes, and records nothing: the engine then runs each step afresh."""
        return None, run()

    def send(self, data: Tensor) -> Tensor:
        """Numbers of the host to the device; here they are the same memory."""
        return data

    def fetch(self, data: Tensor) -> Callable[[], Tensor]:
        """A real one would begin a copy to pinned memory, and wait for that alone."""
        return lambda: data

    def read(self, data: Tensor) -> None:
        data.sum()

    def describe(self) -> Mapping[str, str]:
        return {"device": "plain", "torch": torch.__version__}
