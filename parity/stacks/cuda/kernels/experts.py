"""Grouped experts: each expert's rows are brought together and multiplied in tiles, in the weights' own format.

Five launches whatever the routing, and no number goes to the host: rows ordered by expert, gate and up, their activation,
down, and the weighted sum in the order of k. Few rows, whose experts hardly meet, take two: each pair is a product by itself.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.weights import Packed
from ...ops import Activation
from .common import inner, kernel, power, precision, take_turn, tile_of
from .linear import chosen_linear
from .packed import DENSE, matrix, multiply
from .pointwise import gated_activation

_PAIRS = 1024  # (row, expert) pairs looked at in one step
_APART = 32  # pairs up to which each is a product by itself


@kernel
def _order(experts, order, starts, num_pairs, num_experts, BLOCK: tl.constexpr):
    """Stable order of the pairs by expert: one program an expert finds its own pairs, after those of lower experts."""
    take_turn()
    expert = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    lower = tl.zeros([BLOCK], tl.int32)
    for first in range(0, num_pairs, BLOCK):
        chosen = tl.load(experts + first + lane, mask=first + lane < num_pairs, other=num_experts)
        lower += (chosen < expert).to(tl.int32)
    place = tl.sum(lower, axis=0)
    tl.store(starts + expert, place)
    if expert < num_experts:
        for first in range(0, num_pairs, BLOCK):
            chosen = tl.load(experts + first + lane, mask=first + lane < num_pairs, other=num_experts)
            mine = (chosen == expert).to(tl.int32)
            tl.store(order + place + tl.cumsum(mine, axis=0) - 1, first + lane, mask=mine > 0)
            place += tl.sum(mine, axis=0)


@kernel
def _grouped(
    x, weight, scale, zeros, order, starts, out, num_experts, height, width, x_s, per_row, w_expert, w_row, s_expert, s_row,
    row_group,
    KIND: tl.constexpr, E8M0: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    take_turn()
    expert, first, items, start = tile_of(starts, num_experts, 1, tl.program_id(0), BLOCK_M, BLOCK_E)
    if expert < num_experts:
        item = first + tl.arange(0, BLOCK_M)
        valid = item < items
        pair = tl.load(order + start + item, mask=valid, other=0).to(tl.int64)
        row = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        has, read = row < height, tl.minimum(row, height - 1)
        shares, read = (read // row_group).to(tl.int64) * s_row, read.to(tl.int64)
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        mine = expert.to(tl.int64)
        for k in range(0, width, BLOCK_K):
            acc = multiply(
                acc, x + (pair // per_row)[None, :] * x_s, valid[None, :], weight + mine * w_expert, scale + mine * s_expert,
                zeros + mine * s_expert, read, shares, k, width, w_row,
                KIND, E8M0, GROUP, STEP, EVEN, PRECISION, BLOCK_K,
            )  # fmt: skip
        at = pair[None, :] * height + row[:, None]
        tl.store(out + at, acc.to(out.dtype.element_ty), mask=valid[None, :] & has[:, None])


@kernel
def _weighted_sum(parts, weights, out, width, top_k, BLOCK: tl.constexpr):
    take_turn()
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
    order, starts = pairs.new_empty(pairs.numel()), pairs.new_empty(num_experts + 1)
    block = min(power(pairs.numel()), _PAIRS)
    _order[(num_experts + 1,)](pairs, order, starts, pairs.numel(), num_experts, block, num_warps=4)
    return order, starts


def _product(x: Tensor, weight: Tensor | Packed, order: Tensor, starts: Tensor, per_row: int, fixed: bool) -> Tensor:
    """Each pair's row of x with its expert's matrix: [pairs, out]; row of x = pair // per_row."""
    pairs, (num_experts, height, width) = order.numel(), weight.shape
    form = matrix(weight)
    out = torch.empty(pairs, height, dtype=x.dtype, device=x.device)
    full = x.dtype == torch.float32
    few = not fixed and pairs <= 4 * num_experts
    block_m, block_n = (16, 32 if full else 64) if few else (32, 32) if full else (64, 128)
    block_k = 64 if form.kind == DENSE and not full else 128
    tiles = triton.cdiv(pairs, block_m) + min(num_experts, pairs)
    _grouped[(tiles, triton.cdiv(height, block_n))](
        x, form.data, form.scale, form.zeros, order, starts, out, num_experts, height, width, x.stride(0), per_row,
        form.data.stride(0), form.data.stride(1), form.scale.stride(0), form.scale.stride(1), form.row_group,
        form.kind, form.e8m0, form.group, form.step(block_k), width % block_k == 0, precision(x.dtype),
        block_m, block_n, block_k, power(num_experts), num_warps=8 if block_n == 128 else 4,
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
    if not fixed and experts.numel() <= _APART:
        pairs = experts.flatten()
        hidden = chosen_linear(x, gate_up, pairs, activation)
        return chosen_linear(hidden, down, pairs, shares=weights.contiguous())
    order, starts = _ordered(experts.contiguous(), gate_up.shape[0])
    hidden = gated_activation(_product(inner(x), gate_up, order, starts, top_k, fixed), activation)
    parts = _product(hidden, down, order, starts, 1, fixed)
    block = min(power(height), 1024)
    _weighted_sum[(num_rows, triton.cdiv(height, block))](parts, weights.contiguous(), out, height, top_k, block)
    return out


def fixed(*args: Any, **options: Any) -> Tensor:
    """`experts` with a row computed the same way whatever its batch."""
    return experts(*args, **options, fixed=True)
