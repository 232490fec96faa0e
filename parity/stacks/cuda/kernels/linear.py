"""Products with packed weights, dequantised on the way into the multiplier; and plain ones of one fixed shape.

Few rows are bound by reading the weight: then the sum is split over programs too, of which many run on a multiprocessor, so
that some wait for the memory while others multiply; the last to end adds the parts, in order. Many
rows are bound by the multiplier: then the weight is expanded first, and the vendor's library multiplies.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.weights import Packed, Rows, Weight
from ...ops import Activation
from ...reference import embed as _plain_embed
from ...reference import linear as _plain
from .common import inner, kernel, precision, take_turn
from .packed import DENSE, Matrix, expand, matrix, multiply
from .pointwise import gated, gated_activation, kind_of, numbers_of
from .split import num_splits

_FEW = 16  # rows up to which the sum is split over programs, and up to which gates are joined to what they let by at once
_TOGETHER = 6  # programs wanted on each multiprocessor where few rows wait for the weight
_MANY = 256  # rows above which a packed weight is expanded: that costs less than a twentieth of the product


@triton.jit
def _arrived_last(arrivals, SPLITS: tl.constexpr):
    """Whether this program comes here last of a tile's; what the others stored before is there for it."""
    tl.debug_barrier()
    last = tl.atomic_add(arrivals, 1, sem="acq_rel", scope="gpu") == SPLITS - 1
    if last:
        tl.store(arrivals, 0)  # for the next launch
    return last


@triton.jit
def _added(parts, mask, size, SPLITS: tl.constexpr):
    """The sum of parts that lie `size` apart, in order. Past the cache of a multiprocessor: others wrote them."""
    y = tl.load(parts, mask=mask, other=0.0, cache_modifier=".cg")
    for part in range(1, SPLITS):
        y += tl.load(parts + part * size, mask=mask, other=0.0, cache_modifier=".cg")
    return y


@triton.jit
def _leave(
    acc, up, bias, out, at, mask, row, has, height, limit, beta, line, BIAS: tl.constexpr, GATED: tl.constexpr
):  # fmt: skip
    """The finished sums [N, M] to the result."""
    if BIAS:
        acc += tl.load(bias + row, mask=has, other=0.0).to(tl.float32)[:, None]
    if GATED >= 0:
        if BIAS:
            up += tl.load(bias + height + row, mask=has, other=0.0).to(tl.float32)[:, None]
        acc = gated(acc, up, limit, beta, line, GATED)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=mask)


@kernel
def _linear(
    x, weight, scale, zeros, bias, out, parts, arrivals, num_rows, height, width, x_s, x_h, w_head, w_row, s_row, out_s, out_h,
    row_group, part, limit, beta, line,
    KIND: tl.constexpr, E8M0: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr, BIAS: tl.constexpr,
    SPLITS: tl.constexpr, GATED: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`height` columns of the result; where it is gated, the weight has as many rows of gates and then of what they let by.

    Where a sum is split, each program leaves its part, and the last of a tile adds them.
    """
    take_turn()
    item = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)
    row = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    third = tl.program_id(2)  # a head, or a part of the sum
    valid, has = item < num_rows, row < height
    mask = valid[None, :] & has[:, None]
    read = tl.minimum(row, height - 1)  # a row too many is read, and left out
    shares, up_shares = (read // row_group).to(tl.int64) * s_row, ((read + height) // row_group).to(tl.int64) * s_row
    read = read.to(tl.int64)
    begin, end = 0, width
    if SPLITS > 1:
        begin = third * part
        end = tl.minimum(begin + part, width)
    else:
        x += third.to(tl.int64) * x_h
        weight += third.to(tl.int64) * w_head
        out += third.to(tl.int64) * out_h
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    up = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for first in range(begin, end, BLOCK_K):
        acc = multiply(
            acc, x + item[None, :] * x_s, valid[None, :], weight, scale, zeros, read, shares, first, end, w_row,
            KIND, E8M0, GROUP, STEP, EVEN, PRECISION, BLOCK_K,
        )  # fmt: skip
        if GATED >= 0:
            up = multiply(
                up, x + item[None, :] * x_s, valid[None, :], weight, scale, zeros, read + height, up_shares, first, end,
                w_row, KIND, E8M0, GROUP, STEP, EVEN, PRECISION, BLOCK_K,
            )  # fmt: skip
    at = item[None, :] * out_s + row[:, None]
    if SPLITS == 1:
        _leave(acc, up, bias, out, at, mask, row, has, height, limit, beta, line, BIAS, GATED)
    else:
        size = num_rows * height
        mine = parts + item[None, :] * height + row[:, None]
        tl.store(mine + third.to(tl.int64) * size, acc, mask=mask)
        if GATED >= 0:
            tl.store(mine + (SPLITS + third).to(tl.int64) * size, up, mask=mask)
        if _arrived_last(arrivals + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), SPLITS):
            acc = _added(mine, mask, size, SPLITS)
            if GATED >= 0:
                up = _added(mine + SPLITS * size, mask, size, SPLITS)
            _leave(acc, up, bias, out, at, mask, row, has, height, limit, beta, line, BIAS, GATED)


_TILES = 1 << 16  # of one launch, at most


@functools.cache
def _arrivals(device: torch.device) -> Tensor:
    """Where the programs of a tile are counted: zero between launches, of which a device runs one after the other."""
    return torch.zeros(_TILES, dtype=torch.int32, device=device)


def _tiles(num_rows: int, dtype: torch.dtype, dense: bool) -> tuple[int, int, int, int]:
    """(BLOCK_M rows of x, BLOCK_N of the weight, BLOCK_K, warps)."""
    if dtype == torch.float32:
        return (16, 32, 128, 4) if num_rows <= 16 else (32, 32, 128, 4)
    if num_rows <= 32:
        return (16 if num_rows <= 16 else 32), 64, 128, 4
    return 64, 128, 64 if dense else 128, 8


def _multiply(
    x: Tensor,
    weight: Matrix,
    shape: tuple[int, ...],
    bias: Tensor | None,
    *,
    fixed: bool,
    activation: Activation | None = None,
) -> Tensor:
    """x [T, I] or [T, H, I] with a weight of a logical shape [O, I] or [H, O, I]; with an activation, [2 O, I]."""
    x = inner(x)
    height, width = shape[-2:]
    heads = shape[0] if len(shape) == 3 else 1
    num_rows, columns = x.shape[0], height if activation is None else height // 2
    out = torch.empty(*x.shape[:-1], columns, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    block_m, block_n, block_k, warps = _tiles(33 if fixed else num_rows, x.dtype, weight.kind == DENSE)
    tiles, splits = triton.cdiv(num_rows, block_m) * triton.cdiv(columns, block_n), 1
    if not fixed and heads == 1 and num_rows <= _FEW and tiles <= _TILES:
        splits = min(num_splits(tiles, width, block_k, x.device, _TOGETHER), 8)
    part = triton.cdiv(triton.cdiv(width, splits), block_k) * block_k
    splits = triton.cdiv(width, part)
    kind, numbers = (-1, (0.0, 0.0, 0.0)) if activation is None else (kind_of(activation), numbers_of(activation))
    parts = arrivals = out
    if splits > 1:
        parts = torch.empty(splits, num_rows, height, dtype=torch.float32, device=x.device)
        arrivals = _arrivals(x.device)
    grid = (triton.cdiv(num_rows, block_m), triton.cdiv(columns, block_n), max(heads, splits))
    _linear[grid](
        x, weight.data, weight.scale, weight.zeros, x if bias is None else bias, out, parts, arrivals, num_rows, columns, width,
        x.stride(0), x.stride(1) if heads > 1 else 0, weight.data.stride(0) if len(shape) == 3 else 0,
        weight.data.stride(-2), weight.scale.stride(-2), out.stride(0), columns, weight.row_group, part,
        *numbers, weight.kind, weight.e8m0, weight.group, weight.step(block_k), width % block_k == 0, bias is not None, splits,
        kind, precision(x.dtype), block_m, block_n, block_k, num_warps=warps,
    )  # fmt: skip
    return out


def embed(tokens: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
    """Rows of a packed weight are expanded as they are gathered; a plain one is PyTorch's to gather."""
    return expand(weight, dtype, tokens) if isinstance(weight, Packed) else _plain_embed(tokens, weight, dtype)


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """Plain weights go to the vendor's library, packed ones to the kernel above; expanded first if there are many rows."""
    if isinstance(weight, Rows):
        y = torch.cat([linear(x, part) for part in weight.parts], dim=-1)
        return y if bias is None else y + bias.to(y.dtype)
    if isinstance(weight, Packed):
        x, weight = _in_order(x, weight)
        if x.shape[0] > _MANY:
            return _plain(x, expand(weight, x.dtype), bias)
        return _multiply(x, matrix(weight), weight.shape, bias, fixed=False)
    return _plain(x, weight, bias)


def linear_fixed(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """A row's sum in one order, whatever rows are beside it."""
    if isinstance(weight, Rows):
        y = torch.cat([linear_fixed(x, part) for part in weight.parts], dim=-1)
        return y if bias is None else y + bias.to(y.dtype)
    if isinstance(weight, Packed):
        x, weight = _in_order(x, weight)
    return _multiply(x, matrix(weight), tuple(weight.shape), bias, fixed=True)


def gated_linear(x: Tensor, weight: Weight, bias: Tensor | None, activation: Activation) -> Tensor:
    """One launch where few rows meet a packed matrix, two where its sum is split."""
    if isinstance(weight, Packed) and x.shape[0] <= _FEW:
        x, weight = _in_order(x, weight)
        return _multiply(x, matrix(weight), weight.shape, bias, fixed=False, activation=activation)
    return gated_activation(linear(x, weight, bias), activation)


def gated_linear_fixed(x: Tensor, weight: Weight, bias: Tensor | None, activation: Activation) -> Tensor:
    return gated_activation(linear_fixed(x, weight, bias), activation)


def _in_order(x: Tensor, weight: Packed) -> tuple[Tensor, Packed]:
    """x with its columns in the order that the weight's are stored in, and the weight in that order."""
    if "order" not in weight.arrays:
        return x, weight
    arrays = {role: array for role, array in weight.arrays.items() if role != "order"}
    return x[..., weight.arrays["order"]], Packed(weight.format, weight.shape, arrays, weight.meta)


def head_linear_fixed(x: Tensor, weight: Tensor) -> Tensor:
    """A row's sum in one order, whatever rows are beside it."""
    return _multiply(x, matrix(weight), tuple(weight.shape), None, fixed=True)
