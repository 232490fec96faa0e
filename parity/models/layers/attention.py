"""Grouped-query attention over paged keys and values."""

from __future__ import annotations

from torch import Tensor, nn

from ...core.state import LayerState, PerToken, StateSpec
from ...stacks.ops import Ops
from ..step import Step
from .linear import FusedLinear, Linear
from .norm import RMSNorm
from .sparse import GroupIndexer


class Attention(nn.Module):
    """Softmax attention with grouped key and value heads (Qwen2, Qwen3, Llama; with an output gate, Qwen3-Next and 3.5).

    Args:
        bias: biases on q, k and v; `output_bias` on the output.
        head_norm: epsilon of RMSNorms on each head of q and k before the rotation, or None.
        gate: q_proj holds, head by head, the query and an output gate: out * sigmoid(gate).
        window: a row sees this many latest tokens, or all.
        indexer: chooses the groups of tokens that a row sees beside the open one, or None for all.
    """

    def __init__(
        self,
        ops: Ops,
        *,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        bias: bool = False,
        output_bias: bool = False,
        head_norm: float | None = None,
        zero_centred: bool = False,
        gate: bool = False,
        window: int | None = None,
        indexer: GroupIndexer | None = None,
    ) -> None:
        super().__init__()
        self.ops, self.window, self.gate = ops, window, gate
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.scale = head_dim**-0.5
        queries, keys = num_heads * head_dim * (2 if gate else 1), num_kv_heads * head_dim
        self.qkv = FusedLinear(ops, hidden_size, [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)], bias=bias)
        self.o_proj = Linear(ops, num_heads * head_dim, hidden_size, bias=output_bias, split="row")
        self.q_norm = None if head_norm is None else RMSNorm(ops, head_dim, head_norm, zero_centred=zero_centred)
        self.k_norm = None if head_norm is None else RMSNorm(ops, head_dim, head_norm, zero_centred=zero_centred)
        self.state: tuple[StateSpec, ...] = (
            PerToken("k", (num_kv_heads, head_dim), window=window),
            PerToken("v", (num_kv_heads, head_dim), window=window),
            *getattr(indexer, "state", ()),
        )
        self.indexer = indexer

    def forward(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden] -> [T, hidden]; writes the rows' keys and values to the pages."""
        heads, keys = self.num_heads * (2 if self.gate else 1), self.num_kv_heads
        q, k, v = self.qkv(x).unflatten(-1, (-1, self.head_dim)).split([heads, keys, keys], dim=1)
        gate = None
        if self.gate:
            q, gate = q.unflatten(1, (self.num_heads, 2)).unbind(2)
        q = self._placed(q, k, v, step, state)
        if self.indexer is None:
            out = self.ops.attend(q, state["k"], state["v"], step.batch, self.scale, self.window)
        else:
            chosen, every = self.indexer(x, step, state), self.indexer.every
            out = self.ops.attend_selected(q, state["k"], state["v"], step.batch, self.scale, chosen, every)
        if gate is not None:
            out = self.ops.sigmoid_gate(out, gate)
        result: Tensor = self.o_proj(out.flatten(1))
        return result

    def _placed(self, q: Tensor, k: Tensor, v: Tensor, step: Step, state: LayerState) -> Tensor:
        """The queries normed and rotated; keys so too, and values, go to the pages."""
        place = step.angles["default"], state["k"], state["v"], step.batch
        if self.q_norm is None or self.k_norm is None:
            return self.ops.rope_write(q, k, v, *place)
        if step.batch.probe is not None:  # it looks at each norm by itself
            return self.ops.rope_write(self.q_norm(q), self.k_norm(k), v, *place)
        weights = self.q_norm.weight.tensor, self.k_norm.weight.tensor
        return self.ops.norm_rope_write(q, k, v, *weights, self.q_norm.eps, self.q_norm.zero_centred, *place)
