"""Reading packed weights inside a product of matrices, and how each format is laid out for that.

A kernel walks along the sum in steps of BLOCK_K. Four-bit formats keep two neighbours in a byte: the low halves meet the
even columns of x and the high halves the odd ones, in two products, so nothing is interleaved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.weights import Packed, Weight
from .common import dot

DENSE, FP8, INT8, INT4, MXFP4 = range(5)
_KINDS = {"fp8_block": FP8, "int8_group": INT8, "int4_group": INT4, "mxfp4": MXFP4}
FORMATS = frozenset(_KINDS)
"""The packed formats that the kernels compute on."""


@triton.jit
def _e4m3(code):
    """Bits of an FP8 e4m3 number -> float32, by arithmetic alone: hardware without the type computes it too."""
    bits = code.to(tl.int32)
    exponent, mantissa = (bits >> 3) & 15, bits & 7
    normal = (((exponent + 120) << 23) | (mantissa << 20)).to(tl.float32, bitcast=True)
    y = tl.where(exponent == 0, mantissa.to(tl.float32) * 0.001953125, normal)
    return tl.where(bits >= 128, -y, y)


@triton.jit
def _e2m1(code):
    """Four bits of MXFP4 -> float32."""
    magnitude = code & 7
    exponent, half = (magnitude >> 1).to(tl.int32), (magnitude & 1).to(tl.float32)
    normal = (((exponent + 126) << 23).to(tl.float32, bitcast=True)) * (1.0 + 0.5 * half)
    y = tl.where(exponent == 0, 0.5 * half, normal)
    return tl.where(code >= 8, -y, y)


@triton.jit
def _scale(scale, at, mask, E8M0: tl.constexpr):
    """Scales as float32; bytes are powers of two."""
    if E8M0:
        byte = tl.load(scale + at, mask=mask, other=127).to(tl.int32)
        # 2^-127 has no normal number: it is half of 2^-126.
        return tl.where(byte == 0, 5.877471754111438e-39, (tl.maximum(byte, 1) << 23).to(tl.float32, bitcast=True))
    return tl.load(scale + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def multiply(
    acc, x, x_mask, x_k, weight, scale, row, row_mask, first, end, w_row, s_row, group, row_group,
    KIND: tl.constexpr, E8M0: tl.constexpr, PRECISION: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """acc + x[:, first : first + BLOCK_K] @ weight[row, the same].T, in float32.

    Args:
        x: pointers to the rows of x [M, 1] with their mask; x_k is the distance of columns.
        weight, scale: pointers to the matrix.
        row: rows of the weight [N] with their mask.
        end: the columns that exist.
        group: columns that share a scale; `row_group` rows do.
    """
    if KIND >= 3:
        byte = first // 2 + tl.arange(0, BLOCK_K // 2)
        exists = byte * 2 < end
        even = tl.load(x + (byte * 2)[None, :] * x_k, mask=x_mask & exists[None, :], other=0.0)
        odd = tl.load(x + (byte * 2 + 1)[None, :] * x_k, mask=x_mask & (byte * 2 + 1 < end)[None, :], other=0.0)
        mask = exists[:, None] & row_mask[None, :]
        code = tl.load(weight + row[None, :] * w_row + byte[:, None], mask=mask, other=0).to(tl.int32)
        share = _scale(scale, row[None, :] * s_row + (byte * 2 // group)[:, None], mask, E8M0)
        if KIND == 3:
            low, high = ((code & 15) - 8).to(tl.float32), ((code >> 4) - 8).to(tl.float32)
        else:
            low, high = _e2m1(code & 15), _e2m1(code >> 4)
        acc += dot(even, (low * share).to(even.dtype), PRECISION)
        acc += dot(odd, (high * share).to(even.dtype), PRECISION)
    else:
        k = first + tl.arange(0, BLOCK_K)
        exists = k < end
        values = tl.load(x + k[None, :] * x_k, mask=x_mask & exists[None, :], other=0.0)
        mask = exists[:, None] & row_mask[None, :]
        raw = tl.load(weight + row[None, :] * w_row + k[:, None], mask=mask, other=0)
        if KIND == 0:
            numbers = raw.to(values.dtype)
        else:
            share = _scale(scale, (row // row_group)[None, :] * s_row + (k // group)[:, None], mask, E8M0)
            code = _e4m3(raw) if KIND == 1 else raw.to(tl.float32)
            numbers = (code * share).to(values.dtype)
        acc += dot(values, numbers, PRECISION)
    return acc


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight [..., out, in] as kernels read it.

    Args:
        kind: DENSE, FP8, INT8, INT4 or MXFP4.
        data: its numbers or bytes [..., out, in or in / 2].
        scale: of groups; the data itself where there are none.
        group: columns that share a scale.
        row_group: rows that share a scale.
    """

    kind: int
    data: Tensor
    scale: Tensor
    group: int
    row_group: int

    @property
    def e8m0(self) -> bool:
        """Whether scales are bytes that stand for powers of two."""
        return self.kind != DENSE and self.scale.dtype == torch.uint8


def prepare(weight: Weight) -> Weight:
    """Contiguous arrays, so that kernels may read them as bytes."""
    if not isinstance(weight, Packed):
        return weight
    arrays = {role: array.contiguous() for role, array in weight.arrays.items()}
    return Packed(weight.format, weight.shape, arrays, weight.meta)


def matrix(weight: Tensor | Packed) -> Matrix:
    """How a kernel reads a weight that `prepare` has seen, or a plain one."""
    if isinstance(weight, Tensor):
        weight = weight if weight.stride(-1) == 1 or weight.shape[-1] == 1 else weight.contiguous()
        return Matrix(DENSE, weight, weight, 1, 1)
    kind, meta = _KINDS[weight.format], weight.meta
    group = {FP8: "block_columns", INT8: "group_size", INT4: "group_size"}.get(kind)
    columns = 32 if group is None else meta[group]
    data, scale = weight.arrays["data"], weight.arrays["scale"]
    # Bytes are read alike on all devices, whichever float8 they know.
    data = data if kind == INT8 else data.view(torch.uint8)
    scale = scale.view(torch.uint8) if scale.dtype == torch.float8_e8m0fnu else scale
    return Matrix(kind, data, scale, columns, meta.get("block_rows", 1))
