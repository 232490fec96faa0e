"""Choosing the entries that a row attends to (DeepSeek sparse attention)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ...core.state import LayerState, PerToken, StateSpec
from ...stacks.ops import Ops
from ..step import Step
from .linear import Linear
from .weight import Parameter, Slot


class LayerNorm(nn.Module):
    """The norm with mean and bias."""

    def __init__(self, ops: Ops, dim: int, eps: float) -> None:
        super().__init__()
        self.ops, self.eps = ops, eps
        self.weight, self.bias = Parameter("weight", dim, exact=True), Parameter("bias", dim, exact=True)

    def slots(self) -> Iterator[Slot]:
        yield self.weight.slot()
        yield self.bias.slot()

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.layer_norm(x, self.weight.tensor, self.bias.tensor, self.eps)


class Indexer(nn.Module):
    """DeepSeek-V3.2's lightning indexer: score(t, e) = sum_h w_h(t) relu(q_h(t) . k(e)), the best `top_k` entries are kept.

    The first `rope_dim` dimensions of queries and keys are rotated half against half, unlike the attention's.
    """

    def __init__(
        self, ops: Ops, *, hidden_size: int, q_rank: int, num_heads: int, dim: int, top_k: int, rope: str = "default"
    ) -> None:
        super().__init__()
        self.ops, self.num_heads, self.top_k, self.rope = ops, num_heads, top_k, rope
        self.wq_b = Linear(ops, q_rank, num_heads * dim)
        self.wk = Linear(ops, hidden_size, dim)
        self.k_norm = LayerNorm(ops, dim, 1e-6)
        self.weights_proj = Linear(ops, hidden_size, num_heads)
        self.scale = (num_heads * dim) ** -0.5
        self.state: tuple[StateSpec, ...] = (PerToken("index", (dim,)),)

    def forward(self, x: Tensor, low: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden], low-rank queries [T, q_rank] -> chosen entries int32 [T, top_k]; writes the rows' keys."""
        angles = step.angles[self.rope]
        key = self.ops.rope(self.k_norm(self.wk(x)).unsqueeze(1), angles).squeeze(1)
        self.ops.write(state["index"], key, step.batch)
        q = self.ops.rope(self.wq_b(low).unflatten(-1, (self.num_heads, -1)), angles)
        weights = self.weights_proj(x).float() * self.scale
        return self.ops.select(q, weights, state["index"], step.batch, self.top_k)
