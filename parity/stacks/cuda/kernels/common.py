"""What several kernels need: which sequence a row or a tile belongs to, blocks, and views of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import cuda
from triton.language.target_info import cuda_capability_geq
from triton.runtime.jit import JITFunction

from ....core.batch import Batch
from . import gpu

# Triton's interpreter multiplies bfloat16 matrices as if they were integers, so there they are widened first.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

_BY_BATCH = (
    *("num_rows", "num_sequences", "num_items", "first_row", "pages_stride"),
    *("starts", "lengths", "positions", "pages", "slots"),
    *("temperature", "top_k", "top_p", "min_p", "uniform"),
)


class _Kernel(JITFunction[Any]):  # type: ignore[misc]  # Triton has no types
    """A kernel that the GPU may start while the launch before it ends; its first words are `take_turn()`."""

    def run(self, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        if gpu.overlaps():
            options["launch_pdl"] = True
        return super().run(*args, grid=grid, warmup=warmup, **options)


def kernel(function: Callable[..., None]) -> Any:
    """Makes a kernel that is launched.

    Triton compiles one anew for a number that is 1 or a multiple of 16, and for an address that is a multiple of 16: of what
    changes from batch to batch nothing gains by that, and a step would wait for the compiler.
    """
    make: Any = triton.jit if INTERPRETED else _Kernel
    return make(function, do_not_specialize=_BY_BATCH)


@triton.jit
def take_turn():
    """Waits until all earlier launches have ended and what they wrote is there; then the next one may start to wait.

    A kernel begins with it: above it nothing may be read or written but what no launch of a step writes, such as weights.
    """
    if not INTERPRETED and cuda_capability_geq(9, 0):
        cuda.gdc_wait()
        cuda.gdc_launch_dependents()


@triton.jit
def ask_ahead(weight, row, w_row, first):
    """Asks for the first 256 bytes from column `first` on of rows [N] of a weight, before the launches before have ended.

    What is asked for comes to the second cache while they leave the memory idle; two lines of each of 64 rows, by six programs
    a multiprocessor, are a quarter of an H200's.
    """
    if not INTERPRETED and cuda_capability_geq(9, 0):
        LINE: tl.constexpr = 1024 // weight.dtype.element_ty.primitive_bitwidth
        column = tl.minimum(first + tl.arange(0, 2) * LINE, w_row - 1)
        at = weight + row.to(tl.int64)[:, None] * w_row + column[None, :]
        tl.inline_asm_elementwise(
            "{ prefetch.global.L2 [$1]; mov.u32 $0, 0; }", "=r,l", [at.to(tl.uint64)], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """The product of two matrices of one dtype, in float32."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def sequence_of(starts, num_sequences, row, BLOCK_S: tl.constexpr):
    """The sequence that has a row: how many sequences end at or before it. With BLOCK_S 0 each has one row."""
    if BLOCK_S == 0:
        sequence = row.to(tl.int32)
    else:
        s = tl.arange(0, BLOCK_S)
        ends = tl.load(starts + 1 + s, mask=s < num_sequences, other=2147483647)
        sequence = tl.sum((ends <= row).to(tl.int32), axis=0)
    return sequence


@triton.jit
def tile_of(starts, num_groups, PER_ROW: tl.constexpr, tile, BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr):
    """Where a tile lies when each group of rows is cut into tiles of its own. With BLOCK_S 0 each has one row.

    A group has (starts[g + 1] - starts[g]) * PER_ROW items. Returns (group, first item of the tile in the group, items in
    the group, first row of the group); the group is `num_groups` for tiles past the last.
    """
    if BLOCK_S == 0:
        TILES: tl.constexpr = (PER_ROW + BLOCK_M - 1) // BLOCK_M
        group, count = tile // TILES, PER_ROW
        first, row = tile % TILES * BLOCK_M, tile // TILES
    else:
        g = tl.arange(0, BLOCK_S)
        inside = g < num_groups
        begin = tl.load(starts + g, mask=inside, other=0)
        items = (tl.load(starts + g + 1, mask=inside, other=0) - begin) * PER_ROW
        tiles = (items + BLOCK_M - 1) // BLOCK_M
        ends = tl.cumsum(tiles, axis=0)
        group = tl.sum(((ends <= tile) & inside).to(tl.int32), axis=0)
        mine = g == group
        before = tl.sum(tl.where(mine, ends - tiles, 0), axis=0)
        count = tl.sum(tl.where(mine, items, 0), axis=0)
        first, row = (tile - before) * BLOCK_M, tl.sum(tl.where(mine, begin, 0), axis=0)
    return group, first, count, row


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow."""
    z = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, z) / (1.0 + z)


@triton.jit
def softplus(x):
    """log(1 + exp(x)), without overflow and exact where exp(x) is small."""
    z = tl.exp(-tl.abs(x))
    # log1p by the classic correction: log(1 + z) z / ((1 + z) - 1).
    w = 1.0 + z
    small = tl.where(w == 1.0, z, tl.log(w) * (z / tl.where(w == 1.0, 1.0, w - 1.0)))
    return tl.maximum(x, 0.0) + small


@triton.jit
def tanh(x):
    """The hyperbolic tangent, from exp(-2 |x|)."""
    z = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - z) / (1.0 + z)
    # Near zero 1 - z cancels: the series is exact there.
    square = x * x
    series = tl.abs(x) * (1.0 - square * (0.33333334 - square * (0.13333334 - square * 0.053968254)))
    y = tl.where(tl.abs(x) < 0.1, series, y)
    return tl.where(x < 0, -y, y)


def power(n: int, least: int = 1) -> int:
    """The next power of two, at least `least`: the size of a block."""
    return max(int(triton.next_power_of_2(max(n, 1))), least)


def sequence_block(batch: Batch) -> int:
    """A block of a batch's sequences: the same for all small batches, since each size is compiled; 0 if each has one row."""
    sequences = batch.lengths.shape[0]
    return 0 if batch.tokens.shape[0] == sequences else power(sequences, 16)


def num_tiles(batch: Batch, per_row: int, block_m: int) -> int:
    """How many tiles `tile_of` needs at most for the sequences of a batch."""
    rows, sequences = batch.tokens.shape[0], batch.lengths.shape[0]
    if rows == sequences:
        return rows * triton.cdiv(per_row, block_m)
    return triton.cdiv(rows * per_row, block_m) + sequences


def row_strides(x: Tensor) -> tuple[Tensor, int, int, int]:
    """(x, n, s, t): row r of [..., D] stands at (r // n) * s + (r % n) * t; copied only if its rows cannot be said so."""
    if x.ndim == 1:
        x = x[None]
    if x.stride(-1) == 1 or x.shape[-1] == 1:
        if x.ndim == 2:
            return x, 1, x.stride(0), 0
        if x.ndim == 3:
            return x, max(x.shape[1], 1), x.stride(0), x.stride(1)
    x = x.contiguous()
    return x, 1, x.shape[-1], 0


def inner(x: Tensor) -> Tensor:
    """x with its last dimension contiguous."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def precision(dtype: torch.dtype) -> str:
    """How products of matrices of a dtype are computed: float32 is not cut to fewer bits."""
    return "ieee" if dtype == torch.float32 else "tf32"
