"""Choosing the entries that a row attends to (DeepSeek's and Qwen's sparse attention)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ...core.state import LayerState, PerRequest, PerToken, StateSpec
from ...stacks.ops import Ops
from ..step import Step
from .linear import Linear
from .norm import RMSNorm
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

    The first dimensions of queries and keys are rotated half against half, unlike the attention's.
    """

    def __init__(self, ops: Ops, *, hidden_size: int, q_rank: int, num_heads: int, dim: int, top_k: int) -> None:
        super().__init__()
        self.ops, self.num_heads, self.top_k = ops, num_heads, top_k
        self.wq_b = Linear(ops, q_rank, num_heads * dim)
        self.wk = Linear(ops, hidden_size, dim)
        self.k_norm = LayerNorm(ops, dim, 1e-6)
        self.weights_proj = Linear(ops, hidden_size, num_heads)
        self.state: tuple[StateSpec, ...] = (PerToken("index", (dim,)),)

    def forward(self, x: Tensor, low: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden], low-rank queries [T, q_rank] -> chosen entries int32 [T, top_k]; writes the rows' keys."""
        angles = step.angles["default"]
        key = self.ops.rope(self.k_norm(self.wk(x)).unsqueeze(1), angles).squeeze(1)
        self.ops.write(state["index"], key, step.batch)
        q = self.ops.rope(self.wq_b(low).unflatten(-1, (self.num_heads, -1)), angles)
        # The released scale of the weights, above 0 and the same for all entries, changes no choice.
        return self.ops.select(q, self.weights_proj(x).float(), state["index"], step.batch, self.top_k)


class GroupIndexer(nn.Module):
    """Qwen's sparse attention chooses groups of `every` tokens by the mean of their keys, and always sees the last, open one.

    score(t, g) = sum_h relu(q_h(t) . k(g)), up to a scale that changes no choice, with k the normed mean, rotated by the
    group's first position.

    Args:
        budget: tokens chosen.
        rope, group_rope: the names of the rotation angles of rows and of groups.
    """

    def __init__(
        self,
        ops: Ops,
        *,
        hidden_size: int,
        num_heads: int,
        dim: int,
        budget: int,
        every: int,
        eps: float,
        rope: str,
        group_rope: str,
    ) -> None:
        super().__init__()
        self.ops, self.num_heads, self.dim, self.every, self.top_k = ops, num_heads, dim, every, budget // every
        self.rope, self.group_rope = rope, group_rope
        self.index_qk_proj = Linear(ops, hidden_size, (num_heads + 1) * dim)
        self.q_layernorm, self.k_layernorm = (RMSNorm(ops, dim, eps, zero_centred=True) for _ in range(2))
        self.state: tuple[StateSpec, ...] = (PerToken("groups", (dim,), every=every), PerRequest("group_tail", (every, dim)))

    def forward(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden] -> chosen groups int32 [T, budget / every]; writes the keys of groups that end in these rows."""
        batch = step.batch
        q, key = self.index_qk_proj(x).unflatten(-1, (-1, self.dim)).split([self.num_heads, 1], dim=1)
        mean = self.ops.pool(key.squeeze(1), None, None, state["group_tail"], batch, self.every)
        keys = self.ops.rope(self.k_layernorm(mean).unsqueeze(1), step.angles[self.group_rope]).squeeze(1)
        self.ops.write_pooled(state["groups"], keys, batch, self.every)
        q = self.ops.rope(self.q_layernorm(q), step.angles[self.rope])
        return self.ops.select(q, None, state["groups"], batch, self.top_k, every=self.every)
