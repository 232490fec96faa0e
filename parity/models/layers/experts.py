"""Experts stacked into two weights, however they were released."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from ...core.errors import Unsupported
from ...core.weights import Packed, Weight
from ...formats import rows_per_entry, unstack
from ...stacks.ops import Activation, Ops
from .mlp import SILU
from .weight import Place, Put, Slot

log = logging.getLogger("parity")


class Experts(nn.Module):
    """Experts stacked into two weights, [E, 2 I, D] and [E, D, I], whichever way they were released:

    one by one (`7.gate_proj.weight`), stacked (`gate_proj.weight` [E, I, D]), or fused (`gate_up_proj` [E, 2 I, D]).
    Each tensor is laid into the stack as it is read, so no second copy of all is held.
    """

    def __init__(
        self, ops: Ops, num_experts: int, hidden_size: int, intermediate_size: int, activation: Activation = SILU
    ) -> None:
        super().__init__()
        self.ops, self.activation = ops, activation
        self.gate_up = Stacked(num_experts, 2 * intermediate_size, hidden_size)
        self.down = Stacked(num_experts, hidden_size, intermediate_size)
        self._form = "single"

    def choose_form(self, path: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if f"{path}.gate_up_proj" in shapes:
            self._form = "fused"
        elif f"{path}.gate_proj.weight" in shapes:
            self._form = "stacked"

    def slots(self) -> Iterator[Slot]:
        num_experts, double, hidden = self.gate_up.shape
        half = double // 2
        if self._form == "fused":
            yield Slot("gate_up_proj", self.gate_up.shape, self.gate_up.whole)
            yield Slot("down_proj", self.down.shape, self.down.whole)
        elif self._form == "stacked":
            yield Slot("gate_proj.weight", (num_experts, half, hidden), self.gate_up.part(None, 0))
            yield Slot("up_proj.weight", (num_experts, half, hidden), self.gate_up.part(None, half))
            yield Slot("down_proj.weight", self.down.shape, self.down.whole)
        else:
            for expert in range(num_experts):
                yield Slot(f"{expert}.gate_proj.weight", (half, hidden), self.gate_up.part(expert, 0))
                yield Slot(f"{expert}.up_proj.weight", (half, hidden), self.gate_up.part(expert, half))
                yield Slot(f"{expert}.down_proj.weight", (hidden, half), self.down.part(expert, 0))

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """x [T, hidden] -> [T, hidden], the weighted sum over each row's experts."""
        return self.ops.experts(x, self.gate_up.value, self.down.value, weights, experts, self.activation)


class Stacked:
    """One weight [E, out, in] that arrives in parts. Each is placed by itself and then laid into the stack, so that beside it
    only one matrix is there in two forms."""

    def __init__(self, num_experts: int, outputs: int, inputs: int) -> None:
        self.shape = (num_experts, outputs, inputs)
        self._value: Weight | None = None

    @property
    def value(self) -> Weight:
        """The weight, plain or packed."""
        assert self._value is not None, "the experts were not loaded"
        return self._value

    def whole(self, weight: Weight, place: Place) -> None:
        """Takes all of it at once."""
        self._value = place(weight)

    def part(self, expert: int | None, row: int) -> Put:
        """Takes rows from `row` on, of one expert [n, in] or of all [E, n, in]."""

        def put(weight: Weight, place: Place) -> None:
            assert isinstance(weight, (Tensor, Packed))
            matrices: Sequence[Tensor | Packed] = unstack(weight) if expert is None else [weight]
            for index, matrix in enumerate(matrices, expert or 0):
                self._lay(self._placed(matrix, row, place), index, row)

        return put

    def _placed(self, weight: Tensor | Packed, row: int, place: Place) -> Tensor | Packed:
        placed = place(weight)
        if isinstance(placed, Packed) and not self._cut(placed, row):
            say_expanded(_kind(weight))
            placed = place(weight, plain=True)
        assert isinstance(placed, (Tensor, Packed))
        return placed

    def _cut(self, weight: Packed, row: int) -> bool:
        """Whether the entries of all its arrays begin and end where its rows do."""
        per_entry, stop = rows_per_entry(weight), row + weight.shape[0]
        whole = all(row % per == 0 and (stop % per == 0 or stop == self.shape[1]) for per in per_entry.values())
        return whole and per_entry.keys() == weight.arrays.keys()

    def _lay(self, weight: Tensor | Packed, expert: int, row: int) -> None:
        if self._value is None:
            self._value = self._empty_like(weight)
        stack = self._value
        assert isinstance(stack, (Tensor, Packed))
        if _kind(weight) != _kind(stack):
            raise Unsupported(f"the experts of one layer are in different formats: {_kind(weight)} and {_kind(stack)}")
        if isinstance(weight, Packed) and isinstance(stack, Packed):
            for role, per in rows_per_entry(weight).items():
                array = weight.arrays[role]
                _bytes(stack.arrays[role][expert, row // per : row // per + len(array)]).copy_(_bytes(array))
        elif isinstance(weight, Tensor) and isinstance(stack, Tensor):
            stack[expert, row : row + len(weight)] = weight

    def _empty_like(self, weight: Tensor | Packed) -> Tensor | Packed:
        if isinstance(weight, Tensor):
            return weight.new_empty(self.shape)
        num_experts, outputs, _ = self.shape
        arrays = {
            role: weight.arrays[role].new_empty(num_experts, -(-outputs // per), *weight.arrays[role].shape[1:])
            for role, per in rows_per_entry(weight).items()
        }
        return replace(weight, shape=self.shape, arrays=arrays)


def _kind(weight: Tensor | Packed) -> str:
    if isinstance(weight, Tensor):
        return str(weight.dtype).removeprefix("torch.")
    return " ".join([weight.format, *(f"{name} {value}" for name, value in weight.meta.items())])


@cache
def say_expanded(kind: str) -> None:
    """Says once for a kind of weights that they are expanded, and why."""
    log.warning(
        "%s: such experts are expanded while loading, since they make no stack: a scale covers rows of two matrices, "
        "or their inputs are in an order of their own",
        kind,
    )


def _bytes(array: Tensor) -> Tensor:
    # Eight-bit floats cannot be copied by every build of torch; their bytes can.
    return array.view(torch.uint8) if array.dtype.itemsize == 1 else array
