"""Hyper-connections (manifold-constrained, arXiv 2512.24880): several residual streams, read and written with weights of
their own for every token."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ...stacks.ops import Ops
from ..step import Step
from .norm import RMSNorm
from .residual import Stream, Streams
from .weight import Parameter, Slot


class HyperWeights(nn.Module):
    """The weights with which a site reads (`pre`) and writes (`post`, `comb`) `count` streams.

    Args:
        eps: added to the weights; `norm_eps` is of the norm over all streams.
        iterations: of the alternating normalisation that makes `comb` doubly stochastic.
        head: only `pre`, under the names of the output's collapse.
    """

    def __init__(
        self, ops: Ops, hidden_size: int, count: int, *, norm_eps: float, eps: float, iterations: int, head: bool = False
    ) -> None:
        super().__init__()
        self.ops, self.norm_eps, self.eps, self.iterations = ops, norm_eps, eps, iterations
        rows, scales, prefix = (count, 1, "hc_") if head else (count * (2 + count), 3, "")
        self.fn = Parameter(f"{prefix}fn", rows, count * hidden_size, exact=True)
        self.base = Parameter(f"{prefix}base", rows, exact=True)
        self.scale = Parameter(f"{prefix}scale", scales, exact=True)

    def slots(self) -> Iterator[Slot]:
        for parameter in (self.fn, self.base, self.scale):
            yield parameter.slot()

    def forward(self, streams: Tensor) -> tuple[Tensor, ...]:
        """streams [T, N, hidden] -> (pre, post, comb), or (pre,) for the head."""
        fn, base, scale = self.fn.tensor, self.base.tensor, self.scale.tensor
        return self.ops.hyper_weights(streams, fn, base, scale, self.norm_eps, self.eps, self.iterations)


def copies(ops: Ops, count: int) -> Callable[[Tensor], Stream]:
    """Every stream begins as the embedding."""
    return lambda x: Streams(ops.spread(x, count))


class HyperSite:
    """x = norm(sum pre_i stream_i); stream_k = post_k y + sum_j comb_jk stream_j.

    Args:
        lagged: the site reads with the `pre` of the site before it and leaves its own for the next (DeepSeek-V4.1); the
            first reads stream 0 alone.
    """

    def __init__(self, weights: HyperWeights, norm: RMSNorm, *, lagged: bool = False) -> None:
        self.ops, self.weights, self.norm, self.lagged = weights.ops, weights, norm, lagged

    def enter(self, stream: Stream, step: Step) -> tuple[Tensor, Stream]:
        assert isinstance(stream, Streams)
        pre, post, comb = self.weights(stream.value)
        left = (pre,) if self.lagged else ()
        read = stream.weights if self.lagged else (pre,)
        x = self.ops.hyper_read(stream.value, *read) if read else stream.value[:, 0]
        return self.norm(x), Streams(stream.value, (post, comb, *left))

    def leave(self, stream: Stream, y: Tensor, step: Step) -> Stream:
        assert isinstance(stream, Streams)
        post, comb, *left = stream.weights
        return Streams(self.ops.hyper_write(stream.value, y, post, comb), tuple(left))


class HyperHead:
    """The streams become one at the end, with weights of its own, or with those that the last lagged site left."""

    def __init__(self, ops: Ops, norm: RMSNorm, weights: HyperWeights | None = None) -> None:
        self.ops, self.weights, self.norm = ops, weights, norm

    def collapse(self, stream: Stream) -> Tensor:
        """The streams as one, [T, hidden], not yet normed."""
        assert isinstance(stream, Streams)
        (pre,) = stream.weights if self.weights is None else self.weights(stream.value)
        return self.ops.hyper_read(stream.value, pre)

    def enter(self, stream: Stream, step: Step) -> tuple[Tensor, Stream]:
        return self.norm(self.collapse(stream)), stream

    def leave(self, stream: Stream, y: Tensor, step: Step) -> Stream:
        return stream


class StreamsSite:
    """The part sees all streams [T, N, hidden], and what it gives for each is added."""

    def __init__(self, ops: Ops) -> None:
        self.ops = ops

    def enter(self, stream: Stream, step: Step) -> tuple[Tensor, Stream]:
        assert isinstance(stream, Streams)
        return stream.value, stream

    def leave(self, stream: Stream, y: Tensor, step: Step) -> Stream:
        assert isinstance(stream, Streams)
        return Streams(self.ops.add(stream.value, y), stream.weights)


class MeanSite:
    """The part sees the mean of the streams [T, hidden], and leaves them as they are."""

    def __init__(self, ops: Ops) -> None:
        self.ops = ops

    def enter(self, stream: Stream, step: Step) -> tuple[Tensor, Stream]:
        assert isinstance(stream, Streams)
        rows, count, _ = stream.value.shape
        alike = torch.full((rows, count), 1 / count, device=stream.value.device)
        return self.ops.hyper_read(stream.value, alike), stream

    def leave(self, stream: Stream, y: Tensor, step: Step) -> Stream:
        return stream
