"""Kimi Delta Attention: linear attention with a per-request state and a decay for every channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ...core.state import LayerState, PerRequest, StateSpec
from ...stacks.ops import Ops
from ..step import Step
from .convolution import Convolution
from .linear import FusedLinear, Linear
from .norm import GatedNorm
from .weight import Parameter, Slot


class KimiDeltaAttention(nn.Module):
    """Kimi Delta Attention (arXiv 2510.26692): the gated delta rule with a decay for every channel of a head.

    Args:
        lower_bound: the decay is lower_bound * sigmoid(exp(A) (f + bias)) instead of -exp(A) softplus(f + bias) (Kimi K3).
        full_rank_gate: the output gate is one projection `g_proj`, not `g_b_proj(g_a_proj x)`.
    """

    def __init__(
        self,
        ops: Ops,
        *,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        width: int,
        eps: float,
        lower_bound: float | None = None,
        full_rank_gate: bool = False,
    ) -> None:
        super().__init__()
        self.ops, self.num_heads, self.head_dim, self.lower_bound = ops, num_heads, head_dim, lower_bound
        channels = num_heads * head_dim
        gate = ("g_proj", channels) if full_rank_gate else ("g_a_proj", head_dim)
        members = [("q_proj", channels), ("k_proj", channels), ("v_proj", channels)]
        members += [("f_a_proj", head_dim), gate, ("b_proj", num_heads)]
        self.sizes = [3 * channels, head_dim, gate[1], num_heads]
        self.in_proj = FusedLinear(ops, hidden_size, members)
        self.convolution = Convolution(ops, [(f"{name}_conv1d", channels) for name in "qkv"], width)
        self.f_b_proj = Linear(ops, head_dim, channels, split="column")
        self.g_b_proj = None if full_rank_gate else Linear(ops, head_dim, channels, split="column")
        self.A_log = Parameter("A_log", 1, 1, num_heads, 1, exact=True)
        self.dt_bias = Parameter("dt_bias", channels, exact=True)
        self.o_norm = GatedNorm(ops, head_dim, eps, "sigmoid")
        self.o_proj = Linear(ops, channels, hidden_size, split="row")
        self.state: tuple[StateSpec, ...] = (
            PerRequest("conv", (3 * channels, width - 1)),
            PerRequest("memory", (num_heads, head_dim, head_dim), torch.float32),
        )

    def choose_form(self, path: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Kimi K3 releases A_log flat, and with more entries than there are heads: the first are the heads'."""
        shape = shapes.get(f"{path}.A_log", ())
        if len(shape) == 1 and shape[0] >= self.num_heads:
            self.A_log.shape = shape

    def slots(self) -> Iterator[Slot]:
        yield self.A_log.slot()
        yield self.dt_bias.slot()

    def forward(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden] -> [T, hidden]; moves the rows' convolution tails and memories on."""
        mixed, forget, gate, b = self.in_proj(x).split(self.sizes, dim=-1)
        mixed = self.convolution(mixed, state["conv"], step)
        q, k, v = (part.unflatten(-1, (self.num_heads, self.head_dim)) for part in mixed.chunk(3, dim=-1))
        a = self._heads(self.f_b_proj(forget))
        bias = self.dt_bias.tensor.view(self.num_heads, self.head_dim)
        rates = self.A_log.tensor.flatten()[: self.num_heads]
        decay, beta = self.ops.delta_gates(a, b, rates, bias, self.lower_bound)
        out = self.ops.gated_delta(q, k, v, decay, beta, state["memory"], step.batch, self.head_dim**-0.5)
        if self.g_b_proj is not None:
            gate = self.g_b_proj(gate)
        result: Tensor = self.o_proj(self.o_norm(out, self._heads(gate)).flatten(1))
        return result

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.num_heads, self.head_dim))
        return heads
