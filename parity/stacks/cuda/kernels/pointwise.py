"""Element-wise ops: gated activations, sigmoid gates, sums, the gates of the delta rule, and rope's angles."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...ops import Activation
from .common import kernel, row_strides, sigmoid, softplus, take_turn, tanh

_BLOCK = 1024


@triton.jit
def gated(gate, up, limit, beta, linear, KIND: tl.constexpr):
    """The activation of a gate times the values that it lets through, both float32; KIND as of `kind_of`."""
    if KIND == 2:
        return beta * tanh(gate / beta) * sigmoid(gate) * (linear * tanh(up / linear))
    if KIND == 1:
        gate = tl.minimum(gate, limit)
        up = tl.minimum(tl.maximum(up, -limit), limit)
    return gate * sigmoid(gate) * up


@kernel
def _gated_activation(x, out, size, width, x_n, x_s, x_t, limit, beta, linear, KIND: tl.constexpr, BLOCK: tl.constexpr):
    take_turn()
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    row, d = i // width, i % width
    at = (row // x_n) * x_s + (row % x_n) * x_t + d
    gate = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + at + width, mask=inside, other=0.0).to(tl.float32)
    y = gated(gate, up, limit, beta, linear, KIND)
    tl.store(out + i, y.to(out.dtype.element_ty), mask=inside)


@kernel
def _sigmoid_gate(
    x, gate, out, size, width, x_n, x_s, x_t, gate_n, gate_s, gate_t, ONE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    take_turn()
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    row, d = i // width, i % width
    values = tl.load(x + (row // x_n) * x_s + (row % x_n) * x_t + d, mask=inside, other=0.0).to(tl.float32)
    at = (row // gate_n) * gate_s + (row % gate_n) * gate_t
    if not ONE:
        at += d
    y = values * sigmoid(tl.load(gate + at, mask=inside, other=0.0).to(tl.float32))
    tl.store(out + i, y.to(out.dtype.element_ty), mask=inside)


@kernel
def _activate(x, out, size, width, x_n, x_s, x_t, scale, factor, SILU: tl.constexpr, BLOCK: tl.constexpr):
    take_turn()
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    row, d = i // width, i % width
    moved = tl.load(x + (row // x_n) * x_s + (row % x_n) * x_t + d, mask=inside, other=0.0).to(tl.float32) * scale
    y = sigmoid(moved) * factor
    if SILU:
        y *= moved
    tl.store(out + i, y.to(out.dtype.element_ty), mask=inside)


@kernel
def _delta_gates(
    a, b, a_log, dt_bias, decay, beta, num_rows, num_heads, width, a_s, a_t, b_s, bound,
    BOUNDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    take_turn()
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < num_rows * num_heads * width
    row, head, d = i // (num_heads * width), (i // width) % num_heads, i % width
    rate = tl.exp(tl.load(a_log + head, mask=inside, other=0.0).to(tl.float32))
    moved = tl.load(a + row * a_s + head * a_t + d, mask=inside, other=0.0).to(tl.float32)
    moved += tl.load(dt_bias + head * width + d, mask=inside, other=0.0).to(tl.float32)
    y = bound * sigmoid(rate * moved) if BOUNDED else -rate * softplus(moved)
    tl.store(decay + i, y, mask=inside)
    first = inside & (d == 0)
    gate = tl.load(b + row * b_s + head, mask=first, other=0.0).to(tl.float32)
    tl.store(beta + row * num_heads + head, sigmoid(gate), mask=first)


_KINDS = {"silu": 0, "situ": 2}
_SILU = {"silu": True, "sigmoid": False}


def kind_of(activation: Activation) -> int:
    """How `gated` is told of an activation."""
    return 1 if activation.kind == "silu" and activation.limit is not None else _KINDS[activation.kind]


def numbers_of(activation: Activation) -> tuple[float, float, float]:
    """Its numbers: the limit, beta and the linear part's."""
    return float(activation.limit or 0.0), float(activation.beta), float(activation.linear)


def gated_activation(gate_up: Tensor, activation: Activation) -> Tensor:
    width = gate_up.shape[-1] // 2
    out = torch.empty(*gate_up.shape[:-1], width, dtype=gate_up.dtype, device=gate_up.device)
    if not out.numel():
        return out
    x, *strides = row_strides(gate_up)
    _gated_activation[(triton.cdiv(out.numel(), _BLOCK),)](
        x, out, out.numel(), width, *strides, *numbers_of(activation), kind_of(activation), _BLOCK
    )
    return out


def sigmoid_gate(x: Tensor, gate: Tensor) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    width = x.shape[-1]
    one = gate.shape[-1] == 1
    (x, *strides), (gate, *gate_strides) = row_strides(x), row_strides(gate)
    grid = (triton.cdiv(out.numel(), _BLOCK),)
    _sigmoid_gate[grid](x, gate, out, out.numel(), width, *strides, *gate_strides, one, _BLOCK)
    return out


def activate(x: Tensor, kind: str, scale: float = 1.0, factor: float = 1.0) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        x, *strides = row_strides(x)
        grid = (triton.cdiv(out.numel(), _BLOCK),)
        _activate[grid](x, out, out.numel(), out.shape[-1], *strides, scale, factor, _SILU[kind], _BLOCK)
    return out


def delta_gates(
    a: Tensor, b: Tensor, a_log: Tensor, dt_bias: Tensor, lower_bound: float | None = None
) -> tuple[Tensor, Tensor]:
    decay = torch.empty(a.shape, dtype=torch.float32, device=a.device)
    beta = torch.empty(b.shape, dtype=torch.float32, device=b.device)
    if not decay.numel():
        return decay, beta
    wide = a if a.ndim == 3 else a[..., None]
    if a.ndim == 3 and a.stride(-1) != 1:
        wide = a.contiguous()
    if b.stride(-1) != 1:
        b = b.contiguous()
    num_rows, num_heads, width = wide.shape
    _delta_gates[(triton.cdiv(decay.numel(), _BLOCK),)](
        wide, b, a_log.contiguous(), dt_bias.contiguous(), decay, beta, num_rows, num_heads, width,
        wide.stride(0), wide.stride(1), b.stride(0), lower_bound or 0.0, lower_bound is not None, _BLOCK,
    )  # fmt: skip
    return decay, beta
