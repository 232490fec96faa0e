"""Matrices: plain, fused by rows, per head, and the embedding with the output head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ...core.weights import Packed, Rows, Weight
from ...stacks.ops import Ops
from .weight import Parameter, Place, Put, Slot

Split = Literal["column", "row"]


class Linear(nn.Module):
    """y = x W^T + b.

    `split` says how ranks share it: `column` divides the outputs, `row` the inputs (the results are then summed).
    """

    def __init__(self, ops: Ops, inputs: int, outputs: int, *, bias: bool = False, split: Split | None = None) -> None:
        super().__init__()
        self.ops, self.split = ops, split
        self.weight = Parameter("weight", outputs, inputs)
        self.bias = Parameter("bias", outputs, exact=True) if bias else None

    def slots(self) -> Iterator[Slot]:
        yield self.weight.slot()
        if self.bias is not None:
            yield self.bias.slot()

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.linear(x, self.weight.value, None if self.bias is None else self.bias.tensor)


class FusedLinear(nn.Module):
    """Several matrices over the same input, computed as one; takes its siblings' checkpoint names.

    Args:
        members: (checkpoint name, outputs) of each, in order; the result holds their outputs side by side.
        bias: whether each member has one.
    """

    def __init__(
        self,
        ops: Ops,
        inputs: int,
        members: Sequence[tuple[str, int]],
        *,
        bias: bool = False,
        split: Split | None = "column",
    ) -> None:
        super().__init__()
        self.ops, self.split, self.inputs = ops, split, inputs
        self.members = tuple(members)
        self._has_bias = bias
        self._weights: dict[str, Weight] = {}
        self._biases: dict[str, Tensor] = {}
        self._weight: Weight | None = None
        self._bias: Tensor | None = None

    def slots(self) -> Iterator[Slot]:
        for name, outputs in self.members:
            yield Slot(f".{name}.weight", (outputs, self.inputs), self._put_weight(name))
            if self._has_bias:
                yield Slot(f".{name}.bias", (outputs,), self._put_bias(name), exact=True)

    def _put_weight(self, name: str) -> Put:
        def put(weight: Weight, place: Place) -> None:
            self._weights[name] = weight
            if len(self._weights) == len(self.members):
                self._weight = place(joined([self._weights[member] for member, _ in self.members]))
                self._weights.clear()

        return put

    def _put_bias(self, name: str) -> Put:
        def put(bias: Weight, place: Place) -> None:
            placed = place(bias)
            assert isinstance(placed, Tensor)
            self._biases[name] = placed
            if len(self._biases) == len(self.members):
                self._bias = torch.cat([self._biases[member] for member, _ in self.members])
                self._biases.clear()

        return put

    @property
    def weight(self) -> Weight:
        """All members' rows."""
        assert self._weight is not None, "the weights were not loaded"
        return self._weight

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.linear(x, self.weight, self._bias)


def joined(parts: Sequence[Weight]) -> Weight:
    """Matrices of one dtype as one tensor, others as rows in their own formats."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == len(parts) and len({part.dtype for part in tensors}) == 1:
        return torch.cat(tensors)
    flat: list[Tensor | Packed] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Rows) else [part])
    return Rows(tuple(flat))


class Embedding(nn.Module):
    """A row for each token."""

    def __init__(self, ops: Ops, vocab_size: int, dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.ops, self.dtype = ops, dtype
        self.weight = Parameter("weight", vocab_size, dim)

    def slots(self) -> Iterator[Slot]:
        yield self.weight.slot()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.ops.embed(tokens, self.weight.value, self.dtype)


class TiedHead(nn.Module):
    """The output head that reads the embedding's matrix."""

    def __init__(self, ops: Ops, embedding: Embedding) -> None:
        super().__init__()
        self.ops = ops
        self._embedding = (embedding,)  # in a tuple, so that it is not registered twice

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.linear(x, self._embedding[0].weight.value)
