"""Gated residual streams (Qwen3.8-Flash-Next): several streams mixed channel by channel, and written with a weight each."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ...stacks.ops import Ops
from ..step import Step
from .linear import Linear
from .residual import Stream, Streams
from .weight import Parameter, Slot


class StreamNorm(nn.Module):
    """Each of `count` streams divided by its root mean square, times 1 + its own weight."""

    def __init__(self, ops: Ops, count: int, dim: int, eps: float) -> None:
        super().__init__()
        self.ops, self.count, self.eps = ops, count, eps
        self.weight = Parameter("weight", count * dim, exact=True)

    def slots(self) -> Iterator[Slot]:
        yield self.weight.slot()

    def forward(self, streams: Tensor) -> Tensor:
        """[T, N, dim] -> [T, N, dim]."""
        return self.ops.stream_norm(streams, self.weight.tensor.view(self.count, -1), self.eps, zero_centred=True)


class GatedStreams(nn.Module):
    """x = mean_i sigmoid(mix_i) n_i of the normed streams n, mix = up silu(down n / N); stream_i += 2 sigmoid(w n / N)_i y.

    Args:
        rank: of the mix.
        writes: whether a result comes back; not at the end.
    """

    def __init__(self, ops: Ops, hidden_size: int, count: int, rank: int, eps: float, *, writes: bool = True) -> None:
        super().__init__()
        self.ops, self.count = ops, count
        self.hc_norm = StreamNorm(ops, count, hidden_size, eps)
        self.input_mix_weight_down = Linear(ops, count * hidden_size, rank)
        self.input_mix_weight_up = Linear(ops, rank, count * hidden_size)
        self.block_inject_weight = Linear(ops, count * hidden_size, count) if writes else None

    def forward(self, streams: Tensor) -> tuple[Tensor, Tensor | None]:
        """streams [T, N, hidden] -> (x [T, hidden], the weights of the result [T, N])."""
        normed = self.hc_norm(streams)
        flat = normed.flatten(1)
        mix = self.input_mix_weight_up(self.ops.activate(self.input_mix_weight_down(flat), "silu", 1 / self.count))
        x = self.ops.gated_mean(normed, mix.view_as(normed))
        if self.block_inject_weight is None:
            return x, None
        return x, self.ops.activate(self.block_inject_weight(flat), "sigmoid", 1 / self.count, 2.0)


class GatedSite:
    """A site of gated streams; it norms, so nothing else does."""

    def __init__(self, gate: GatedStreams) -> None:
        self.gate = gate

    def enter(self, stream: Stream, step: Step) -> tuple[Tensor, Stream]:
        assert isinstance(stream, Streams)
        x, weights = self.gate(stream.value)
        return x, Streams(stream.value, () if weights is None else (weights,))

    def leave(self, stream: Stream, y: Tensor, step: Step) -> Stream:
        assert isinstance(stream, Streams)
        return Streams(self.gate.ops.hyper_write(stream.value, y, stream.weights[0], None))
