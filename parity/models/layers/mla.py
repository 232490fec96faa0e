"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434), computed in absorbed form from the cached latents."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...core.state import LayerState, PerToken, StateSpec
from ...core.weights import Weight
from ...formats import expand
from ...stacks.ops import Ops
from ..step import Step
from .linear import FusedLinear, Linear
from .norm import RMSNorm
from .weight import Place, Slot

_INNER_EPS = 1e-6
"""Of the norms of query rank and latent, whatever the config says of the others."""


class LatentHeads(nn.Module):
    """The matrices from the latent to each head's keys and values, kept per head so that they can be absorbed.

    score = q_nope . (W_k latent) = (W_k^T q_nope) . latent, and out = W_v (sum p latent): no key or value is ever expanded.
    """

    def __init__(self, ops: Ops, num_heads: int, latent: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.ops = ops
        self._sizes = (num_heads, key_dim + value_dim, latent)
        self._key_dim = key_dim
        self._keys: Weight
        self._values: Weight

    def slots(self) -> Iterator[Slot]:
        heads, rows, latent = self._sizes
        yield Slot("weight", (heads * rows, latent), self._put)

    def _put(self, weight: Weight, place: Place) -> None:
        plain = expand(weight, weight.dtype if isinstance(weight, Tensor) else torch.float32).view(self._sizes)
        keys, values = plain.split([self._key_dim, self._sizes[1] - self._key_dim], dim=1)
        self._keys, self._values = place(keys.transpose(1, 2).contiguous()), place(values.contiguous())

    def absorb(self, q: Tensor) -> Tensor:
        """q [T, H, key_dim] -> [T, H, latent]."""
        return self.ops.head_linear(q, self._keys)

    def values(self, out: Tensor) -> Tensor:
        """The attended latents [T, H, latent] -> [T, H, value_dim]."""
        return self.ops.head_linear(out, self._values)


class LatentAttention(nn.Module):
    """Attention over a latent that all heads share, and one rotated key.

    Args:
        q_rank: rank of the query's low-rank form, or None for a plain projection.
        kv_rank: size of the latent.
        nope_dim, rope_dim, value_dim: a head's unrotated and rotated key dimensions, and its values'.
        scale: of the scores.
        rope: the name of the rotation angles, or None where the rope dimensions are not rotated (Kimi).
        interleaved: which pairs are rotated.
        bias: on the two down projections and the output.
        gate: the output is multiplied by sigmoid(g_proj x) before o_proj (Kimi K3).
        indexer: chooses the entries that a row attends to (DeepSeek-V3.2), or None for all.
    """

    def __init__(
        self,
        ops: Ops,
        *,
        hidden_size: int,
        num_heads: int,
        q_rank: int | None,
        kv_rank: int,
        nope_dim: int,
        rope_dim: int,
        value_dim: int,
        scale: float,
        rope: str | None = "default",
        interleaved: bool = True,
        bias: bool = False,
        gate: bool = False,
        indexer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.ops, self.scale, self.rope, self.interleaved = ops, scale, rope, interleaved
        self.num_heads, self.nope_dim, self.rope_dim = num_heads, nope_dim, rope_dim
        self.kv_rank, self.q_rank = kv_rank, q_rank
        queries = num_heads * (nope_dim + rope_dim)
        first = ("q_proj", queries) if q_rank is None else ("q_a_proj", q_rank)
        # Without a query rank only the second member can have a bias, as the checkpoints have it.
        if bias and q_rank is None:
            self.q_proj: Linear | None = Linear(ops, hidden_size, queries, split="column")
            self.down = FusedLinear(ops, hidden_size, [("kv_a_proj_with_mqa", kv_rank + rope_dim)], bias=True, split=None)
        else:
            self.q_proj = None
            members = [first, ("kv_a_proj_with_mqa", kv_rank + rope_dim)]
            self.down = FusedLinear(ops, hidden_size, members, bias=bias, split=None)
        self.q_a_layernorm = None if q_rank is None else RMSNorm(ops, q_rank, _INNER_EPS)
        self.q_b_proj = None if q_rank is None else Linear(ops, q_rank, queries, split="column")
        self.kv_a_layernorm = RMSNorm(ops, kv_rank, _INNER_EPS)
        self.kv_b_proj = LatentHeads(ops, num_heads, kv_rank, nope_dim, value_dim)
        self.g_proj = Linear(ops, hidden_size, num_heads * value_dim, split="column") if gate else None
        self.o_proj = Linear(ops, num_heads * value_dim, hidden_size, bias=bias, split="row")
        self.indexer = indexer
        self.state: tuple[StateSpec, ...] = (
            PerToken("latent", (kv_rank,)),
            PerToken("rope", (rope_dim,)),
            *getattr(indexer, "state", ()),
        )

    def forward(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden] -> [T, hidden]; writes the rows' latents and rotated keys to the pages."""
        query, low, latent, key = self._project(x)
        q, q_rope = query.unflatten(-1, (self.num_heads, -1)).split([self.nope_dim, self.rope_dim], dim=-1)
        key = key.unsqueeze(1)
        if self.rope is not None:
            angles = step.angles[self.rope]
            q_rope = self.ops.rope(q_rope, angles, self.interleaved)
            key = self.ops.rope(key, angles, self.interleaved)
        self.ops.write(state["latent"], self.kv_a_layernorm(latent), step.batch)
        self.ops.write(state["rope"], key.squeeze(1), step.batch)
        selected = None if self.indexer is None else self.indexer(x, low, step, state)
        attended = self.ops.attend_latent(
            self.kv_b_proj.absorb(q), q_rope, state["latent"], state["rope"], step.batch, self.scale, selected
        )
        out = self.kv_b_proj.values(attended).flatten(1)
        if self.g_proj is not None:
            out = self.ops.sigmoid_gate(out, self.g_proj(x))
        result: Tensor = self.o_proj(out)
        return result

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(queries [T, H (nope + rope)], their low-rank form or x, latent [T, L], rope key [T, R])."""
        sizes = [self.kv_rank, self.rope_dim]
        if self.q_proj is not None:
            return (self.q_proj(x), x, *self.down(x).split(sizes, dim=-1))
        first, latent, key = self.down(x).split([self.down.members[0][1], *sizes], dim=-1)
        if self.q_a_layernorm is None or self.q_b_proj is None:
            return first, x, latent, key
        low = self.q_a_layernorm(first)
        return self.q_b_proj(low), low, latent, key
