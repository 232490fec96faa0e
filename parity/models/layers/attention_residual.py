"""Attention residuals (Kimi K3, arXiv 2607.24653): a site reads a mixture of the sums of earlier blocks of layers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ...stacks.ops import Ops
from ..step import Step
from .norm import RMSNorm
from .residual import Stream
from .weight import Parameter, Slot


class BlockMix(nn.Module):
    """sum_i p_i v_i with p = softmax_i(proj . norm(v_i)), over the finished blocks and the one that is being summed.

    Args:
        name: of the two weights, `{name}_norm.weight` and `{name}_proj.weight`, which stand beside this module.
    """

    def __init__(self, ops: Ops, hidden_size: int, eps: float, name: str) -> None:
        super().__init__()
        self.ops, self.eps = ops, eps
        self.norm = Parameter(f".{name}_norm.weight", hidden_size, exact=True)
        self.proj = Parameter(f".{name}_proj.weight", 1, hidden_size, exact=True)

    def slots(self) -> Iterator[Slot]:
        yield self.norm.slot()
        yield self.proj.slot()

    def forward(self, values: tuple[Tensor, ...]) -> Tensor:
        """values [T, hidden] each -> [T, hidden]."""
        if len(values) == 1:
            return values[0]
        return self.ops.mix(values, self.norm.tensor, self.proj.tensor, self.eps)


class MixedSite:
    """The stream is a tuple: the sums of finished blocks, and last the sum of the block under way.

    Args:
        starts: a new block begins with this site's result; what was under way is finished.
    """

    def __init__(self, mix: BlockMix, norm: RMSNorm, *, starts: bool = False) -> None:
        self.mix, self.norm, self.starts = mix, norm, starts

    def enter(self, stream: Stream, step: Step) -> tuple[Tensor, Stream]:
        assert isinstance(stream, tuple)
        return self.norm(self.mix(stream)), stream

    def leave(self, stream: Stream, y: Tensor, step: Step) -> Stream:
        assert isinstance(stream, tuple)
        *finished, current = stream
        return (*stream, y) if self.starts else (*finished, self.mix.ops.add(current, y))
