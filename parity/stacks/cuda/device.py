"""One CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..base import Graph, Memory


class CudaDevice:
    """Memory and description of one GPU."""

    def __init__(self, index: int) -> None:
        self.torch_device = torch.device("cuda", index)

    def memory(self) -> Memory:
        """The GPU's memory; what PyTorch holds and does not use counts as free."""
        free, total = torch.cuda.mem_get_info(self.torch_device)
        cached = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
        return Memory(total, free + cached)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def capture(self, run: Callable[[], Tensor]) -> tuple[Graph | None, Tensor]:
        """The reference table reads sizes back to the host, so a step cannot be recorded."""
        return None, run()

    def describe(self) -> Mapping[str, str]:
        properties = torch.cuda.get_device_properties(self.torch_device)
        return {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "tf32": str(torch.backends.cuda.matmul.allow_tf32),
        }
