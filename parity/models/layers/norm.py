"""Norms over the last dimension."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ...stacks.ops import Ops
from .weight import Parameter, Slot


class RMSNorm(nn.Module):
    """x / rms(x) times the weight, or times 1 + weight if `zero_centred`."""

    def __init__(self, ops: Ops, dim: int, eps: float, *, zero_centred: bool = False) -> None:
        super().__init__()
        self.ops, self.eps, self.zero_centred = ops, eps, zero_centred
        self.weight = Parameter("weight", dim, exact=True)

    def slots(self) -> Iterator[Slot]:
        yield self.weight.slot()

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.rms_norm(x, self.weight.tensor, self.eps, self.zero_centred)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(the norm of x + residual, x + residual)."""
        return self.ops.add_rms_norm(x, residual, self.weight.tensor, self.eps, self.zero_centred)


class GatedNorm(nn.Module):
    """x / rms(x) * weight * activation(gate), over the last dimension."""

    def __init__(self, ops: Ops, dim: int, eps: float, activation: str) -> None:
        super().__init__()
        self.ops, self.eps, self.activation = ops, eps, activation
        self.weight = Parameter("weight", dim, exact=True)

    def slots(self) -> Iterator[Slot]:
        yield self.weight.slot()

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.ops.gated_rms_norm(x, gate, self.weight.tensor, self.eps, self.activation)
