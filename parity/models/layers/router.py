"""Which experts a token goes to, and how much each counts."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ...core.errors import ConfigError
from ...core.weights import Weight
from ...stacks.ops import Ops, Routing
from ..step import Step
from .weight import Parameter, Place, Slot

MOST_EXPERTS = 10_000
"""In a layer; of each one's tensors a note is made before any is looked at. Released models have up to 896."""


class Router(nn.Module):
    """Chooses a token's experts from float32 scores.

    Args:
        bias: the checkpoint name of a correction added for choosing only, or None.

    Raises:
        ConfigError: a token would go to more experts than there are, or to more groups, or the groups are not alike.
    """

    def __init__(self, ops: Ops, hidden_size: int, num_experts: int, routing: Routing, *, bias: str | None = None) -> None:
        super().__init__()
        _check_counts(routing, num_experts)
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
        _check_counts(routing, num_experts)
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


def _check_counts(routing: Routing, num_experts: int) -> None:
    if num_experts > MOST_EXPERTS:
        raise ConfigError(f"{num_experts} experts in a layer are more than the {MOST_EXPERTS} that can be")
    if routing.top_k > num_experts:
        raise ConfigError(f"num_experts_per_tok = {routing.top_k} is above the number of experts, {num_experts}")
    if num_experts % routing.num_groups or routing.top_groups > routing.num_groups:
        groups = f"n_group = {routing.num_groups} with topk_group = {routing.top_groups}"
        raise ConfigError(f"{num_experts} experts do not fit {groups}")
