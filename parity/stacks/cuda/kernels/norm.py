"""Norms over the last dimension: plain, fused with the residual's add, gated, and LayerNorm."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import kernel, power, row_strides, sigmoid, take_turn

_TILE = 4096  # elements of a program


@kernel
def _rms_norm(
    x, gate, weight, out, num_rows, width, x_n, x_s, x_t, gate_n, gate_s, gate_t, eps,
    HAS_WEIGHT: tl.constexpr, ZERO_CENTRED: tl.constexpr, GATE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    take_turn()
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    inside = (rows < num_rows)[:, None] & (d < width)[None, :]
    at = (rows // x_n) * x_s + (rows % x_n) * x_t
    values = tl.load(x + at[:, None] + d[None, :], mask=inside, other=0.0).to(tl.float32)
    y = values * (1.0 / tl.sqrt(tl.sum(values * values, axis=1) / width + eps))[:, None]
    if HAS_WEIGHT:
        scale = tl.load(weight + d, mask=d < width, other=0.0).to(tl.float32)
        if ZERO_CENTRED:
            scale += 1.0
        y *= scale[None, :]
    if GATE:
        at = (rows // gate_n) * gate_s + (rows % gate_n) * gate_t
        g = tl.load(gate + at[:, None] + d[None, :], mask=inside, other=0.0).to(tl.float32)
        y *= sigmoid(g)
        if GATE == 2:
            y *= g
    tl.store(out + rows[:, None] * width + d[None, :], y.to(out.dtype.element_ty), mask=inside)


@kernel
def _add_rms_norm(
    x, residual, weight, out, total, num_rows, width, x_stride, residual_stride, eps,
    HAS_WEIGHT: tl.constexpr, ZERO_CENTRED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    take_turn()
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    inside = (rows < num_rows)[:, None] & (d < width)[None, :]
    a = tl.load(x + rows[:, None] * x_stride + d[None, :], mask=inside, other=0.0).to(tl.float32)
    b = tl.load(residual + rows[:, None] * residual_stride + d[None, :], mask=inside, other=0.0).to(tl.float32)
    joined = (a + b).to(total.dtype.element_ty)
    tl.store(total + rows[:, None] * width + d[None, :], joined, mask=inside)
    values = joined.to(tl.float32)
    y = values * (1.0 / tl.sqrt(tl.sum(values * values, axis=1) / width + eps))[:, None]
    if HAS_WEIGHT:
        scale = tl.load(weight + d, mask=d < width, other=0.0).to(tl.float32)
        if ZERO_CENTRED:
            scale += 1.0
        y *= scale[None, :]
    tl.store(out + rows[:, None] * width + d[None, :], y.to(out.dtype.element_ty), mask=inside)


@kernel
def _layer_norm(
    x, weight, bias, out, num_rows, width, x_n, x_s, x_t, eps, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    take_turn()
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    inside = (rows < num_rows)[:, None] & (d < width)[None, :]
    at = (rows // x_n) * x_s + (rows % x_n) * x_t
    values = tl.load(x + at[:, None] + d[None, :], mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, values - (tl.sum(values, axis=1) / width)[:, None], 0.0)
    y = centred * (1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / width + eps))[:, None]
    y = y * tl.load(weight + d, mask=d < width, other=0.0).to(tl.float32)[None, :]
    y += tl.load(bias + d, mask=d < width, other=0.0).to(tl.float32)[None, :]
    tl.store(out + rows[:, None] * width + d[None, :], y.to(out.dtype.element_ty), mask=inside)


def _blocks(width: int) -> tuple[int, int, int]:
    """(rows of a program, its width, warps): from the width alone, so that a row is summed the same way in any batch."""
    block = power(width)
    return max(1, min(_TILE // block, 16)), block, 4 if block <= 2048 else 8


_GATES = {"sigmoid": 1, "silu": 2}


def _norm(x: Tensor, gate: Tensor | None, weight: Tensor | None, eps: float, zero_centred: bool, kind: int) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    width = x.shape[-1]
    if not out.numel():
        return out
    x, *strides = row_strides(x)
    gate_, *gate_strides = row_strides(x if gate is None else gate)
    num_rows = out.numel() // width
    block_r, block_d, warps = _blocks(width)
    _rms_norm[(triton.cdiv(num_rows, block_r),)](
        x, gate_, x if weight is None else weight, out, num_rows, width, *strides, *gate_strides, eps,
        weight is not None, zero_centred, kind, block_r, block_d, num_warps=warps,
    )  # fmt: skip
    return out


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, zero_centred: bool = False) -> Tensor:
    return _norm(x, None, weight, eps, zero_centred, 0)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, activation: str) -> Tensor:
    return _norm(x, gate, weight, eps, False, _GATES[activation])


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float, zero_centred: bool = False
) -> tuple[Tensor, Tensor]:
    num_rows, width = x.shape
    out, total = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    if not out.numel():
        return out, total
    (x, _, x_stride, _), (residual, _, residual_stride, _) = row_strides(x), row_strides(residual)
    block_r, block_d, warps = _blocks(width)
    _add_rms_norm[(triton.cdiv(num_rows, block_r),)](
        x, residual, x if weight is None else weight, out, total, num_rows, width, x_stride, residual_stride, eps,
        weight is not None, zero_centred, block_r, block_d, num_warps=warps,
    )  # fmt: skip
    return out, total


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    width = x.shape[-1]
    if not out.numel():
        return out
    x, *strides = row_strides(x)
    num_rows = out.numel() // width
    block_r, block_d, warps = _blocks(width)
    grid = (triton.cdiv(num_rows, block_r),)
    _layer_norm[grid](x, weight, bias, out, num_rows, width, *strides, eps, block_r, block_d, num_warps=warps)
    return out
