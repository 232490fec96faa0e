"""Gated delta rule layers: linear attention with a per-request state (Gated DeltaNet, arXiv 2412.06464)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...core.state import LayerState, PerRequest, StateSpec
from ...core.weights import Weight
from ...formats import expand
from ...stacks.ops import Ops
from ..step import Step
from .convolution import Convolution
from .linear import FusedLinear, Linear, joined
from .norm import GatedNorm
from .weight import Parameter, Place, Put, Slot


class GatedDeltaNet(nn.Module):
    """The linear attention of Qwen3-Next and Qwen3.5.

    Args:
        packed: the projections are released as `in_proj_qkvz` and `in_proj_ba`, interleaved by key head (Qwen3-Next), not as
            `in_proj_qkv`, `in_proj_z`, `in_proj_b` and `in_proj_a`.
        activation: of the output norm's gate.
    """

    def __init__(
        self,
        ops: Ops,
        *,
        hidden_size: int,
        num_k_heads: int,
        num_v_heads: int,
        k_dim: int,
        v_dim: int,
        width: int,
        eps: float,
        packed: bool = False,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.ops = ops
        self.num_k_heads, self.num_v_heads, self.k_dim, self.v_dim = num_k_heads, num_v_heads, k_dim, v_dim
        keys, values = num_k_heads * k_dim, num_v_heads * v_dim
        self.sizes = [2 * keys + values, values, num_v_heads, num_v_heads]
        if packed:
            self.in_proj: nn.Module = PackedProjections(ops, hidden_size, num_k_heads, num_v_heads, k_dim, v_dim)
        else:
            names = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a")
            self.in_proj = FusedLinear(ops, hidden_size, list(zip(names, self.sizes, strict=True)))
        self.convolution = Convolution(ops, [("conv1d", 2 * keys + values)], width)
        self.A_log = Parameter("A_log", num_v_heads, exact=True)
        self.dt_bias = Parameter("dt_bias", num_v_heads, exact=True)
        self.norm = GatedNorm(ops, v_dim, eps, activation)
        self.out_proj = Linear(ops, values, hidden_size, split="row")
        self.state: tuple[StateSpec, ...] = (
            PerRequest("conv", (self.convolution.channels, width - 1)),
            PerRequest("memory", (num_v_heads, k_dim, v_dim), torch.float32),
        )

    def slots(self) -> Iterator[Slot]:
        yield self.A_log.slot()
        yield self.dt_bias.slot()

    def forward(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        """x [T, hidden] -> [T, hidden]; moves the rows' convolution tails and memories on."""
        mixed, z, b, a = self.in_proj(x).split(self.sizes, dim=-1)
        mixed = self.convolution(mixed, state["conv"], step)
        keys = self.num_k_heads * self.k_dim
        q, k, v = mixed.split([keys, keys, self.num_v_heads * self.v_dim], dim=-1)
        q, k = (part.unflatten(-1, (self.num_k_heads, self.k_dim)) for part in (q, k))
        v = v.unflatten(-1, (self.num_v_heads, self.v_dim))
        decay, beta = self.ops.delta_gates(a, b, self.A_log.tensor, self.dt_bias.tensor)
        out = self.ops.gated_delta(q, k, v, decay, beta, state["memory"], step.batch, self.k_dim**-0.5)
        out = self.norm(out, z.unflatten(-1, (self.num_v_heads, self.v_dim)))
        result: Tensor = self.out_proj(out.flatten(1))
        return result


class PackedProjections(nn.Module):
    """Qwen3-Next's two input projections, whose rows stand key head by key head; put in flat order once, at load.

    GGUF files have the first of them in flat order, and apart: `in_proj_qkv` and `in_proj_z`.
    """

    def __init__(self, ops: Ops, hidden_size: int, num_k_heads: int, num_v_heads: int, k_dim: int, v_dim: int) -> None:
        super().__init__()
        self.ops, self._inputs = ops, hidden_size
        group = num_v_heads // num_k_heads
        keys, values = num_k_heads * k_dim, num_v_heads * v_dim
        self._packed = {"in_proj_qkvz": [k_dim, k_dim, group * v_dim, group * v_dim]}
        self._flat = {"in_proj_qkv": 2 * keys + values, "in_proj_z": values}
        self._ba = {"in_proj_ba": [group, group]}
        self._heads, self._is_flat = num_k_heads, False
        self._parts: dict[str, Weight] = {}
        self._weight: Weight

    def choose_form(self, path: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._is_flat = f"{path.rpartition('.')[0]}.in_proj_qkv.weight" in shapes

    def slots(self) -> Iterator[Slot]:
        packed = self._ba if self._is_flat else self._packed | self._ba
        flat = self._flat if self._is_flat else {}
        names = [*flat, *packed]
        for name, rows in flat.items():
            yield Slot(f".{name}.weight", (rows, self._inputs), self._put(name, names))
        for name, sizes in packed.items():
            yield Slot(f".{name}.weight", (self._heads * sum(sizes), self._inputs), self._put(name, names, sizes))

    def _put(self, name: str, names: Sequence[str], sizes: Sequence[int] = ()) -> Put:
        def put(weight: Weight, place: Place) -> None:
            self._parts[name] = self._flattened(weight, list(sizes)) if sizes else weight
            if len(self._parts) == len(names):
                self._weight = place(joined([self._parts[part] for part in names]))
                self._parts.clear()

        return put

    def _flattened(self, weight: Weight, sizes: list[int]) -> Tensor:
        # Plain even where it was packed: its rows change places.
        plain = expand(weight, weight.dtype if isinstance(weight, Tensor) else torch.float32)
        parts = plain.view(self._heads, sum(sizes), self._inputs).split(sizes, dim=1)
        return torch.cat([part.flatten(0, 1) for part in parts])

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.linear(x, self._weight)
