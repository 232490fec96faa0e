"""Attention with one key for all heads, which is the value too: a window of tokens, and entries pooled from older ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...core.batch import Batch
from ...core.state import LayerState, PerToken, StateSpec
from ...core.weights import Weight
from ...formats import expand
from ...stacks.ops import Ops
from ..step import Step
from .linear import FusedLinear, Linear
from .norm import RMSNorm
from .pooled import Compressor, EntryIndexer
from .weight import Parameter, Place, Slot


class GroupedLinear(nn.Module):
    """One matrix for each group of heads, released one below the other."""

    def __init__(self, ops: Ops, groups: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.ops = ops
        self._sizes = (groups, outputs, inputs)
        self._weight: Weight

    def slots(self) -> Iterator[Slot]:
        groups, outputs, inputs = self._sizes
        yield Slot("weight", (groups * outputs, inputs), self._put)

    def _put(self, weight: Weight, place: Place) -> None:
        plain = expand(weight, weight.dtype if isinstance(weight, Tensor) else torch.float32)
        self._weight = place(plain.view(self._sizes))

    def forward(self, x: Tensor) -> Tensor:
        """x [T, groups, inputs] -> [T, groups, outputs]."""
        return self.ops.head_linear(x, self._weight)


class SharedAttention(nn.Module):
    """The attention of DeepSeek-V4 and V4.1.

    The last `rope_dim` dimensions of queries and keys are rotated, interleaved. As keys are values, the output is rotated
    back by its own position, so that only distances remain.

    Args:
        groups, group_rank: the output is projected by groups of heads to this rank each, then together.
        window: tokens seen as they are.
        rope: the name of the rotation angles.
        head_norm: each head of the queries is normed, without weights.
        every: tokens in a pooled entry, 0 where the layer sees the window alone.
        compressor: pools entries; without it those of the nearest layer before that has one are read.
        indexer: chooses among the entries.
        selects: entries are chosen, by this layer's indexer or the nearest before; else all are read.
    """

    def __init__(
        self,
        ops: Ops,
        *,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        rope_dim: int,
        q_rank: int,
        groups: int,
        group_rank: int,
        window: int,
        eps: float,
        rope: str,
        head_norm: bool,
        every: int = 0,
        compressor: Compressor | None = None,
        indexer: EntryIndexer | None = None,
        selects: bool = False,
    ) -> None:
        super().__init__()
        self.ops, self.rope, self.window, self.every, self.selects = ops, rope, window, every, selects
        self.num_heads, self.groups, self.offset = num_heads, groups, head_dim - rope_dim
        self.scale, self.eps, self.head_norm = head_dim**-0.5, eps, head_norm
        self.sizes = [q_rank, head_dim]
        self.down = FusedLinear(ops, hidden_size, [("q_a_proj", q_rank), ("kv_proj", head_dim)], split=None)
        self.q_a_norm, self.kv_norm = RMSNorm(ops, q_rank, eps), RMSNorm(ops, head_dim, eps)
        self.q_b_proj = Linear(ops, q_rank, num_heads * head_dim, split="column")
        self.o_a_proj = GroupedLinear(ops, groups, num_heads * head_dim // groups, group_rank)
        self.o_b_proj = Linear(ops, groups * group_rank, hidden_size, split="row")
        self.sinks = Parameter("sinks", num_heads, exact=True)
        self.compressor, self.indexer = compressor, indexer
        self.state: tuple[StateSpec, ...] = (
            PerToken("kv", (head_dim,), window=window),
            *getattr(compressor, "state", ()),
            *getattr(indexer, "state", ()),
        )

    def slots(self) -> Iterator[Slot]:
        yield self.sinks.slot()

    def forward(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden] -> [T, hidden]; writes the rows' keys, and the entries whose last token is among them."""
        low, key = self.down(x).split(self.sizes, dim=-1)
        low = self.q_a_norm(low)
        q = self.q_b_proj(low).unflatten(-1, (self.num_heads, -1))
        if self.head_norm:
            q = self.ops.rms_norm(q, None, self.eps)
        q = self._turn(q, step)
        self._write(key, step, state)
        entries, selected = self._entries(x, low, step, state)
        out = self.ops.attend_pooled(
            q, state["kv"], entries, self._seen(step.batch), self.scale, self.window, self.every, selected, self.sinks.tensor
        )
        out = self._turn(out, step, inverse=True)
        return self.o_b_proj(self.o_a_proj(out.flatten(1).unflatten(-1, (self.groups, -1))).flatten(1))

    def _write(self, key: Tensor, step: Step, state: LayerState) -> None:
        self.ops.write(state["kv"], self._turn(self.kv_norm(key).unsqueeze(1), step).squeeze(1), step.batch)

    def _seen(self, batch: Batch) -> Batch:
        """The batch by whose positions rows see."""
        return batch

    def _turn(self, x: Tensor, step: Step, *, inverse: bool = False) -> Tensor:
        return self.ops.rope(x, step.angles[self.rope], interleaved=True, offset=self.offset, inverse=inverse)

    def _entries(self, x: Tensor, low: Tensor, step: Step, state: LayerState) -> tuple[Tensor | None, Tensor | None]:
        """(the pages of pooled entries, the chosen ones), made here or left by a layer before."""
        if not self.every:
            return None, None
        latent = None
        if self.compressor is not None:
            latent = self.compressor(x, step, state)
            step.shared["entries"] = state[self.compressor.name]
        if self.indexer is not None:
            step.shared["selected"] = self.indexer(x, low, latent, step, state)
        return step.shared["entries"], step.shared["selected"] if self.selects else None
