"""Entries pooled from groups of tokens (DeepSeek-V4): making them, writing them, and attending to them beside a window."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.batch import Batch
from .common import inner, kernel, power, precision, sequence_block, sequence_of, take_turn
from .softmax import finish, update
from .softmax import start as begin_softmax
from .split import buffers, join, num_splits, split_range


@kernel
def _pool(
    values, gates, bias, tail, out, starts, positions, slots, num_sequences, channels, v_s, g_s, t_slot, t_entry,
    EVERY: tl.constexpr, OVERLAP: tl.constexpr, GATES: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The pooled channels of a row that ends a group; `channels` are those of the result."""
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + row)
    if (position + 1) % EVERY == 0:
        WIDTH: tl.constexpr = 2 * EVERY if OVERLAP else EVERY
        s = sequence_of(starts, num_sequences, row, BLOCK_S)
        first = tl.load(starts + s)
        slot = tl.load(slots + s).to(tl.int64)
        i = tl.arange(0, BLOCK_W)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        token = position - WIDTH + 1 + i
        from_row = row - (WIDTH - 1) + i
        exists = (i < WIDTH) & (token >= 0)
        fresh = from_row >= first
        kept = tl.where(exists & ~fresh, token % WIDTH, 0)
        # Overlapping, the group before has the first half of the channels and the group itself the second.
        channel = c[None, :] + (tl.where(i >= EVERY, channels, 0)[:, None] if OVERLAP else 0)
        ALL: tl.constexpr = 2 if OVERLAP else 1
        has = (c < channels)[None, :] & exists[:, None]
        here = tail + slot * t_slot + kept[:, None] * t_entry + channel
        value = tl.load(values + from_row[:, None] * v_s + channel, mask=has & fresh[:, None], other=0.0)
        old = tl.load(here, mask=has & ~fresh[:, None], other=0.0).to(value.dtype)
        value = tl.where(fresh[:, None], value, old).to(tl.float32)
        gate = tl.zeros([BLOCK_W, BLOCK_C], tl.float32)
        if GATES:
            new = tl.load(gates + from_row[:, None] * g_s + channel, mask=has & fresh[:, None], other=0.0)
            old = tl.load(here + ALL * channels, mask=has & ~fresh[:, None], other=0.0).to(new.dtype)
            gate = tl.where(fresh[:, None], new, old).to(tl.float32)
        if BIAS:
            at = tl.where(exists, token % EVERY, 0)[:, None] * (ALL * channels) + channel
            gate += tl.load(bias + at, mask=has, other=0.0).to(tl.float32)
        gate = tl.where(exists[:, None], gate, float("-inf"))
        share = tl.exp(gate - tl.max(gate, axis=0)[None, :])
        y = tl.sum(share * value, axis=0) / tl.sum(share, axis=0)
        tl.store(out + row * channels + c, y.to(out.dtype.element_ty), mask=c < channels)


@kernel
def _keep(
    values, gates, tail, starts, lengths, slots, channels, v_s, g_s, t_slot, t_entry,
    WIDTH: tl.constexpr, GATES: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The latest values and gates of a sequence into its tail: one token of the latest WIDTH that are in the chunk."""
    take_turn()
    s = tl.program_id(0)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = tl.load(starts + s + 1) - 1 - tl.program_id(1)
    if row >= tl.load(starts + s):
        token = tl.load(lengths + s) - 1 - tl.program_id(1)
        here = tail + tl.load(slots + s).to(tl.int64) * t_slot + (token % WIDTH) * t_entry + c
        at = row.to(tl.int64)
        value = tl.load(values + at * v_s + c, mask=c < channels, other=0.0)
        tl.store(here, value.to(tail.dtype.element_ty), mask=c < channels)
        if GATES:
            gate = tl.load(gates + at * g_s + c, mask=c < channels, other=0.0)
            tl.store(here + channels, gate.to(tail.dtype.element_ty), mask=c < channels)


@kernel
def _attend_pooled(
    q, window_pages, pooled_pages, selected, sinks, out, partial, stats, starts, positions, pages,
    num_sequences, pages_stride, scale, window, num_rows, num_selected, num_heads, dim,
    q_s, q_t, w_page, w_entry, p_page, p_entry, selected_stride,
    POOLED: tl.constexpr, SELECTED: tl.constexpr, SINKS: tl.constexpr, SPLITS: tl.constexpr, EVERY: tl.constexpr,
    PAGE: tl.constexpr, POOLED_PAGE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Some heads of a row: its window (the first split's), then the pooled entries."""
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(2)
    head = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = head < num_heads
    d = tl.arange(0, BLOCK_D)
    has = d < dim
    s = sequence_of(starts, num_sequences, row, BLOCK_S)
    table = pages + s * pages_stride
    position = tl.load(positions + row)
    query = tl.load(q + row * q_s + head[:, None] * q_t + d[None, :], mask=valid[:, None] & has[None, :], other=0.0)
    top, total, acc = begin_softmax(sinks, head, valid, split, SINKS, BLOCK_M, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    if split == 0:
        for first in range(tl.maximum(position - window + 1, 0), position + 1, BLOCK_N):
            entry = first + n
            exists = entry <= position
            page = tl.load(table + entry // PAGE, mask=exists, other=0).to(tl.int64)
            key = tl.load(
                window_pages + (page * w_page + (entry % PAGE) * w_entry)[:, None] + d[None, :],
                mask=exists[:, None] & has[None, :], other=0.0,
            ).to(query.dtype)  # fmt: skip
            top, total, acc = update(top, total, acc, query, tl.trans(key), key, exists[None, :], scale, PRECISION)
    if POOLED:
        complete = (position + 1) // EVERY
        begin, end = split_range(0, num_selected if SELECTED else complete, split, SPLITS, BLOCK_N)
        for first in range(begin, end, BLOCK_N):
            entry = first + n
            exists = entry < end
            if SELECTED:
                entry = tl.load(selected + row * selected_stride + entry, mask=exists, other=-1)
                exists = (entry >= 0) & (entry < complete)
                entry = tl.where(exists, entry, 0)
            page = tl.load(table + entry // POOLED_PAGE, mask=exists, other=0).to(tl.int64)
            key = tl.load(
                pooled_pages + (page * p_page + (entry % POOLED_PAGE) * p_entry)[:, None] + d[None, :],
                mask=exists[:, None] & has[None, :], other=0.0,
            ).to(query.dtype)  # fmt: skip
            top, total, acc = update(top, total, acc, query, tl.trans(key), key, exists[None, :], scale, PRECISION)
    finish(
        out, partial, stats, row + tl.zeros([BLOCK_M], tl.int64), head, valid, has, d, top, total, acc,
        num_rows, num_heads, dim, split, SPLITS,
    )  # fmt: skip


def pool(
    values: Tensor,
    gates: Tensor | None,
    bias: Tensor | None,
    tail: Tensor,
    batch: Batch,
    every: int,
    overlap: bool = False,
) -> Tensor:
    num_rows, wide = values.shape
    channels, width = (wide // 2, 2 * every) if overlap else (wide, every)
    out = torch.empty(num_rows, channels, dtype=values.dtype, device=values.device)
    if not out.numel():
        return out
    values, gate, sequences = inner(values), inner(values if gates is None else gates), batch.lengths.shape[0]
    block_w = power(width)
    block_c = min(power(channels), max(4096 // block_w, 16), 256)
    _pool[(num_rows, triton.cdiv(channels, block_c))](
        values, gate, values if bias is None else bias.contiguous(), tail, out, batch.starts, batch.positions, batch.slots,
        sequences, channels, values.stride(0), gate.stride(0), *tail.stride()[:2],
        every, overlap, gates is not None, bias is not None, block_w, block_c, sequence_block(batch),
    )  # fmt: skip
    block = min(power(wide), 1024)
    _keep[(sequences, min(width, num_rows), triton.cdiv(wide, block))](
        values, gate, tail, batch.starts, batch.lengths, batch.slots, wide, values.stride(0), gate.stride(0),
        *tail.stride()[:2], width, gates is not None, block,
    )  # fmt: skip
    return out


def attend_pooled(
    q: Tensor,
    pages: Tensor,
    pooled: Tensor | None,
    batch: Batch,
    scale: float,
    window: int,
    every: int,
    selected: Tensor | None = None,
    sinks: Tensor | None = None,
    *,
    fixed: bool = False,
) -> Tensor:
    """As the contract says; `fixed` computes a row the same way whatever its batch."""
    num_rows, num_heads, dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not out.numel():
        return out
    q, sequences = inner(q), batch.lengths.shape[0]
    full = q.dtype.itemsize == 4
    block_m, block_n = (16, 16 if dim > 256 else 32) if full else (min(power(num_heads, 16), 32 if dim > 256 else 64), 32)
    tiles = triton.cdiv(num_heads, block_m)
    entries = pages if pooled is None else pooled
    chosen = q if selected is None else inner(selected)
    longest = batch.pages.shape[1] * entries.shape[1] if selected is None else selected.shape[1]
    splits = 1 if fixed or pooled is None else num_splits(num_rows * tiles, longest, block_n, q.device)
    partial, stats = buffers(splits, num_rows, num_heads, dim, q.device)
    _attend_pooled[(num_rows, tiles, splits)](
        q, pages, entries, chosen, q if sinks is None else sinks, out, partial, stats,
        batch.starts, batch.positions, batch.pages, sequences, batch.pages.stride(0), scale, window, num_rows,
        chosen.shape[1], num_heads, dim, q.stride(0), q.stride(1), *pages.stride()[:2], *entries.stride()[:2],
        chosen.stride(0), pooled is not None, selected is not None, sinks is not None, splits, every,
        pages.shape[1], entries.shape[1], precision(q.dtype), block_m, block_n, power(dim, 16), sequence_block(batch),
        num_warps=8 if dim > 256 and not full else 4,
    )  # fmt: skip
    return join(out, partial, stats, splits)


def fixed(*args: Any, **options: Any) -> Tensor:
    """`attend_pooled` with a row computed the same way whatever its batch."""
    return attend_pooled(*args, **options, fixed=True)
