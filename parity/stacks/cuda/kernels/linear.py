"""Products with packed weights, dequantised on the way into the multiplier; and plain ones of few rows, or of one fixed shape.

Few rows are bound by reading the weight. Then the sum is split over programs too, of which many run on a multiprocessor, so
that some wait for the memory while others multiply; the last to end adds the parts, in order. Many rows are bound by the
multiplier: then a packed weight is expanded first, and the vendor's library multiplies.

Chosen experts are such products too: each pair of a row and its expert is a head, with the expert's matrix.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.weights import Packed, Rows, Weight
from ...ops import Activation
from ...reference import embed as _plain_embed
from ...reference import linear as _plain
from .common import ask_ahead, inner, kernel, precision, take_turn
from .packed import DENSE, Matrix, expand, matrix, multiply
from .pointwise import gated, gated_activation, kind_of, numbers_of
from .split import num_splits

_FEW = 16  # rows up to which the sum is split over programs, and up to which gates are joined to what they let by at once
_TOGETHER = 6  # programs wanted on each multiprocessor where few rows wait for the weight
_PLAIN = 8  # rows up to which a plain weight is read by our kernel, which asks for it while the launch before still runs
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
    x, weight, scale, zeros, bias, out, parts, arrivals, index, shares, num_rows, height, width, x_s, x_h, w_head, w_row,
    s_head, s_row, out_s, out_h, row_group, part, per_x, limit, beta, line,
    KIND: tl.constexpr, E8M0: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr, AHEAD: tl.constexpr,
    CHOSEN: tl.constexpr, JOINED: tl.constexpr, BIAS: tl.constexpr, SPLITS: tl.constexpr, GATED: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`height` columns of the result; where it is gated, the weight has as many rows of gates and then of what they let by.

    AHEAD is how many columns a number of the weight holds, if it is asked for ahead, or 0. A head has the matrix that `index`
    names if CHOSEN, and the input of `per_x` heads is the same. Where a sum is split, each program leaves its part, and the
    last of a tile adds them; of JOINED heads at once, if that is not 1, times their `shares`.
    """
    item = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)
    row = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    head, split = tl.program_id(2).to(tl.int64) // SPLITS, tl.program_id(2) % SPLITS
    valid, has = item < num_rows, row < height
    mask = valid[None, :] & has[:, None]
    read = tl.minimum(row, height - 1)  # a row too many is read, and left out
    first_scale, up_scale = (read // row_group).to(tl.int64) * s_row, ((read + height) // row_group).to(tl.int64) * s_row
    read = read.to(tl.int64)
    begin, end = split * part, tl.minimum(split * part + part, width)
    x += head // per_x * x_h
    if AHEAD > 0:
        ask_ahead(weight + head * w_head, read, w_row, begin // AHEAD)
        if GATED >= 0:
            ask_ahead(weight + head * w_head, read + height, w_row, begin // AHEAD)
    take_turn()
    matrix = head
    if CHOSEN:
        matrix = tl.load(index + head).to(tl.int64)
    weight += matrix * w_head
    scale += matrix * s_head
    zeros += matrix * s_head
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    up = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for first in range(begin, end, BLOCK_K):
        acc = multiply(
            acc, x + item[None, :] * x_s, valid[None, :], weight, scale, zeros, read, first_scale, first, end, w_row,
            KIND, E8M0, GROUP, STEP, EVEN, PRECISION, BLOCK_K,
        )  # fmt: skip
        if GATED >= 0:
            up = multiply(
                up, x + item[None, :] * x_s, valid[None, :], weight, scale, zeros, read + height, up_scale, first, end, w_row,
                KIND, E8M0, GROUP, STEP, EVEN, PRECISION, BLOCK_K,
            )  # fmt: skip
    at = item[None, :] * out_s + row[:, None]
    if SPLITS * JOINED == 1:
        _leave(acc, up, bias, out + head * out_h, at, mask, row, has, height, limit, beta, line, BIAS, GATED)
    else:
        size, kept = num_rows * height, 2 if GATED >= 0 else 1
        mine = parts + head * SPLITS * kept * size + item[None, :] * height + row[:, None]
        tl.store(mine + split * size, acc, mask=mask)
        if GATED >= 0:
            tl.store(mine + (SPLITS + split) * size, up, mask=mask)
        tile = (head // JOINED * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(1) + tl.program_id(1)
        if _arrived_last(arrivals + tile, SPLITS * JOINED):
            if JOINED == 1:
                acc = _added(mine, mask, size, SPLITS)
                if GATED >= 0:
                    up = _added(mine + SPLITS * size, mask, size, SPLITS)
            else:
                acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
                first_head = head // JOINED * JOINED
                for each in range(JOINED):
                    theirs = parts + (first_head + each) * SPLITS * size + item[None, :] * height + row[:, None]
                    one = _added(theirs, mask, size, SPLITS).to(out.dtype.element_ty).to(tl.float32)
                    acc += one * tl.load(shares + first_head + each).to(tl.float32)
            to = out + head // JOINED * out_h
            _leave(acc, up, bias, to, at, mask, row, has, height, limit, beta, line, BIAS, GATED)


_TILES = 1 << 16  # of one launch, at most


@functools.cache
def _arrivals(device: torch.device) -> Tensor:
    """Where the programs of a tile are counted: zero between launches, of which a device runs one after the other."""
    return torch.zeros(_TILES, dtype=torch.int32, device=device)


def _tiles(num_rows: int, dtype: torch.dtype, dense: bool) -> tuple[int, int, int, int]:
    """(BLOCK_M rows of x, BLOCK_N of the weight, BLOCK_K, warps)."""
    if dtype == torch.float32:
        return (16, 32, 128, 4) if num_rows <= 16 else (32, 32, 128, 4)
    block_k = 64 if dense else 128
    if num_rows <= 32:
        return (16 if num_rows <= 16 else 32), 64, block_k, 4
    return 64, 128, block_k, 8


@dataclass(frozen=True)
class _Chosen:
    """Which matrix each head takes, int [heads], how many heads share an input, and what `join` heads are added with."""

    index: Tensor
    per_x: int
    shares: Tensor | None = None
    join: int = 1


def _multiply(
    x: Tensor,
    weight: Matrix,
    shape: tuple[int, ...],
    bias: Tensor | None,
    *,
    fixed: bool,
    activation: Activation | None = None,
    chosen: _Chosen | None = None,
) -> Tensor:
    """x [T, I] or [T, H, I] with a weight of a logical shape [O, I] or [H, O, I]; with an activation, [2 O, I].

    With chosen matrices of [E, O, I], x [T, I] gives [heads / join, O].
    """
    x = inner(x)
    height, width = shape[-2:]
    columns = height if activation is None else height // 2
    if chosen is not None:
        heads, num_rows, x_strides, per_x, joined = len(chosen.index), 1, (0, x.stride(0)), chosen.per_x, chosen.join
        out = torch.empty(heads // joined, columns, dtype=x.dtype, device=x.device)
        out_strides = (0, columns)
    else:
        heads, num_rows, per_x, joined = shape[0] if len(shape) == 3 else 1, x.shape[0], 1, 1
        out = torch.empty(*x.shape[:-1], columns, dtype=x.dtype, device=x.device)
        x_strides, out_strides = (x.stride(0), x.stride(1) if heads > 1 else 0), (out.stride(0), columns)
    if not out.numel():
        return out
    block_m, block_n, block_k, warps = _tiles(33 if fixed else num_rows, x.dtype, weight.kind == DENSE)
    tiles, splits = triton.cdiv(num_rows, block_m) * triton.cdiv(columns, block_n) * heads, 1
    few = not fixed and num_rows <= _FEW
    if few and tiles <= _TILES and (heads == 1 or chosen is not None):
        splits = min(num_splits(tiles, width, block_k, x.device, _TOGETHER), 8)
    part = triton.cdiv(triton.cdiv(width, splits), block_k) * block_k
    splits = triton.cdiv(width, part)
    kind, numbers = (-1, (0.0, 0.0, 0.0)) if activation is None else (kind_of(activation), numbers_of(activation))
    parts = arrivals = out
    if splits * joined > 1:
        parts = torch.empty(heads * splits, num_rows, height, dtype=torch.float32, device=x.device)
        arrivals = _arrivals(x.device)
    stacked = len(shape) == 3
    _linear[(triton.cdiv(num_rows, block_m), triton.cdiv(columns, block_n), heads * splits)](
        x, weight.data, weight.scale, weight.zeros, x if bias is None else bias, out, parts, arrivals,
        x if chosen is None else chosen.index, x if chosen is None or chosen.shares is None else chosen.shares,
        num_rows, columns, width, *x_strides, weight.data.stride(0) if stacked else 0, weight.data.stride(-2),
        weight.scale.stride(0) if stacked else 0, weight.scale.stride(-2), *out_strides, weight.row_group, part, per_x,
        *numbers, weight.kind, weight.e8m0, weight.group, weight.step(block_k), width % block_k == 0,
        weight.per_number if few and chosen is None else 0, chosen is not None, joined, bias is not None, splits, kind,
        precision(x.dtype), block_m, block_n, block_k, num_warps=warps,
    )  # fmt: skip
    return out


def chosen_linear(
    x: Tensor,
    weight: Tensor | Packed,
    experts: Tensor,
    activation: Activation | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """Few rows with a matrix each of a stack [E, O, I].

    Args:
        x: rows [P / n, I], each for n neighbouring pairs.
        experts: the matrix of each pair, int [P].
        activation: rows of the matrix are gates and then what they let by.
        shares: float32 [T, k] with T k = P; each T's k results are added, times these.

    Returns:
        [P, O], or [T, O] with shares.
    """
    join = 1 if shares is None else shares.shape[1]
    pairs = _Chosen(experts, len(experts) // x.shape[0], shares, join)
    return _multiply(x, matrix(weight), tuple(weight.shape), None, fixed=False, activation=activation, chosen=pairs)


def embed(tokens: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
    """Rows of a packed weight are expanded as they are gathered; a plain one is PyTorch's to gather."""
    return expand(weight, dtype, tokens) if isinstance(weight, Packed) else _plain_embed(tokens, weight, dtype)


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """Weights of few rows go to the kernel above, plain ones of more to the vendor's library; packed ones of many, expanded."""
    if isinstance(weight, Rows):
        y = torch.cat([linear(x, part) for part in weight.parts], dim=-1)
        return y if bias is None else y + bias.to(y.dtype)
    if isinstance(weight, Packed):
        x, weight = _in_order(x, weight)
        if x.shape[0] > _MANY:
            return _plain(x, expand(weight, x.dtype), bias)
        return _multiply(x, matrix(weight), weight.shape, bias, fixed=False)
    if _is_few_plain(x, weight):
        return _multiply(x, matrix(weight), tuple(weight.shape), bias, fixed=False)
    return _plain(x, weight, bias)


def _is_few_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether so few rows meet a plain weight that our kernel reads it; in float32 the vendor's always does."""
    return x.shape[0] <= _PLAIN and x.dtype.itemsize == 2 and weight.dtype == x.dtype


def linear_fixed(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """A row's sum in one order, whatever rows are beside it."""
    if isinstance(weight, Rows):
        y = torch.cat([linear_fixed(x, part) for part in weight.parts], dim=-1)
        return y if bias is None else y + bias.to(y.dtype)
    if isinstance(weight, Packed):
        x, weight = _in_order(x, weight)
    return _multiply(x, matrix(weight), tuple(weight.shape), bias, fixed=True)


def gated_linear(x: Tensor, weight: Weight, bias: Tensor | None, activation: Activation) -> Tensor:
    """One launch where few rows meet one matrix."""
    if isinstance(weight, Packed) and x.shape[0] <= _FEW:
        x, weight = _in_order(x, weight)
        return _multiply(x, matrix(weight), weight.shape, bias, fixed=False, activation=activation)
    if isinstance(weight, Tensor) and _is_few_plain(x, weight):
        return _multiply(x, matrix(weight), tuple(weight.shape), bias, fixed=False, activation=activation)
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
