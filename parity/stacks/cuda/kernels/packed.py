"""Reading packed weights inside a product of matrices, and how each format is laid out for that.

The product is computed transposed, acc [out, rows] += weight [out, k] x^T [k, rows], with the weight as the left operand:
the multiplier takes that one from registers, so packed numbers go from memory to registers as they are and become the
compute dtype there, by a few bit operations and no table. Scales are constant over a group of columns and multiply its sum
in float32, not each weight. All codes are exact in bfloat16, float16 and float32, so only x and the result are rounded.

Formats of bytes keep their layout. Formats of four bits are reordered once, by `prepare`: in each run of 128 columns, int32
word j holds in its bits 4 i .. 4 i + 3 the code of column 16 i + j, so that the columns that one shift brings out are
neighbours in x.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.weights import Packed, Rows, Weight
from ....formats import expand as expand_reference
from ....formats import laid_by_rows, rows_per_entry
from ....formats.int_groups import unpack_words
from .common import INTERPRETED, dot, kernel, take_turn

log = logging.getLogger("parity")

DENSE, FP8, INT8, INT4, MXFP4, ZERO4 = range(6)
_KINDS = {"fp8_block": FP8, "int8_group": INT8, "int4_group": INT4, "mxfp4": MXFP4, "int4_zero": ZERO4}
FORMATS = frozenset(_KINDS) | {"awq", "gptq"}
"""The packed formats that the kernels compute on; `prepare` makes `int4_zero` of the last two."""

_RUN = 128  # columns that are reordered together
_LEAST_GROUP = 16  # columns that a multiplier takes at once


@triton.jit
def _exact(bits, factor: tl.constexpr, offset: tl.constexpr):
    """(bfloat16 of these bits) * factor + offset, both exact."""
    if INTERPRETED:  # it computes on bfloat16 as on integers
        return (((bits & 0xFFFF) << 16).to(tl.float32, bitcast=True) * factor + offset).to(tl.bfloat16)
    y = bits.to(tl.int16).to(tl.bfloat16, bitcast=True)
    if factor != 1.0:
        y = y * factor
    if offset != 0.0:
        y = y + offset
    return y


@triton.jit
def _from_byte(code, KIND: tl.constexpr, DTYPE: tl.constexpr):
    """FP8 e4m3 bits or int8 numbers in the compute dtype."""
    if KIND == 2:
        return code.to(tl.float32).to(DTYPE) if INTERPRETED else code.to(DTYPE)
    # The exponent's bias is 7; read as bfloat16's, whose is 127, numbers are 2^120 too small, subnormal ones too.
    signed = code.to(tl.int8, bitcast=True).to(tl.int32)
    return _exact((signed << 4) & 0x87F0, 1.329227995784916e36, 0.0).to(DTYPE)


@triton.jit
def _from_word(words, i: tl.constexpr, KIND: tl.constexpr, DTYPE: tl.constexpr):
    """Code i of each word in the compute dtype; two codes of a word, i and i + 4, come out of the same bit operations."""
    moved = words >> (4 * (i % 4))
    if KIND == 3 or KIND == 5:
        pair = (moved & 0x000F000F) | 0x43004300  # 128 + code
        return _exact(pair >> 16 if i >= 4 else pair, 1.0, -136.0 if KIND == 3 else -128.0).to(DTYPE)
    # Sign, two bits of exponent (bias 1) and one of mantissa: as bfloat16's, 2^126 too small.
    pair = ((moved & 0x00070007) << 6) | ((moved & 0x00080008) << 12)
    return _exact(pair >> 16 if i >= 4 else pair, 8.507059173023462e37, 0.0).to(DTYPE)


@triton.jit
def _minus(numbers, zero):
    """Codes less their zero points, both whole numbers of at most 16."""
    if INTERPRETED:
        return (numbers.to(tl.float32) - zero.to(tl.float32)).to(numbers.dtype)
    return numbers - zero.to(numbers.dtype)


@triton.jit
def _scales(scale, at, mask, E8M0: tl.constexpr):
    """Scales as float32; bytes are powers of two."""
    if E8M0:
        byte = tl.load(scale + at, mask=mask, other=127).to(tl.int32)
        # 2^-127 has no normal number: it is half of 2^-126.
        return tl.where(byte == 0, 5.877471754111438e-39, (tl.maximum(byte, 1) << 23).to(tl.float32, bitcast=True))
    return tl.load(scale + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def multiply(
    acc, x, x_mask, weight, scale, zeros, row, row_mask, first, end, w_row, s_row, row_group,
    KIND: tl.constexpr, E8M0: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """acc [N, M] + weight[row, first : first + BLOCK_K] @ x[:, the same].T, in float32.

    Args:
        x: pointers to the first columns of the rows of x [1, M], with their mask.
        weight, scale, zeros: pointers to the matrix; zero points stand as scales do.
        row: rows of the weight [N], with their mask.
        end: the columns that exist.
        row_group: rows that share a scale. GROUP columns do; STEP divides both them and BLOCK_K.

    A column is made a tensor before it is compared: under the interpreter it is a number of Python's, whose comparison would
    turn a mask into integers.
    """
    if KIND >= 3:
        j = tl.arange(0, 16)
        words = tl.load(weight + row[:, None] * w_row + (first // 8 + j)[None, :], mask=row_mask[:, None], other=0)
        part = tl.zeros(acc.shape, tl.float32)
        for i in tl.static_range(8):
            k = first + 16 * i + j
            values = tl.load(x + k[:, None], mask=x_mask & (k < end)[:, None], other=0.0)
            numbers = _from_word(words, i, KIND, values.dtype)
            if KIND == 5:
                if (16 * i) % STEP == 0:
                    column = first + 16 * i + tl.zeros_like(row)
                    group = (row // row_group) * s_row + column // GROUP
                    zero = tl.load(zeros + group, mask=row_mask & (column < end), other=0)
                numbers = _minus(numbers, zero[:, None])
            part += dot(numbers, values, PRECISION)
            if (16 * i + 16) % STEP == 0:
                column = first + 16 * i + tl.zeros_like(row)
                mask = row_mask & (column < end)
                acc += part * _scales(scale, (row // row_group) * s_row + column // GROUP, mask, E8M0)[:, None]
                part = tl.zeros(acc.shape, tl.float32)
    else:
        for i in tl.static_range(BLOCK_K // STEP):
            k = first + STEP * i + tl.arange(0, STEP)
            exists = k < end
            values = tl.load(x + k[:, None], mask=x_mask & exists[:, None], other=0.0)
            raw = tl.load(weight + row[:, None] * w_row + k[None, :], mask=row_mask[:, None] & exists[None, :], other=0)
            if KIND == 0:
                acc += dot(raw.to(values.dtype), values, PRECISION)
            else:
                part = dot(_from_byte(raw, KIND, values.dtype), values, PRECISION)
                column = first + STEP * i + tl.zeros_like(row)
                mask = row_mask & (column < end)
                acc += part * _scales(scale, (row // row_group) * s_row + column // GROUP, mask, E8M0)[:, None]
    return acc


@kernel
def _expand(
    weight, scale, zeros, index, out, num_rows, width, w_row, s_row, row_group,
    KIND: tl.constexpr, E8M0: tl.constexpr, GROUP: tl.constexpr, CHOSEN: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Some rows of a matrix, or all, as plain numbers: a run of columns of BLOCK_R rows."""
    take_turn()
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    has, first = r < num_rows, tl.program_id(1) * 128
    row = tl.load(index + r, mask=has, other=0).to(tl.int64) if CHOSEN else r
    j = tl.arange(0, 16)
    if KIND >= 3:
        words = tl.load(weight + row[:, None] * w_row + (first // 8 + j)[None, :], mask=has[:, None], other=0)
    for i in tl.static_range(8):
        k = first + 16 * i + j
        mask = has[:, None] & (k < width)[None, :]
        if KIND >= 3:
            numbers = _from_word(words, i, KIND, tl.float32)
        else:
            numbers = _from_byte(tl.load(weight + row[:, None] * w_row + k[None, :], mask=mask, other=0), KIND, tl.float32)
        group = (row // row_group)[:, None] * s_row + (k // GROUP)[None, :]
        if KIND == 5:
            numbers -= tl.load(zeros + group, mask=mask, other=0).to(tl.float32)
        share = _scales(scale, group, mask, E8M0)
        tl.store(out + r[:, None] * width + k[None, :], (numbers * share).to(out.dtype.element_ty), mask=mask)


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight [..., out, in] as kernels read it.

    Args:
        kind: DENSE, FP8, INT8, INT4, MXFP4 or ZERO4.
        data: its numbers, bytes or words [..., out, in or in / 8].
        scale: of groups; the data itself where there are none.
        zeros: zero points of groups, uint8, laid as the scales; the scales themselves where there are none.
        group: columns that share a scale.
        row_group: rows that share a scale.
    """

    kind: int
    data: Tensor
    scale: Tensor
    zeros: Tensor
    group: int
    row_group: int

    @property
    def e8m0(self) -> bool:
        """Whether scales are bytes that stand for powers of two."""
        return self.kind != DENSE and self.scale.dtype == torch.uint8

    def step(self, block_k: int) -> int:
        """Columns multiplied at once: all that share scales, as far as a block goes."""
        return block_k if self.kind == DENSE else math.gcd(self.group, block_k)


def prepare(weight: Weight) -> Weight:
    """Arrays as the kernels read them, and rows as one matrix where they can be: one launch instead of several.

    A matrix in groups that no kernel takes is expanded, which is said once.
    """
    if isinstance(weight, Rows):
        return _joined(weight.each(prepare))
    if not isinstance(weight, Packed) or "words" in weight.arrays:
        return weight
    given, weight = weight, laid_by_rows(weight) or weight
    if weight.format not in _KINDS:
        log.warning("%s whose groups are of several sizes, or of experts in several orders, is expanded", weight.format)
        return expand_reference(given, torch.bfloat16)
    if _group(weight) % _LEAST_GROUP:
        log.warning("%s in groups of %d columns is expanded: kernels take multiples of 16", given.format, _group(weight))
        return expand_reference(given, torch.bfloat16)
    arrays = {role: array.contiguous() for role, array in weight.arrays.items()}
    nibbles, row_arrays = _NIBBLES.get(weight.format), dict(rows_per_entry(weight))
    if nibbles is not None:
        data, row_arrays["words"] = arrays.pop("data"), row_arrays.pop("data")
        stacked = data.view(-1, *data.shape[-2:])
        words = torch.stack([_words(nibbles(matrix), weight.shape[-1]) for matrix in stacked])
        arrays["words"] = words.view(*data.shape[:-2], *words.shape[-2:])
    return Packed(weight.format, weight.shape, arrays, weight.meta, row_arrays)


def _joined(weight: Rows) -> Weight:
    """The same rows with neighbours of one form made one matrix."""
    runs: list[list[Tensor | Packed]] = []
    for part in weight.parts:
        if runs and _continues(runs[-1][-1], part):
            runs[-1].append(part)
        else:
            runs.append([part])
    parts = [_one(run) for run in runs]
    return parts[0] if len(parts) == 1 else Rows(tuple(parts))


def _continues(above: Tensor | Packed, below: Tensor | Packed) -> bool:
    """Whether the two are read alike, and the rows of the first fill its scales."""
    if isinstance(above, Tensor) or isinstance(below, Tensor):
        return isinstance(above, Tensor) and isinstance(below, Tensor) and above.dtype == below.dtype
    by_rows = rows_per_entry(above)
    alike = [
        {role: (array.dtype, array.shape[1 if role in by_rows else 0 :]) for role, array in part.arrays.items()}
        for part in (above, below)
    ]
    return (
        (above.format, above.meta, alike[0]) == (below.format, below.meta, alike[1])
        and not any(above.shape[0] % per for per in by_rows.values())
        and all(torch.equal(array, below.arrays[role]) for role, array in above.arrays.items() if role not in by_rows)
    )


def _one(run: list[Tensor | Packed]) -> Tensor | Packed:
    """One matrix of matrices that continue each other."""
    first = run[0]
    if len(run) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat([part for part in run if isinstance(part, Tensor)])
    packed, by_rows = [part for part in run if isinstance(part, Packed)], rows_per_entry(first)
    arrays = {
        role: _below([part.arrays[role] for part in packed]) if role in by_rows else array
        for role, array in first.arrays.items()
    }
    shape = (sum(part.shape[0] for part in run), *first.shape[1:])
    return Packed(first.format, shape, arrays, first.meta, first.row_arrays)


def _below(arrays: list[Tensor]) -> Tensor:
    # Not every device joins eight-bit floats: their bytes do as well.
    if arrays[0].dtype.itemsize == 1:
        return torch.cat([array.view(torch.uint8) for array in arrays]).view(arrays[0].dtype)
    return torch.cat(arrays)


def _group(weight: Packed) -> int:
    """Columns that share a scale."""
    return {"fp8_block": weight.meta.get("block_columns", 128), "mxfp4": 32}.get(weight.format) or weight.meta["group_size"]


_NIBBLES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "int4_group": unpack_words,
    "int4_zero": unpack_words,
    "mxfp4": lambda data: torch.stack([data & 15, data >> 4], -1).flatten(-2),
}
"""The codes of a matrix [out, in] of four-bit numbers, a byte each, from its data."""


def _words(codes: Tensor, width: int) -> Tensor:
    """int32 [out, runs * 16] in the kernels' order from codes uint8 [out, in]; columns past the last are never used."""
    runs = -(-width // _RUN)
    codes = torch.nn.functional.pad(codes, (0, runs * _RUN - width)).view(len(codes), runs, 8, 16)
    words = torch.zeros(len(codes), runs, 16, dtype=torch.int32, device=codes.device)
    for i in range(8):
        words |= codes[:, :, i].int() << 4 * i
    return words.flatten(-2)


def matrix(weight: Tensor | Packed) -> Matrix:
    """How a kernel reads a weight that `prepare` has seen, or a plain one."""
    if isinstance(weight, Tensor):
        weight = weight if weight.stride(-1) == 1 or weight.shape[-1] == 1 else weight.contiguous()
        return Matrix(DENSE, weight, weight, weight, _RUN, 1)
    kind, scale = _KINDS[weight.format], weight.arrays["scale"]
    data = weight.arrays["words" if weight.format in _NIBBLES else "data"]
    # Bytes are read alike on all devices, whichever float8 they know.
    data = data.view(torch.uint8) if kind == FP8 else data
    scale = scale.view(torch.uint8) if scale.dtype == torch.float8_e8m0fnu else scale
    return Matrix(kind, data, scale, weight.arrays.get("zeros", scale), _group(weight), weight.meta.get("block_rows", 1))


def expand(weight: Packed, dtype: torch.dtype, index: Tensor | None = None) -> Tensor:
    """A prepared matrix [out, in], or those of its rows that `index` [T] names, as plain numbers, in their own order."""
    form, width = matrix(weight), weight.shape[-1]
    num_rows = weight.shape[-2] if index is None else index.numel()
    out = torch.empty(num_rows, width, dtype=dtype, device=form.data.device)
    if out.numel():
        block_r = 1 if index is not None else 16
        _expand[(triton.cdiv(num_rows, block_r), triton.cdiv(width, _RUN))](
            form.data, form.scale, form.zeros, form.data if index is None else index, out, num_rows, width,
            form.data.stride(0), form.scale.stride(0), form.row_group, form.kind, form.e8m0, form.group,
            index is not None, block_r,
        )  # fmt: skip
    if "order" in weight.arrays:
        return torch.empty_like(out).index_copy_(1, weight.arrays["order"].long(), out)
    return out
