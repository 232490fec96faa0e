"""Attention over pages in one pass with a running softmax (FlashAttention-2, arXiv 2307.08691), decode and prefill alike.

The query heads that share a key head are rows of one tile, so that each key is read once for all of them: item i of a
sequence is its row i // G, head i % G. With few tiles the entries are split over programs and joined afterwards
(Flash-Decoding).
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ....core.batch import Batch
from .common import inner, kernel, num_tiles, power, precision, sequence_block, take_turn, tile_of
from .softmax import finish, update
from .softmax import start as begin_softmax
from .split import buffers, join, num_splits, split_range


@kernel
def _attend(
    q, k_pages, v_pages, sinks, out, partial, stats, starts, lengths, positions, pages,
    num_sequences, pages_stride, scale, window, num_rows, num_heads, dim, v_dim,
    q_s, q_t, k_page, k_entry, k_head, v_page, v_entry, v_head,
    GROUPS: tl.constexpr, WINDOW: tl.constexpr, SINKS: tl.constexpr, SPLITS: tl.constexpr, PRECISION: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    take_turn()
    s, first, items, start = tile_of(starts, num_sequences, GROUPS, tl.program_id(0), BLOCK_M, BLOCK_S)
    if s < num_sequences:
        key_head, split = tl.program_id(1), tl.program_id(2)
        item = first + tl.arange(0, BLOCK_M)
        valid = item < items
        row = (start + item // GROUPS).to(tl.int64)
        head = key_head * GROUPS + item % GROUPS
        d, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E)
        position = tl.load(positions + row, mask=valid, other=-1)
        query = tl.load(
            q + row[:, None] * q_s + head[:, None] * q_t + d[None, :], mask=valid[:, None] & (d < dim)[None, :], other=0.0
        )

        last = tl.max(position, axis=0) + 1
        begin = 0
        if WINDOW:
            begin = tl.maximum(tl.min(tl.where(valid, position, 2147483647), axis=0) - window + 1, 0)
        begin, end = split_range(begin, last, split, SPLITS, BLOCK_N)

        top, total, acc = begin_softmax(sinks, head, valid, split, SINKS, BLOCK_M, BLOCK_E)
        for block in range(begin, end, BLOCK_N):
            entry = block + tl.arange(0, BLOCK_N)
            exists = entry < last
            page = tl.load(pages + s * pages_stride + entry // PAGE, mask=exists, other=0).to(tl.int64)
            place = entry % PAGE
            key = tl.load(
                k_pages + (page * k_page + place * k_entry + key_head * k_head)[None, :] + d[:, None],
                mask=exists[None, :] & (d < dim)[:, None], other=0.0,
            )  # fmt: skip
            seen = entry[None, :] <= position[:, None]
            if WINDOW:
                seen = seen & (entry[None, :] > position[:, None] - window)
            value = tl.load(
                v_pages + (page * v_page + place * v_entry + key_head * v_head)[:, None] + e[None, :],
                mask=exists[:, None] & (e < v_dim)[None, :], other=0.0,
            )  # fmt: skip
            top, total, acc = update(
                top, total, acc, query, key.to(query.dtype), value.to(query.dtype), seen, scale, PRECISION
            )  # fmt: skip
        finish(
            out, partial, stats, row, head, valid, e < v_dim, e, top, total, acc, num_rows, num_heads, v_dim, split, SPLITS
        )  # fmt: skip


def attend(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    batch: Batch,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
    *,
    fixed: bool = False,
) -> Tensor:
    """As the contract says; `fixed` computes a row the same way whatever its batch: one tile shape, nothing split."""
    num_rows, num_heads, dim = q.shape
    num_keys, v_dim = k_pages.shape[2], v_pages.shape[3]
    out = torch.empty(num_rows, num_heads, v_dim, dtype=q.dtype, device=q.device)
    if not out.numel():
        return out
    q = inner(q)
    groups, sequences = num_heads // num_keys, batch.lengths.shape[0]
    decoding = num_rows == sequences
    block_m = 64 if fixed or not decoding else power(groups, 16)
    block_m = min(block_m, 64)
    block_n = 16 if q.dtype.itemsize == 4 else 64 if dim <= 128 else 32
    tiles = num_tiles(batch, groups, block_m)
    longest = batch.pages.shape[1] * batch.page_size
    splits = 1 if fixed or not decoding else num_splits(tiles * num_keys, longest, block_n, q.device)
    partial, stats = buffers(splits, num_rows, num_heads, v_dim, q.device)
    _attend[(tiles, num_keys, splits)](
        q, k_pages, v_pages, q if sinks is None else sinks, out, partial, stats,
        batch.starts, batch.lengths, batch.positions, batch.pages,
        sequences, batch.pages.stride(0), scale, window or 0, num_rows, num_heads, dim, v_dim,
        q.stride(0), q.stride(1), *k_pages.stride()[:3], *v_pages.stride()[:3],
        groups, window is not None, sinks is not None, splits, precision(q.dtype),
        k_pages.shape[1], block_m, block_n, power(dim, 16), power(v_dim, 16), sequence_block(batch),
        num_warps=4 if block_m <= 32 else 8,
    )  # fmt: skip
    return join(out, partial, stats, splits)


def fixed(*args: Any, **options: Any) -> Tensor:
    """`attend` with a row computed the same way whatever its batch."""
    return attend(*args, **options, fixed=True)
