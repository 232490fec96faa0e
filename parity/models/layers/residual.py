"""How a block reads the residual stream and adds to it: a policy, so that blocks are written once.

A block has two sites, one before the mixer and one before the MLP:

    x, stream = site.enter(stream)     what the block computes on (normed), and the stream to go on with
    stream = site.leave(stream, y)     the block's result joins the stream
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

from torch import Tensor

from ..step import Step
from .norm import RMSNorm


class Pending(NamedTuple):
    """The plain stream: its sum so far, and a result not yet added so that adding and norming are one kernel."""

    total: Tensor
    added: Tensor | None


class Streams(NamedTuple):
    """Several streams [T, N, hidden], and the weights that their next reader or writer takes."""

    value: Tensor
    weights: tuple[Tensor, ...] = ()


Stream: TypeAlias = "Pending | Streams | tuple[Tensor, ...]"
"""What flows between sites; each policy has its own."""


class Site(Protocol):
    """One place where a block meets the stream."""

    def enter(self, stream: Stream, step: Step) -> tuple[Tensor, Stream]:
        """(x [T, hidden] to compute on, the stream)."""

    def leave(self, stream: Stream, y: Tensor, step: Step) -> Stream:
        """The stream with y [T, hidden] in it."""


class PlainSite:
    """Pre-norm: x = norm(stream), stream = stream + y."""

    def __init__(self, norm: RMSNorm) -> None:
        self.norm = norm

    def enter(self, stream: Stream, step: Step) -> tuple[Tensor, Stream]:
        assert isinstance(stream, Pending)
        if stream.added is None:
            return self.norm(stream.total), stream
        x, total = self.norm.add(stream.added, stream.total)
        return x, Pending(total, None)

    def leave(self, stream: Stream, y: Tensor, step: Step) -> Stream:
        assert isinstance(stream, Pending)
        return Pending(stream.total, y)
