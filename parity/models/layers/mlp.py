"""The dense gated MLP."""

from __future__ import annotations

from torch import Tensor, nn

from ...core.state import LayerState
from ...stacks.ops import Activation, Ops
from ..step import Step
from .linear import FusedLinear, Linear

SILU = Activation()


class GatedMLP(nn.Module):
    """down(activation(gate x, up x))."""

    def __init__(
        self, ops: Ops, hidden_size: int, intermediate_size: int, activation: Activation = SILU, bias: bool = False
    ) -> None:
        super().__init__()
        self.ops, self.activation = ops, activation
        members = [("gate_proj", intermediate_size), ("up_proj", intermediate_size)]
        self.gate_up = FusedLinear(ops, hidden_size, members, bias=bias)
        self.down_proj = Linear(ops, intermediate_size, hidden_size, bias=bias, split="row")

    def forward(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden] -> [T, hidden]."""
        out: Tensor = self.down_proj(self.ops.gated_activation(self.gate_up(x), self.activation))
        return out
