"""One CUDA device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import Unsupported
from ..base import Graph, Memory

log = logging.getLogger("parity")


class CudaDevice:
    """Memory, graphs and description of one GPU.

    Args:
        index: which.
        records: whether steps of the table in use can be recorded: none of its ops brings a number to the host.
    """

    asynchronous = True
    recorded_rows = (1, 2, 4, 8, *range(16, 65, 8), *range(80, 257, 16))
    """A row that fills up costs little where few rows wait for the weights, and at most an eighth above."""

    def __init__(self, index: int, *, records: bool = False) -> None:
        self.torch_device = torch.device("cuda", index)
        self._records = records
        self._side: torch.cuda.Stream | None = None

    def memory(self) -> Memory:
        """The GPU's memory; what PyTorch holds and does not use counts as free."""
        free, total = torch.cuda.mem_get_info(self.torch_device)
        cached = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
        return Memory(total, free + cached)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.torch_device)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def use_threads(self, count: int) -> None:
        raise Unsupported("the cuda stack computes on the GPU: leave the number of threads out, or choose --stack cpu")

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def capture(self, run: Callable[[], Tensor], beside: Graph | None = None) -> tuple[Graph | None, Tensor]:
        """Runs the step once, then records it; recording computes nothing, so that state moves on once.

        The first run also compiles kernels and lets libraries set up, which cannot be recorded. Graphs that never run at
        once share a pool of memory; each keeps its result.
        """
        if not self._records:
            return None, run()
        # On another stream, as recording asks for; the default one waits for it. One for all recordings: libraries keep
        # memory of their own for each stream that they have seen.
        if self._side is None:
            self._side = torch.cuda.Stream(self.torch_device)
        stream, main = self._side, torch.cuda.current_stream(self.torch_device)
        stream.wait_stream(main)
        with torch.cuda.stream(stream):
            first = run()
        main.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        assert beside is None or isinstance(beside, CudaGraph)
        pool = torch.cuda.graph_pool_handle() if beside is None else beside.graph.pool()
        try:
            # What other threads ask of the device does not spoil the recording. The outer context brings the stream back
            # where the inner one cannot: it does not after an error.
            with torch.cuda.stream(main), torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                result = run()
        except RuntimeError as error:
            log.warning("steps on %s cannot be recorded: %s", self.torch_device, error)
            self._records = False
            return None, first
        result.copy_(first)
        return CudaGraph(graph, result), result

    def send(self, data: Tensor) -> Tensor:
        """By way of pinned memory, which PyTorch gives to nobody else before the copy has run."""
        staged = torch.empty(data.shape, dtype=data.dtype, pin_memory=True)
        staged.copy_(data)
        return staged.to(self.torch_device, non_blocking=True)

    def fetch(self, data: Tensor) -> Callable[[], Tensor]:
        """The copy stands in the stream before any later step; only its event is waited for."""
        landed = torch.empty(data.shape, dtype=data.dtype, pin_memory=True)
        landed.copy_(data, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.torch_device))

        def wait() -> Tensor:
            event.synchronize()
            return landed

        return wait

    def read(self, data: Tensor) -> None:
        data.sum()

    def describe(self) -> Mapping[str, str]:
        properties = torch.cuda.get_device_properties(self.torch_device)
        return {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "tf32": str(torch.backends.cuda.matmul.allow_tf32),
        }


@dataclass(frozen=True, slots=True)
class CudaGraph:
    """A recorded step and the result that it keeps."""

    graph: torch.cuda.CUDAGraph
    result: Tensor

    @property
    def num_bytes(self) -> int:
        return self.result.nbytes

    def replay(self) -> None:
        self.graph.replay()
