"""The dense gated MLP."""

from __future__ import annotations

from torch import Tensor, nn

from ...core.state import LayerState
from ...stacks.ops import Activation, Ops
from ..step import Step
from .linear import FusedLinear, Linear

SILU = Activation()


class GatedLinear(FusedLinear):
    """activation(gate x, up x)."""

    def __init__(self, ops: Ops, inputs: int, outputs: int, activation: Activation) -> None:
        super().__init__(ops, inputs, [("gate_proj", outputs), ("up_proj", outputs)])
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.gated_linear(x, self.weight, None, self.activation)


class GatedMLP(nn.Module):
    """down(activation(gate x, up x))."""

    def __init__(self, ops: Ops, hidden_size: int, intermediate_size: int, activation: Activation = SILU) -> None:
        super().__init__()
        self.gate_up = GatedLinear(ops, hidden_size, intermediate_size, activation)
        self.down_proj = Linear(ops, intermediate_size, hidden_size, split="row")

    def forward(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden] -> [T, hidden]."""
        out: Tensor = self.down_proj(self.gate_up(x))
        return out
