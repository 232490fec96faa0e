"""Grouped experts: each expert's rows are brought together and multiplied in tiles, in the weights' own format.

Four launches whatever the routing, and no number goes to the host: rows ordered by expert, gate and up with their
activation, down, and the weighted sum in the order of k.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.weights import Packed
from ...ops import Activation
from .common import inner, power, precision, tile_of
from .packed import matrix, multiply
from .pointwise import gated_activation

_SMALL = 1024  # pairs ordered by one program


@triton.jit
def _order_small(experts, order, starts, num_pairs, num_experts, BLOCK: tl.constexpr, BLOCK_E: tl.constexpr):
    """Stable order of the pairs by expert, and where each expert's begin: counting, since they are few."""
    i = tl.arange(0, BLOCK)
    mine = tl.load(experts + i, mask=i < num_pairs, other=num_experts)
    e = tl.arange(0, BLOCK_E)
    place = tl.zeros([BLOCK], tl.int32)
    first = tl.zeros([BLOCK_E], tl.int32)
    for j in range(num_pairs):
        other = tl.load(experts + j)
        place += ((other < mine) | ((other == mine) & (j < i))).to(tl.int32)
        first += (other < e).to(tl.int32)
    tl.store(order + place, i, mask=i < num_pairs)
    tl.store(starts + e, first, mask=e <= num_experts)


@triton.jit
def _grouped(
    x, weight, scale, order, starts, out, num_experts, height, width, x_s, per_row, w_expert, w_row, s_expert, s_row,
    group, row_group, KIND: tl.constexpr, E8M0: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    expert, first, items, start = tile_of(starts, num_experts, 1, tl.program_id(0), BLOCK_M, BLOCK_E)
    if expert < num_experts:
        item = first + tl.arange(0, BLOCK_M)
        valid = item < items
        pair = tl.load(order + start + item, mask=valid, other=0).to(tl.int64)
        row = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N).to(tl.int64)
        has = row < height
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        mine = expert.to(tl.int64)
        for k in range(0, width, BLOCK_K):
            acc = multiply(
                acc, x + (pair // per_row)[:, None] * x_s, valid[:, None], 1, weight + mine * w_expert,
                scale + mine * s_expert, row, has, k, width, w_row, s_row, group, row_group,
                KIND, E8M0, PRECISION, BLOCK_K,
            )  # fmt: skip
        at = pair[:, None] * height + row[None, :]
        tl.store(out + at, acc.to(out.dtype.element_ty), mask=valid[:, None] & has[None, :])


@triton.jit
def _weighted_sum(parts, weights, out, width, top_k, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros([BLOCK], tl.float32)
    for k in range(top_k):
        part = tl.load(parts + (row * top_k + k) * width + d, mask=d < width, other=0.0).to(tl.float32)
        y += part * tl.load(weights + row * top_k + k).to(tl.float32)
    tl.store(out + row * width + d, y.to(out.dtype.element_ty), mask=d < width)


def _ordered(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """(pairs ordered by expert int32 [T k], where each expert's begin int32 [E + 1])."""
    pairs = experts.flatten()
    if pairs.numel() > _SMALL:
        ordered, order = torch.sort(pairs, stable=True)
        bounds = torch.arange(num_experts + 1, dtype=pairs.dtype, device=pairs.device)
        return order.int(), torch.searchsorted(ordered, bounds, out_int32=True)
    order, starts = pairs.new_empty(pairs.numel()), pairs.new_empty(num_experts + 1)
    _order_small[(1,)](
        pairs, order, starts, pairs.numel(), num_experts, power(pairs.numel()), power(num_experts + 1), num_warps=4
    )
    return order, starts


def _product(x: Tensor, weight: Tensor | Packed, order: Tensor, starts: Tensor, per_row: int, fixed: bool) -> Tensor:
    """Each pair's row of x with its expert's matrix: [pairs, out]; row of x = pair // per_row."""
    pairs, (num_experts, height, width) = order.numel(), weight.shape
    form = matrix(weight)
    out = torch.empty(pairs, height, dtype=x.dtype, device=x.device)
    full = x.dtype == torch.float32
    few = not fixed and pairs <= 4 * num_experts
    block_m, block_n, block_k = (16, 32, 64 if full else 128) if few else (32, 64, 32) if full else (64, 64, 64)
    tiles = triton.cdiv(pairs, block_m) + min(num_experts, pairs)
    _grouped[(tiles, triton.cdiv(height, block_n))](
        x, form.data, form.scale, order, starts, out, num_experts, height, width, x.stride(0), per_row,
        form.data.stride(0), form.data.stride(1), form.scale.stride(0), form.scale.stride(1), form.group, form.row_group,
        form.kind, form.e8m0, precision(x.dtype), block_m, block_n, block_k, power(num_experts), num_warps=4,
    )  # fmt: skip
    return out


def experts(
    x: Tensor,
    gate_up: Tensor | Packed,
    down: Tensor | Packed,
    weights: Tensor,
    experts: Tensor,
    activation: Activation,
    *,
    fixed: bool = False,
) -> Tensor:
    """As the contract says; `fixed` computes a row with the same tiles whatever its batch."""
    (num_rows, top_k), height = experts.shape, down.shape[1]
    out = torch.empty(num_rows, height, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    order, starts = _ordered(experts.contiguous(), gate_up.shape[0])
    hidden = gated_activation(_product(inner(x), gate_up, order, starts, top_k, fixed), activation)
    parts = _product(hidden, down, order, starts, 1, fixed)
    block = min(power(height), 1024)
    _weighted_sum[(num_rows, triton.cdiv(height, block))](parts, weights.contiguous(), out, height, top_k, block)
    return out


def fixed(*args: Any, **options: Any) -> Tensor:
    """`experts` with a row computed the same way whatever its batch."""
    return experts(*args, **options, fixed=True)
