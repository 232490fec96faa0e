"""Reading packed weights inside a product of matrices, and how they are laid out for that.

The product is computed transposed, acc [out, rows] += weight [out, k] x^T [k, rows], with the weight as the left operand:
the multiplier takes that one from registers, so packed numbers go from memory to registers as they are and become the
compute dtype there, by a few bit operations and no table. Scales are constant over a group of columns and multiply its sum
in float32, not each weight. All codes are exact in bfloat16, float16 and float32, so only x and the result are rounded.

`prepare` reorders each matrix once, so that the bit operations bring out two codes at a time where the multiplier wants them.
A run is 16 int32 words, of 8 codes of four bits or 4 of eight. Its columns are taken 32 at a time: of part i, word j holds
column 2 j in its lower 16 bits, from bit 4 i (or 8 i) on, and column 2 j + 1 at the same place in its upper 16 bits.
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
from triton.language.target_info import is_cuda

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

_WORDS = 16  # of a run
_PART = 32  # columns of a run that are multiplied at once: two of each word

_HIGH = tl.constexpr(0x80008000 - (1 << 32))  # the highest bit of both halves of a word


@triton.jit
def _magic(x, mask):
    """128 and the masked bits of both halves of a word, at most seven, as bfloat16 numbers."""
    if not INTERPRETED and is_cuda():  # whose compiler makes two instructions of what is one
        return tl.inline_asm_elementwise(
            "lop3.b32 $0, $1, $2, $3, 0xea;", "=r,r,r,r", [x, mask, 0x43004300], dtype=tl.int32, is_pure=True, pack=1
        )
    return (x & mask) | 0x43004300


@triton.jit
def _halves(bits):
    """The bfloat16 numbers of both halves of words [N, 16], which are neighbours: [N, 32]."""
    if INTERPRETED:  # it computes on bfloat16 as on integers
        low, high = (bits << 16).to(tl.float32, bitcast=True), (bits & -65536).to(tl.float32, bitcast=True)
    else:
        low = bits.to(tl.int16).to(tl.bfloat16, bitcast=True)
        high = (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return tl.join(low, high).reshape(bits.shape[0], 2 * bits.shape[1])


@triton.jit
def _numbers(words, i: tl.constexpr, zero, KIND: tl.constexpr, DTYPE: tl.constexpr):
    """The 32 columns of part i of words [N, 16] in the compute dtype; `zero` [N] is taken from codes that have zero points."""
    if KIND == 1:
        # FP8 e4m3, whose exponent's bias is 7; read as bfloat16's, 127, numbers are 2^120 too small, subnormal ones too.
        sign = words << 8 if i == 0 else words
        rest = words << 4 if i == 0 else words >> 4
        numbers = _halves((sign & _HIGH) | (rest & 0x07F007F0)) * 1.329227995784916e36
    elif KIND == 2:
        # A signed byte is its lower seven bits less 128 times its highest, which doubles 128 as it is the exponent's lowest.
        moved = words >> (8 * i)
        numbers = _halves(_magic(moved, 0x007F007F)) - _halves(_magic(moved, 0x00800080))
    elif KIND == 4:
        # Sign, two bits of exponent (bias 1) and one of mantissa: as bfloat16's, 2^126 too small.
        rest = words << 6 if i == 0 else words << 2 if i == 1 else words >> 2 if i == 2 else words >> 6
        sign = words << (12 - 4 * i)
        numbers = _halves((sign & _HIGH) | (rest & 0x01C001C0)) * 8.507059173023462e37
    else:
        numbers = _halves(_magic(words >> (4 * i), 0x000F000F))
        if KIND == 3:
            numbers += -136.0
        else:
            zero = zero.to(tl.float32) + 128.0
            numbers -= (zero if INTERPRETED else zero.to(tl.bfloat16))[:, None]
    return numbers.to(DTYPE)


@triton.jit
def _scales(scale, at, mask, E8M0: tl.constexpr):
    """Scales as float32; bytes are powers of two."""
    if E8M0:
        bits = tl.load(scale + at, mask=mask, other=127).to(tl.int32) << 23
        return tl.maximum(bits, 1 << 22).to(tl.float32, bitcast=True)  # 2^-127 is no normal number
    return tl.load(scale + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _exists(row, column, end, EVEN: tl.constexpr):
    """Whether a column does, as a mask of the rows."""
    # A tensor before it is compared: under the interpreter it is a number of Python's, whose comparison would turn a mask
    # into integers.
    return row >= 0 if EVEN else column + tl.zeros_like(row) < end


@triton.jit
def _words_of(weight, word, exists, EVEN: tl.constexpr):
    """Words [N, W] of rows whose words `weight` [N, 1] points to; a run that exists has all its words."""
    return tl.load(weight + word[None, :]) if EVEN else tl.load(weight + word[None, :], mask=exists[None, :], other=0)


@triton.jit
def _rows_of(x, mask, exists, EVEN: tl.constexpr):
    """Columns [K, M] of rows of x."""
    return tl.load(x, mask=mask if EVEN else mask & exists, other=0.0)


@triton.jit
def multiply(
    acc, x, x_mask, weight, scale, zeros, row, shares, first, end, w_row,
    KIND: tl.constexpr, E8M0: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """acc [N, M] + weight[row, first : first + BLOCK_K] @ x[:, the same].T, in float32.

    Args:
        x: pointers to the first columns of the rows of x [1, M], with their mask.
        weight, scale, zeros: pointers to the matrix; zero points stand as scales do.
        row: rows of the weight [N], which exist.
        end: the columns that exist; EVEN says that all of the block do.
        shares: where the scales of those rows begin. GROUP columns share one; STEP divides both them and BLOCK_K.
    """
    if KIND == 0:
        k = first + tl.arange(0, BLOCK_K)
        if EVEN:
            values = tl.load(x + k[:, None], mask=x_mask, other=0.0)
            raw = tl.load(weight + row[:, None] * w_row + k[None, :])
        else:
            exists = k < end
            values = tl.load(x + k[:, None], mask=x_mask & exists[:, None], other=0.0)
            raw = tl.load(weight + row[:, None] * w_row + k[None, :], mask=exists[None, :], other=0)
        acc += dot(raw.to(values.dtype), values, PRECISION)
    else:
        PER: tl.constexpr = 8 if KIND >= 3 else 4
        RUN: tl.constexpr = 16 * PER
        zero = row
        if STEP % RUN == 0:  # whole runs, and one product of them
            j, c = tl.arange(0, STEP // PER), tl.arange(0, STEP)
            for at in tl.static_range(0, BLOCK_K, STEP):
                begin, exists = first + at, _exists(row, first + at, end, EVEN)
                words = _words_of(weight + row[:, None] * w_row, begin // PER + j, begin + j // 16 * RUN < end, EVEN)
                values = _rows_of(x + (begin + c)[:, None], x_mask, (begin + c < end)[:, None], EVEN)
                group = shares + begin // GROUP
                if KIND == 5:
                    zero = tl.load(zeros + group, mask=exists, other=0)
                low, high = _numbers(words, 0, zero, KIND, values.dtype), _numbers(words, 1, zero, KIND, values.dtype)
                if PER == 8:
                    third, last = _numbers(words, 2, zero, KIND, values.dtype), _numbers(words, 3, zero, KIND, values.dtype)
                    parts = tl.join(tl.join(low, high), tl.join(third, last))
                    parts = parts.reshape(row.shape[0], STEP // RUN, 32, 2, 2).permute(0, 1, 4, 3, 2)
                else:
                    parts = tl.join(low, high).reshape(row.shape[0], STEP // RUN, 32, 2).permute(0, 1, 3, 2)
                product = dot(parts.reshape(row.shape[0], STEP), values, PRECISION)
                acc += product * _scales(scale, group, exists, E8M0)[:, None]
        else:
            j, c = tl.arange(0, 16), tl.arange(0, 32)
            part = tl.zeros(acc.shape, tl.float32)
            for at in tl.static_range(0, BLOCK_K, 32):
                begin, exists = first + at, _exists(row, first + at, end, EVEN)
                if at % RUN == 0:
                    words = _words_of(weight + row[:, None] * w_row, begin // PER + j, begin + 0 * j < end, EVEN)
                values = _rows_of(x + (begin + c)[:, None], x_mask, (begin + c < end)[:, None], EVEN)
                if at % STEP == 0:
                    group, scaled = shares + begin // GROUP, exists
                    if KIND == 5:
                        zero = tl.load(zeros + group, mask=scaled, other=0)
                part += dot(_numbers(words, at % RUN // 32, zero, KIND, values.dtype), values, PRECISION)
                if (at + 32) % STEP == 0:
                    acc += part * _scales(scale, group, scaled, E8M0)[:, None]
                    part = tl.zeros(acc.shape, tl.float32)
    return acc


@kernel
def _expand(
    weight, scale, zeros, index, out, num_rows, width, w_row, s_row, row_group,
    KIND: tl.constexpr, E8M0: tl.constexpr, GROUP: tl.constexpr, CHOSEN: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Some rows of a matrix, or all, as plain numbers: a run of columns of BLOCK_R rows."""
    take_turn()
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    has = r < num_rows
    row = tl.load(index + r, mask=has, other=0).to(tl.int64) if CHOSEN else r
    PER: tl.constexpr = 8 if KIND >= 3 else 4
    run = tl.program_id(1) * 16
    words = tl.load(weight + row[:, None] * w_row + (run + tl.arange(0, 16))[None, :], mask=has[:, None], other=0)
    for i in tl.static_range(PER // 2):
        k = run * PER + 32 * i + tl.arange(0, 32)
        mask = has[:, None] & (k < width)[None, :]
        group = (row // row_group)[:, None] * s_row + (k // GROUP)[None, :]
        if KIND == 5:  # zero points of several groups: they are taken afterwards
            numbers = _numbers(words, i, row * 0, KIND, tl.float32) - tl.load(zeros + group, mask=mask, other=0).to(tl.float32)
        else:
            numbers = _numbers(words, i, row, KIND, tl.float32)
        share = _scales(scale, group, mask, E8M0)
        tl.store(out + r[:, None] * width + k[None, :], (numbers * share).to(out.dtype.element_ty), mask=mask)


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight [..., out, in] as kernels read it.

    Args:
        kind: DENSE, FP8, INT8, INT4, MXFP4 or ZERO4.
        data: its numbers [..., out, in], or words of them.
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

    @property
    def per_number(self) -> int:
        """Columns in one number of the data."""
        return 1 if self.kind == DENSE else _per_word(self.kind)

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
    if _group(weight) % _PART:
        log.warning("%s in groups of %d columns is expanded: kernels take multiples of %d", given.format, _group(weight), _PART)
        return expand_reference(given, torch.bfloat16)
    arrays = {role: array.contiguous() for role, array in weight.arrays.items()}
    data, row_arrays = arrays.pop("data"), dict(rows_per_entry(weight))
    row_arrays["words"] = row_arrays.pop("data")
    codes = _CODES[weight.format]
    arrays["words"] = torch.stack([_words(codes(matrix), weight) for matrix in data.view(-1, *data.shape[-2:])])
    arrays["words"] = arrays["words"].view(*data.shape[:-1], -1)
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


_CODES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "int4_group": unpack_words,
    "int4_zero": unpack_words,
    "mxfp4": lambda data: torch.stack([data & 15, data >> 4], -1).flatten(-2),
    "fp8_block": lambda data: data.view(torch.uint8),
    "int8_group": lambda data: data.view(torch.uint8),
}
"""The codes of a matrix [out, in], a byte each, from its data."""


def _per_word(kind: int) -> int:
    return 8 if kind in (INT4, MXFP4, ZERO4) else 4


def _words(codes: Tensor, weight: Packed) -> Tensor:
    """int32 [out, runs * 16] in the kernels' order from codes uint8 [out, in]; columns past the last are never used."""
    width, per = weight.shape[-1], _per_word(_KINDS[weight.format])
    runs = -(-width // (per * _WORDS))
    codes = torch.nn.functional.pad(codes[:, :width], (0, runs * per * _WORDS - width))
    # [out, run, part, word, half] to [out, run, word, half, part]: the order of a word's bits, from the lowest.
    codes = codes.view(len(codes), runs, per // 2, _WORDS, 2).permute(0, 1, 3, 4, 2).flatten(-2)
    if per == 8:
        codes = codes[..., ::2] | codes[..., 1::2] << 4
    return codes.contiguous().view(torch.int32).view(len(codes), -1)


def matrix(weight: Tensor | Packed) -> Matrix:
    """How a kernel reads a weight that `prepare` has seen, or a plain one."""
    if isinstance(weight, Tensor):
        weight = weight if weight.stride(-1) == 1 or weight.shape[-1] == 1 else weight.contiguous()
        return Matrix(DENSE, weight, weight, weight, 1, 1)
    kind, scale = _KINDS[weight.format], weight.arrays["scale"]
    data = weight.arrays["words"]
    # Bytes are read alike on all devices, whichever float8 they know.
    scale = scale.view(torch.uint8) if scale.dtype == torch.float8_e8m0fnu else scale
    return Matrix(kind, data, scale, weight.arrays.get("zeros", scale), _group(weight), weight.meta.get("block_rows", 1))


def expand(weight: Packed, dtype: torch.dtype, index: Tensor | None = None) -> Tensor:
    """A prepared matrix [out, in], or those of its rows that `index` [T] names, as plain numbers, in their own order."""
    form, width = matrix(weight), weight.shape[-1]
    num_rows = weight.shape[-2] if index is None else index.numel()
    out = torch.empty(num_rows, width, dtype=dtype, device=form.data.device)
    if out.numel():
        block_r = 1 if index is not None else 16
        _expand[(triton.cdiv(num_rows, block_r), triton.cdiv(width, _WORDS * _per_word(form.kind)))](
            form.data, form.scale, form.zeros, form.data if index is None else index, out, num_rows, width,
            form.data.stride(0), form.scale.stride(0), form.row_group, form.kind, form.e8m0, form.group,
            index is not None, block_r,
        )  # fmt: skip
    if "order" in weight.arrays:
        return torch.empty_like(out).index_copy_(1, weight.arrays["order"].long(), out)
    return out
