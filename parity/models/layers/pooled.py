"""Entries pooled from groups of tokens, and the choice among them (DeepSeek-V4's compressed attention)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ...core.state import LayerState, PerRequest, PerToken, StateSpec
from ...stacks.ops import Ops
from ..step import Step
from .linear import FusedLinear, Linear
from .norm import RMSNorm
from .weight import Parameter, Slot


def entry_rope(every: int) -> str:
    """The name of the rotation angles of entries pooled from `every` tokens."""
    return f"compress_{every}"


class Compressor(nn.Module):
    """One entry for each group of `every` tokens: values weighted channel by channel with a softmax over the group.

    Args:
        dim: of an entry; its last `rope_dim` dimensions are rotated by the group's first position.
        name: of its state: the entries, and what is still to be pooled.
        overlap: an entry is pooled from the group before, too, with channels of its own.
        bias: a learned offset of the gates for each place in the group.
    """

    def __init__(
        self,
        ops: Ops,
        *,
        hidden_size: int,
        dim: int,
        every: int,
        rope_dim: int,
        eps: float,
        name: str = "entries",
        overlap: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.ops, self.every, self.overlap, self.name = ops, every, overlap, name
        self.offset = dim - rope_dim
        channels = dim * (1 + overlap)
        self.gated = every > 1
        members = [("kv_proj", channels), ("gate_proj", channels)][: 1 + self.gated]
        self.project = FusedLinear(ops, hidden_size, members, split=None)
        self.position_bias = Parameter("position_bias", every, channels, exact=True) if bias else None
        self.kv_norm = RMSNorm(ops, dim, eps)
        self.state: tuple[StateSpec, ...] = (PerToken(name, (dim,), every=every),)
        if self.gated:
            self.state += (PerRequest(f"{name}_tail", (every * (1 + overlap), 2 * channels)),)

    def slots(self) -> Iterator[Slot]:
        if self.position_bias is not None:
            yield self.position_bias.slot()

    def forward(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden] -> the entries before rotation [T, dim], in the rows that end a group; writes them, rotated."""
        latent: Tensor = self.project(x)
        if self.gated:
            bias = None if self.position_bias is None else self.position_bias.tensor
            values, gates = latent.chunk(2, dim=-1)
            latent = self.ops.pool(values, gates, bias, state[f"{self.name}_tail"], step.batch, self.every, self.overlap)
        latent = self.kv_norm(latent)
        angles = step.angles[entry_rope(self.every)]
        entries = self.ops.rope(latent.unsqueeze(1), angles, interleaved=True, offset=self.offset).squeeze(1)
        self.ops.write_pooled(state[self.name], entries, step.batch, self.every)
        return latent


class EntryIndexer(nn.Module):
    """Chooses pooled entries: score(t, e) = sum_h w_h(t) relu(q_h(t) . k(e)), the best `top_k` are kept.

    Args:
        rope_dim: the last dimensions of queries (and keys), rotated interleaved.
        compressor: pools the index keys; without it a subclass leaves them in the step.
    """

    def __init__(
        self,
        ops: Ops,
        *,
        hidden_size: int,
        q_rank: int,
        num_heads: int,
        dim: int,
        rope_dim: int,
        top_k: int,
        every: int,
        compressor: Compressor | None = None,
    ) -> None:
        super().__init__()
        self.ops, self.num_heads, self.top_k, self.every = ops, num_heads, top_k, every
        self.offset = dim - rope_dim
        self.q_b_proj = Linear(ops, q_rank, num_heads * dim)
        self.weights_proj = Linear(ops, hidden_size, num_heads)
        self.compressor = compressor
        self.state: tuple[StateSpec, ...] = () if compressor is None else compressor.state

    def forward(self, x: Tensor, low: Tensor, latent: Tensor | None, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden], low-rank queries [T, q_rank], unrotated entries -> chosen entries int32 [T, top_k]."""
        keys = self.keys(x, latent, step, state)
        q = self.q_b_proj(low).unflatten(-1, (self.num_heads, -1))
        q = self.ops.rope(q, step.angles["compress"], interleaved=True, offset=self.offset)
        # The released scale of the weights, above 0 and the same for all entries, changes no choice.
        return self.choose(q, self.weights_proj(x).float(), keys, step)

    def keys(self, x: Tensor, latent: Tensor | None, step: Step, state: LayerState) -> Tensor:
        """The pages of index keys, with this step's in them."""
        assert self.compressor is not None
        self.compressor(x, step, state)
        return state[self.compressor.name]

    def choose(self, q: Tensor, weights: Tensor, keys: Tensor, step: Step) -> Tensor:
        """Rotated queries [T, H, dim], their weights float32 [T, H] -> chosen entries int32 [T, top_k]."""
        return self.ops.select(q, weights, keys, step.batch, self.top_k, every=self.every)


class SharingIndexer(EntryIndexer):
    """DeepSeek-V4.1's indexer: its keys are made from the unrotated entries by the layers that pool them, and shared.

    Args:
        source: makes keys, from entries of `entry_dim`; else those of the nearest layer before that does are scored.
        blocks: (how many, entries in one): chooses the candidate blocks among which later layers choose.
        candidates: chooses only inside the blocks that a layer before left; 0, or entries in a block.
    """

    def __init__(
        self,
        ops: Ops,
        *,
        entry_dim: int,
        eps: float,
        source: bool,
        blocks: tuple[int, int] | None = None,
        candidates: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(ops, **settings)
        self.blocks, self.candidates = blocks, candidates
        self.k_proj = Linear(ops, entry_dim, settings["dim"]) if source else None
        self.k_norm = RMSNorm(ops, settings["dim"], eps) if source else None
        if source:
            self.state = (PerToken("index", (settings["dim"],), every=self.every),)

    def keys(self, x: Tensor, latent: Tensor | None, step: Step, state: LayerState) -> Tensor:
        if self.k_proj is not None and self.k_norm is not None:
            key = self.k_norm(self.k_proj(latent)).unsqueeze(1)
            key = self.ops.rope(key, step.angles[entry_rope(self.every)], interleaved=True, offset=self.offset)
            self.ops.write_pooled(state["index"], key.squeeze(1), step.batch, self.every)
            step.shared["index"] = state["index"]
        return step.shared["index"]

    def choose(self, q: Tensor, weights: Tensor, keys: Tensor, step: Step) -> Tensor:
        if self.blocks is not None:
            count, length = self.blocks
            step.shared["blocks"] = self.ops.select_blocks(q, weights, keys, step.batch, count, self.every, length)
        within = step.shared["blocks"] if self.candidates else None
        return self.ops.select(
            q, weights, keys, step.batch, self.top_k, every=self.every, within=within, block=self.candidates or 1
        )
