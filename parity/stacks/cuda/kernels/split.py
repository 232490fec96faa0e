"""Splitting a long softmax over programs, and joining the parts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import gpu
from .common import kernel, power, take_turn

_MAX_SPLITS = 32
_LEAST_BLOCKS = 4  # a split of fewer blocks costs more to join than it saves


@triton.jit
def split_range(begin, end, split, SPLITS: tl.constexpr, BLOCK_N: tl.constexpr):
    """The part of begin .. end that a split computes, in whole blocks; empty for the last splits of a short range."""
    begin = begin // BLOCK_N * BLOCK_N
    if SPLITS > 1:
        size = ((end - begin + BLOCK_N - 1) // BLOCK_N + SPLITS - 1) // SPLITS * BLOCK_N
        begin += split * size
        end = tl.minimum(end, begin + size)
    return begin, end


@kernel
def _join(partial, stats, out, num_items, width, SPLITS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr):
    take_turn()
    item = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    part = tl.arange(0, BLOCK_P)
    exists = part < SPLITS
    at = part * num_items + item
    top = tl.load(stats + at * 2, mask=exists, other=float("-inf"))
    total = tl.load(stats + at * 2 + 1, mask=exists, other=0.0)
    highest = tl.max(top, axis=0)
    weight = tl.exp(top - tl.where(highest == float("-inf"), 0.0, highest))
    values = tl.load(partial + at[:, None] * width + d[None, :], mask=exists[:, None] & (d < width)[None, :], other=0.0)
    # As where nothing is split, a row without entries is 0.
    whole = tl.sum(total * weight, axis=0)
    y = tl.sum(values * weight[:, None], axis=0) / tl.where(whole == 0.0, 1.0, whole)
    tl.store(out + item * width + d, y.to(out.dtype.element_ty), mask=d < width)


def num_splits(programs: int, longest: int, block: int, device: torch.device, together: int = 2) -> int:
    """Splits that fill the device, from shapes alone: a power of two, as each is compiled.

    Args:
        programs: without splitting.
        longest: the most entries that a sequence can have.
        block: entries of a step.
        together: programs wanted on each multiprocessor; there are half as many at least.
    """
    wanted = -(-together * gpu.of(device).processors // max(programs, 1))
    splits = max(1, min(wanted, longest // (block * _LEAST_BLOCKS), _MAX_SPLITS))
    return 1 << (splits.bit_length() - 1)


def buffers(splits: int, num_rows: int, num_heads: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where splits leave their sums [splits, rows, heads, width] and (largest score, sum) [splits, rows, heads, 2]."""
    size = 0 if splits == 1 else splits * num_rows * num_heads
    partial, stats = (torch.empty(size * each, dtype=torch.float32, device=device) for each in (width, 2))
    return partial, stats


def join(out: Tensor, partial: Tensor, stats: Tensor, splits: int) -> Tensor:
    """Fills `out` [rows, heads, width] from the splits' buffers; nothing to do where nothing was split."""
    if splits > 1:
        width = out.shape[-1]
        items, block = out.numel() // width, min(power(width), 128)
        grid = (items, triton.cdiv(width, block))
        _join[grid](partial, stats, out, items, width, splits, power(splits), block, num_warps=2)
    return out
