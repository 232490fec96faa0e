"""Attention over compressed keys (MLA, arXiv 2405.04434, absorbed form), to all entries or to selected ones.

The latents are keys and values at once, shared by all heads, so a tile is many heads of few rows and each latent is loaded
once for both products. A selection is read entry by entry: only the selected latents are touched.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.batch import Batch
from . import gpu
from .common import dot, inner, kernel, num_tiles, power, precision, sequence_block, sequence_of, take_turn, tile_of
from .softmax import finish, update
from .softmax import start as begin_softmax
from .split import buffers, join, num_splits, split_range


@kernel
def _attend_latent(
    q, q_rope, latent_pages, rope_pages, selected, out, partial, stats, starts, positions, pages,
    num_sequences, pages_stride, scale, num_rows, num_selected, dim, rope_dim,
    q_s, q_t, r_s, r_t, l_page, l_entry, p_page, p_entry, selected_stride,
    HEADS: tl.constexpr, SELECTED: tl.constexpr, SPLITS: tl.constexpr, PRECISION: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    take_turn()
    if SELECTED:  # a tile is within one row: each has entries of its own
        TILES: tl.constexpr = (HEADS + BLOCK_M - 1) // BLOCK_M
        start = tl.program_id(0) // TILES
        first, items = (tl.program_id(0) % TILES) * BLOCK_M, HEADS
        s = sequence_of(starts, num_sequences, start, BLOCK_S)
    else:
        s, first, items, start = tile_of(starts, num_sequences, HEADS, tl.program_id(0), BLOCK_M, BLOCK_S)
    if s < num_sequences:
        split = tl.program_id(1)
        item = first + tl.arange(0, BLOCK_M)
        valid = item < items
        row = (start + item // HEADS).to(tl.int64)
        head = item % HEADS
        d, r = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_R)
        has_d, has_r = d < dim, r < rope_dim
        position = tl.load(positions + row, mask=valid, other=-1)
        query = tl.load(
            q + row[:, None] * q_s + head[:, None] * q_t + d[None, :], mask=valid[:, None] & has_d[None, :], other=0.0
        )
        turned = tl.load(
            q_rope + row[:, None] * r_s + head[:, None] * r_t + r[None, :], mask=valid[:, None] & has_r[None, :], other=0.0
        )
        last = num_selected if SELECTED else tl.max(position, axis=0) + 1
        begin, end = split_range(0, last, split, SPLITS, BLOCK_N)

        top, total, acc = begin_softmax(q, head, valid, split, False, BLOCK_M, BLOCK_D)
        for block in range(begin, end, BLOCK_N):
            entry = block + tl.arange(0, BLOCK_N)
            exists = entry < last
            if SELECTED:
                entry = tl.load(selected + start.to(tl.int64) * selected_stride + entry, mask=exists, other=-1)
                exists = (entry >= 0) & (entry <= tl.max(position, axis=0))
                entry = tl.where(exists, entry, 0)
            page = tl.load(pages + s * pages_stride + entry // PAGE, mask=exists, other=0).to(tl.int64)
            place = entry % PAGE
            latent = tl.load(
                latent_pages + (page * l_page + place * l_entry)[:, None] + d[None, :],
                mask=exists[:, None] & has_d[None, :], other=0.0,
            ).to(query.dtype)  # fmt: skip
            key = tl.load(
                rope_pages + (page * p_page + place * p_entry)[None, :] + r[:, None],
                mask=exists[None, :] & has_r[:, None], other=0.0,
            ).to(query.dtype)  # fmt: skip
            seen = exists[None, :] & (entry[None, :] <= position[:, None])
            more = dot(turned, key, PRECISION)
            top, total, acc = update(top, total, acc, query, tl.trans(latent), latent, seen, scale, PRECISION, more)
        finish(
            out, partial, stats, row, head, valid, has_d, d, top, total, acc, num_rows, HEADS, dim, split, SPLITS
        )  # fmt: skip


def _tile(num_heads: int, dim: int, dtype: torch.dtype, shared_bytes: int) -> tuple[int, int]:
    """(items of a program, entries of a step): as many items as can be held, since each latent is read once for them."""
    if dtype.itemsize == 4:
        return 16, 16 if dim > 256 else 32
    return min(power(num_heads, 16), 64 if shared_bytes >= 160 << 10 else 32), 32


def attend_latent(
    q: Tensor,
    q_rope: Tensor,
    latent_pages: Tensor,
    rope_pages: Tensor,
    batch: Batch,
    scale: float,
    selected: Tensor | None = None,
    *,
    fixed: bool = False,
) -> Tensor:
    """As the contract says; `fixed` computes a row the same way whatever its batch."""
    num_rows, num_heads, dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not out.numel():
        return out
    q, q_rope = inner(q), inner(q_rope)
    rope_dim, sequences = q_rope.shape[-1], batch.lengths.shape[0]
    block_m, block_n = _tile(num_heads, dim, q.dtype, gpu.of(q.device).shared_bytes)
    if selected is None:
        tiles, longest = num_tiles(batch, num_heads, block_m), batch.pages.shape[1] * batch.page_size
    else:
        tiles, longest = num_rows * triton.cdiv(num_heads, block_m), selected.shape[1]
    split = not fixed and (selected is not None or num_rows == sequences)
    splits = num_splits(tiles, longest, block_n, q.device) if split else 1
    partial, stats = buffers(splits, num_rows, num_heads, dim, q.device)
    chosen = q if selected is None else inner(selected)
    _attend_latent[(tiles, splits)](
        q, q_rope, latent_pages, rope_pages, chosen, out, partial, stats, batch.starts, batch.positions, batch.pages,
        sequences, batch.pages.stride(0), scale, num_rows, longest, dim, rope_dim,
        q.stride(0), q.stride(1), q_rope.stride(0), q_rope.stride(1),
        *latent_pages.stride()[:2], *rope_pages.stride()[:2], chosen.stride(0),
        num_heads, selected is not None, splits, precision(q.dtype),
        latent_pages.shape[1], block_m, block_n, power(dim, 16), power(rope_dim, 16), sequence_block(batch),
        num_warps=8 if dim > 256 else 4,
    )  # fmt: skip
    return join(out, partial, stats, splits)


def fixed(*args: Any, **options: Any) -> Tensor:
    """`attend_latent` with a row computed the same way whatever its batch."""
    return attend_latent(*args, **options, fixed=True)
