"""Products with packed weights, dequantised on the way into the multiplier; and plain ones of one fixed shape.

Few rows are bound by reading the weight: then the sum is split over programs too, and the parts are added in order. Many
rows are bound by the multiplier: then the weight is expanded first, and the vendor's library multiplies.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.weights import Packed, Rows, Weight
from ...ops import Activation
from ...reference import embed as _plain_embed
from ...reference import linear as _plain
from .common import inner, kernel, precision
from .packed import DENSE, Matrix, expand, matrix, multiply
from .pointwise import gated, gated_activation, kind_of, numbers_of
from .split import num_splits

_FEW = 16  # rows up to which the sum is split over programs, and up to which gates are joined to what they let by at once
_MANY = 256  # rows above which a packed weight is expanded: that costs less than a twentieth of the product


@kernel
def _linear(
    x, weight, scale, zeros, bias, out, num_rows, height, width, x_s, x_h, w_head, w_row, s_row, out_s, out_h, row_group, part,
    limit, beta, line,
    KIND: tl.constexpr, E8M0: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr, BIAS: tl.constexpr, SPLITS: tl.constexpr,
    GATED: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`height` columns of the result; where it is gated, the weight has as many rows of gates and then of what they let by."""
    item = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)
    row = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N).to(tl.int64)
    last = tl.program_id(2)  # a head, or a part of the sum
    valid, has = item < num_rows, row < height
    begin, end = 0, width
    if SPLITS > 1:
        begin = last * part
        end = tl.minimum(begin + part, width)
        target = out + last.to(tl.int64) * num_rows * height
    else:
        x += last.to(tl.int64) * x_h
        weight += last.to(tl.int64) * w_head
        target = out + last.to(tl.int64) * out_h
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    up = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for first in range(begin, end, BLOCK_K):
        acc = multiply(
            acc, x + item[None, :] * x_s, valid[None, :], weight, scale, zeros, row, has, first, end, w_row, s_row, row_group,
            KIND, E8M0, GROUP, STEP, PRECISION, BLOCK_K,
        )  # fmt: skip
        if GATED >= 0:
            up = multiply(
                up, x + item[None, :] * x_s, valid[None, :], weight, scale, zeros, row + height, has, first, end, w_row, s_row,
                row_group, KIND, E8M0, GROUP, STEP, PRECISION, BLOCK_K,
            )  # fmt: skip
    if BIAS:
        acc += tl.load(bias + row, mask=has, other=0.0).to(tl.float32)[:, None]
    if GATED >= 0:
        if BIAS:
            up += tl.load(bias + height + row, mask=has, other=0.0).to(tl.float32)[:, None]
        acc = gated(acc, up, limit, beta, line, GATED)
    at = item[None, :] * out_s + row[:, None]
    tl.store(target + at, acc.to(out.dtype.element_ty), mask=valid[None, :] & has[:, None])


@triton.jit
def _added(parts, bias, at, column, inside, size, BIAS: tl.constexpr, SPLITS: tl.constexpr):
    """The sums of some columns of rows, each of parts `size` apart."""
    y = tl.zeros(at.shape, tl.float32)
    for part in range(SPLITS):
        y += tl.load(parts + part * size + at, mask=inside, other=0.0)
    if BIAS:
        y += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    return y


@triton.jit
def _add_parts(
    parts, bias, out, size, height, limit, beta, line,
    BIAS: tl.constexpr, SPLITS: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The `size` numbers of the result, `height` a row; gated, the parts have two columns for each."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside, column = i < size, i % height
    if GATED < 0:
        y = _added(parts, bias, i, column, inside, size, BIAS, SPLITS)
    else:
        at = i // height * (2 * height) + column
        gate = _added(parts, bias, at, column, inside, 2 * size, BIAS, SPLITS)
        up = _added(parts, bias, at + height, column + height, inside, 2 * size, BIAS, SPLITS)
        y = gated(gate, up, limit, beta, line, GATED)
    tl.store(out + i, y.to(out.dtype.element_ty), mask=inside)


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
    programs = triton.cdiv(num_rows, block_m) * triton.cdiv(height, block_n)
    splits = 1 if fixed or heads > 1 or num_rows > _FEW else min(num_splits(programs, width, block_k, x.device), 8)
    part = triton.cdiv(triton.cdiv(width, splits), block_k) * block_k
    splits = triton.cdiv(width, part)
    kind, numbers = (-1, (0.0, 0.0, 0.0)) if activation is None else (kind_of(activation), numbers_of(activation))
    target, wide = out, columns
    if splits > 1:
        target, wide = torch.empty(splits, num_rows, height, dtype=torch.float32, device=x.device), height
    grid = (triton.cdiv(num_rows, block_m), triton.cdiv(wide, block_n), max(heads, splits))
    out_s = height if splits > 1 else out.stride(0)
    _linear[grid](
        x, weight.data, weight.scale, weight.zeros, x if bias is None else bias, target, num_rows, wide, width,
        x.stride(0), x.stride(1) if heads > 1 else 0, weight.data.stride(0) if len(shape) == 3 else 0,
        weight.data.stride(-2), weight.scale.stride(-2), out_s, wide, weight.row_group, part,
        *numbers, weight.kind, weight.e8m0, weight.group, weight.step(block_k), bias is not None and splits == 1, splits,
        kind if splits == 1 else -1, precision(x.dtype),
        block_m, block_n, block_k, num_warps=warps,
    )  # fmt: skip
    if splits > 1:
        blocks = (triton.cdiv(out.numel(), 1024),)
        _add_parts[blocks](
            target, x if bias is None else bias, out, out.numel(), columns, *numbers, bias is not None, splits, kind, 1024
        )
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
