"""Mixture of experts: a router, stacked experts, and what is shared by all tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from ...core.errors import Unsupported
from ...core.state import LayerState
from ...core.weights import Packed, Weight
from ...formats import expand, format_of
from ...formats.columns import by_rows
from ...stacks.ops import Activation, Ops, Routing
from ..step import Step
from .linear import Linear
from .mlp import SILU, GatedMLP
from .norm import RMSNorm
from .weight import Parameter, Place, Slot

log = logging.getLogger("parity")


class Router(nn.Module):
    """Chooses a token's experts from float32 scores.

    Args:
        bias: the checkpoint name of a correction added for choosing only, or None.
    """

    def __init__(self, ops: Ops, hidden_size: int, num_experts: int, routing: Routing, *, bias: str | None = None) -> None:
        super().__init__()
        self.ops, self.routing = ops, routing
        self.weight = Parameter("weight", num_experts, hidden_size, exact=True)
        self.bias = None if bias is None else Parameter(bias, num_experts, exact=True)

    def slots(self) -> Iterator[Slot]:
        yield self.weight.slot()
        if self.bias is not None:
            yield self.bias.slot()

    def forward(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """x [T, hidden] -> (weights float32 [T, k], experts int32 [T, k])."""
        logits = self.ops.linear(x.float(), self.weight.tensor)
        return self.ops.route(logits, self.routing, None if self.bias is None else self.bias.tensor)


class HashRouter(nn.Module):
    """A token's experts stand in a table (DeepSeek-V4's first layers); the scores only weigh them."""

    def __init__(self, ops: Ops, hidden_size: int, num_experts: int, routing: Routing, vocab_size: int) -> None:
        super().__init__()
        self.ops, self.routing = ops, routing
        self.weight = Parameter("weight", num_experts, hidden_size, exact=True)
        self._table_shape = (vocab_size, routing.top_k)
        self._table: Tensor

    def slots(self) -> Iterator[Slot]:
        yield self.weight.slot()
        yield Slot("tid2eid", self._table_shape, self._put_table, exact=True)

    def _put_table(self, weight: Weight, place: Place) -> None:
        placed = place(weight)
        assert isinstance(placed, Tensor)
        self._table = placed.int()

    def forward(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """x [T, hidden] -> (weights float32 [T, k], experts int32 [T, k])."""
        logits = self.ops.linear(x.float(), self.weight.tensor)
        return self.ops.route_to(logits, step.batch.tokens, self._table, self.routing)


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

    def part(self, expert: int | None, row: int) -> Callable[[Weight, Place], None]:
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


@dataclass(frozen=True)
class LatentSpace:
    """Experts compute on a projection of the hidden state, and their sum is projected back (Kimi K3).

    Args:
        width: of the projection.
        eps: of the norm of the experts' sum, or None for no norm.
    """

    width: int
    eps: float | None


class SparseMLP(nn.Module):
    """Routed experts beside an optional shared MLP, which may have a gate of its own.

    Args:
        shared: (checkpoint name, module) of the MLP that every token uses, or None.
        shared_gate: the shared result is multiplied by sigmoid(shared_expert_gate x).
        latent: where the experts compute; the router and the shared MLP see the hidden state itself.
    """

    def __init__(
        self,
        ops: Ops,
        hidden_size: int,
        gate: Router | HashRouter,
        experts: Experts,
        *,
        shared: tuple[str, GatedMLP] | None = None,
        shared_gate: bool = False,
        latent: LatentSpace | None = None,
    ) -> None:
        super().__init__()
        self.ops, self.gate, self.experts = ops, gate, experts
        self._shared: tuple[GatedMLP, ...] = ()
        if shared is not None:
            self.add_module(*shared)
            self._shared = (shared[1],)
        self.shared_expert_gate = Linear(ops, hidden_size, 1) if shared_gate else None
        self.routed_expert_down_proj = self.routed_expert_up_proj = self.routed_expert_norm = None
        if latent is not None:
            self.routed_expert_down_proj = Linear(ops, hidden_size, latent.width)
            self.routed_expert_up_proj = Linear(ops, latent.width, hidden_size)
            self.routed_expert_norm = None if latent.eps is None else RMSNorm(ops, latent.width, latent.eps)

    def forward(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden] -> [T, hidden]."""
        weights, chosen = self.gate(x, step)
        out = self._routed(x, weights, chosen)
        for mlp in self._shared:
            shared = mlp(x, step, state)
            if self.shared_expert_gate is not None:
                shared = self.ops.sigmoid_gate(shared, self.shared_expert_gate(x))
            out = self.ops.add(out, shared)
        return out

    def _routed(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        if self.routed_expert_down_proj is None or self.routed_expert_up_proj is None:
            plain: Tensor = self.experts(x, weights, chosen)
            return plain
        latent = self.experts(self.routed_expert_down_proj(x), weights, chosen)
        out: Tensor = self.routed_expert_up_proj(latent if self.routed_expert_norm is None else self.routed_expert_norm(latent))
        return out
