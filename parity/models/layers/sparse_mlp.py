"""An MLP of routed experts, with what is shared by all tokens beside them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ...core.state import LayerState
from ...stacks.ops import Ops, Routing
from ..step import Step
from .experts import Experts
from .linear import Linear
from .mlp import GatedMLP
from .norm import RMSNorm
from .router import HashRouter, Router


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


def with_shared_expert(
    ops: Ops, hidden_size: int, num_experts: int, routing: Routing, *, size: int, shared_size: int
) -> SparseMLP:
    """Experts of `size` beside a `shared_expert` with a gate, as Qwen's models have them."""
    return SparseMLP(
        ops,
        hidden_size,
        Router(ops, hidden_size, num_experts, routing),
        Experts(ops, num_experts, hidden_size, size),
        shared=("shared_expert", GatedMLP(ops, hidden_size, shared_size)),
        shared_gate=True,
    )
