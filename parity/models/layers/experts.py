"""Experts stacked into two weights, however they were released."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cache

import torch
from torch import Tensor, nn

from ...core.errors import Unsupported
from ...core.weights import Packed, Weight
from ...formats import expand, format_of
from ...formats.columns import by_rows
from ...stacks.ops import Activation, Ops
from .mlp import SILU
from .weight import Place, Put, Slot

log = logging.getLogger("parity")


class Experts(nn.Module):
    """Experts stacked into two weights, [E, 2 I, D] and [E, D, I], whichever way they were released:

    one by one (`7.gate_proj.weight`), stacked (`gate_proj.weight` [E, I, D]), or fused (`gate_up_proj` [E, 2 I, D]).
    Each tensor is copied into the stack as it is read, so no second copy of all is held.
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
    """One weight [E, out, in] that arrives in parts."""

    def __init__(self, num_experts: int, outputs: int, inputs: int) -> None:
        self.shape = (num_experts, outputs, inputs)
        self._stack: Weight | None = None
        self._missing = num_experts * outputs
        self.value: Weight

    def whole(self, weight: Weight, place: Place) -> None:
        """Takes all of it at once."""
        self.value = place(weight)

    def part(self, expert: int | None, row: int) -> Put:
        """Takes rows from `row` on, of one expert [n, in] or of all [E, n, in]."""

        def put(weight: Weight, place: Place) -> None:
            assert isinstance(weight, (Tensor, Packed))
            if isinstance(weight, Packed) and not format_of(weight.format).row_arrays:
                weight = _with_rows_apart(weight)
            if self._stack is None:
                self._stack = self._empty_like(weight)
            self._copy(weight, expert, row)
            rows = weight.shape[-2] * (self.shape[0] if expert is None else 1)
            self._missing -= rows
            if not self._missing:
                self.value, self._stack = place(self._stack), None

        return put

    def _empty_like(self, weight: Tensor | Packed) -> Weight:
        if isinstance(weight, Tensor):
            return weight.new_empty(self.shape)
        arrays, per_entry = {}, format_of(weight.format).rows_per_entry(weight)
        for role, array in weight.arrays.items():
            per_row = per_entry[role]
            tail = array.shape[len(weight.shape) - 1 :]
            arrays[role] = array.new_empty(self.shape[0], -(-self.shape[1] // per_row), *tail)
        return Packed(weight.format, self.shape, arrays, weight.meta)

    def _copy(self, weight: Tensor | Packed, expert: int | None, row: int) -> None:
        index = slice(None) if expert is None else expert
        if isinstance(weight, Tensor) and isinstance(self._stack, Tensor):
            self._stack[index, row : row + weight.shape[-2]] = weight
            return
        stack = self._stack
        kinds = [(one.format, one.meta) if isinstance(one, Packed) else None for one in (weight, stack)]
        if not isinstance(weight, Packed) or not isinstance(stack, Packed) or kinds[0] != kinds[1]:
            raise Unsupported(f"the experts of one layer are in different formats: {kinds[0]} and {kinds[1]}")
        per_entry = format_of(weight.format).rows_per_entry(weight)
        for role, array in weight.arrays.items():
            per_row = per_entry[role]
            if row % per_row:
                raise Unsupported(f"{weight.format}: {row} rows of a gate do not end at a block of {per_row} rows")
            target = stack.arrays[role][index, row // per_row : row // per_row + -(-weight.shape[-2] // per_row)]
            _bytes(target).copy_(_bytes(array))


def _with_rows_apart(weight: Packed) -> Tensor | Packed:
    """The same numbers in a form whose rows can be stacked with others'."""
    found = by_rows(weight)
    if found is not None and "order" not in found.arrays:
        return found
    _say_expanded(weight.format)
    return expand(weight)


@cache
def _say_expanded(format: str) -> None:
    log.warning(
        "%s experts are expanded while loading: their inputs are in an order of their own, so no stack can be made of them",
        format,
    )


def _bytes(array: Tensor) -> Tensor:
    # Eight-bit floats cannot be copied by every build of torch; their bytes can.
    return array.view(torch.uint8) if array.dtype.itemsize == 1 else array
