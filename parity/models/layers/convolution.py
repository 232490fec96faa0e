"""Causal convolutions along a sequence, before linear attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ...core.weights import Weight
from ...stacks.ops import Ops
from ..step import Step
from .weight import Place, Put, Slot


class Convolution(nn.Module):
    """A depthwise causal convolution with SiLU over the joined channels of several checkpoint tensors.

    Args:
        members: (checkpoint name relative to the parent, channels) of each.
    """

    def __init__(self, ops: Ops, members: Sequence[tuple[str, int]], width: int) -> None:
        super().__init__()
        self.ops, self.width = ops, width
        self._members = tuple(members)
        self._parts: dict[str, Tensor] = {}
        self._weight: Tensor
        self.channels = sum(channels for _, channels in members)

    def slots(self) -> Iterator[Slot]:
        for name, channels in self._members:
            yield Slot(f".{name}.weight", (channels, 1, self.width), self._put(name), exact=True)

    def _put(self, name: str) -> Put:
        def put(weight: Weight, place: Place) -> None:
            placed = place(weight)
            assert isinstance(placed, Tensor)
            self._parts[name] = placed.squeeze(1)
            if len(self._parts) == len(self._members):
                self._weight = torch.cat([self._parts[member] for member, _ in self._members])
                self._parts.clear()

        return put

    def forward(self, x: Tensor, state: Tensor, step: Step) -> Tensor:
        return self.ops.causal_conv(x, self._weight, state, step.batch)
