"""Per-layer embeddings (Qwen3.8-Flash-Next): n-gram memory written into gated residual streams."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ...core.state import LayerState, PerRequest, StateSpec
from ...core.weights import Weight
from ...stacks.ops import Ops
from ..step import Step
from .gated_streams import StreamNorm
from .linear import FusedLinear
from .ngram import HostTable, NgramHash, NgramMemory
from .weight import Place, Slot

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def multipliers(vocab_size: int, width: int, index: int, seed: int) -> list[int]:
    """The odd hash multipliers of the `index`-th memory, drawn with SplitMix64 so that no product overflows."""
    bound = max(1, ((1 << 63) - 1) // vocab_size // 2)
    base = seed + 10007 * index
    return [2 * (_splitmix64((base + _GAMMA * (place + 1)) & _MASK) % bound) + 1 for place in range(width)]


def _splitmix64(value: int) -> int:
    value = (value + _GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class DilatedConvolution(nn.Module):
    """A depthwise causal convolution over every `dilation`-th input, with SiLU; kept as a wider one with zeros between."""

    def __init__(self, ops: Ops, channels: int, width: int, dilation: int) -> None:
        super().__init__()
        self.ops = ops
        self._shape, self._dilation = (channels, 1, width), dilation
        self.state: tuple[StateSpec, ...] = (PerRequest("ngram_conv", (channels, (width - 1) * dilation)),)
        self._weight: Tensor

    def slots(self) -> Iterator[Slot]:
        yield Slot("weight", self._shape, self._put, exact=True)

    def _put(self, weight: Weight, place: Place) -> None:
        placed = place(weight)
        assert isinstance(placed, Tensor)
        channels, _, width = self._shape
        self._weight = placed.new_zeros(channels, (width - 1) * self._dilation + 1)
        self._weight[:, :: self._dilation] = placed.squeeze(1)

    def forward(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, channels] -> [T, channels]."""
        return self.ops.causal_conv(x, self._weight, state["ngram_conv"], step.batch)


class PerLayerEmbedding(nn.Module):
    """What n-gram memory adds to each stream: v + conv(norm(v)), v_i = gate_i value, gated by how well key i fits stream i.

    Args:
        hashing, table: the memory; `dim` of all heads of a row together.
        width: of the convolution, whose dilation is the longest n-gram.
    """

    def __init__(
        self, ops: Ops, hidden_size: int, count: int, dim: int, width: int, eps: float, hashing: NgramHash, table: HostTable
    ) -> None:
        super().__init__()
        self.ops, self.count = ops, count
        self.sizes = [count * hidden_size, hidden_size]
        self.ple_embedding = NgramMemory(ops, hashing, table, "ngram_embedding")
        self.project = FusedLinear(ops, dim, [("key_proj", self.sizes[0]), ("value_proj", hidden_size)], split=None)
        self.norm_key, self.norm_query, self.norm_conv = (StreamNorm(ops, count, hidden_size, eps) for _ in range(3))
        self.conv1d = DilatedConvolution(ops, count * hidden_size, width, hashing.width)
        self.state: tuple[StateSpec, ...] = (*self.ple_embedding.state, *self.conv1d.state)

    def forward(self, streams: Tensor, step: Step, state: LayerState) -> Tensor:
        """streams [T, N, hidden] -> what is added to each, [T, N, hidden]."""
        key, value = self.project(self.ple_embedding(step, state)).split(self.sizes, dim=-1)
        gates = self.ops.stream_gate(self.norm_query(streams), self.norm_key(key.view_as(streams)))
        gated = self.ops.spread(value, self.count, gates)
        moved = self.conv1d(self.norm_conv(gated).flatten(1), step, state)
        return self.ops.add(gated, moved.view_as(gated))
