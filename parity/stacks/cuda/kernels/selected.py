"""Attention to the tokens of selected groups and to those after the last whole group: only these are read."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ....core.batch import Batch
from .common import inner, kernel, power, precision, sequence_block, sequence_of, take_turn
from .softmax import finish, update
from .softmax import start as begin_softmax
from .split import buffers, join, num_splits, split_range


@kernel
def _attend_selected(
    q, k_pages, v_pages, selected, out, partial, stats, starts, positions, pages,
    num_sequences, pages_stride, scale, num_rows, num_selected, num_heads, dim, v_dim,
    q_s, q_t, k_page, k_entry, k_head, v_page, v_entry, v_head, selected_stride,
    GROUPS: tl.constexpr, SPLITS: tl.constexpr, EVERY: tl.constexpr, PAGE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The query heads of one key head of a row."""
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    key_head, split = tl.program_id(1), tl.program_id(2)
    lane = tl.arange(0, BLOCK_M)
    valid, head = lane < GROUPS, key_head * GROUPS + lane
    d, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E)
    s = sequence_of(starts, num_sequences, row, BLOCK_S)
    position = tl.load(positions + row)
    query = tl.load(q + row * q_s + head[:, None] * q_t + d[None, :], mask=valid[:, None] & (d < dim)[None, :], other=0.0)
    top, total, acc = begin_softmax(q, head, valid, split, False, BLOCK_M, BLOCK_E)
    rest = num_selected * EVERY
    begin, end = split_range(0, rest + EVERY - 1, split, SPLITS, BLOCK_N)
    for first in range(begin, end, BLOCK_N):
        i = first + tl.arange(0, BLOCK_N)
        group = tl.load(selected + row * selected_stride + i // EVERY, mask=i < rest, other=-1)
        token = tl.where(group >= 0, group * EVERY + i % EVERY, -1)
        token = tl.where(i >= rest, (position + 1) // EVERY * EVERY + i - rest, token)
        exists = (token >= 0) & (token <= position) & (i < end)
        token = tl.where(exists, token, 0)
        page = tl.load(pages + s * pages_stride + token // PAGE, mask=exists, other=0).to(tl.int64)
        place = token % PAGE
        key = tl.load(
            k_pages + (page * k_page + place * k_entry + key_head * k_head)[None, :] + d[:, None],
            mask=exists[None, :] & (d < dim)[:, None], other=0.0,
        ).to(query.dtype)  # fmt: skip
        value = tl.load(
            v_pages + (page * v_page + place * v_entry + key_head * v_head)[:, None] + e[None, :],
            mask=exists[:, None] & (e < v_dim)[None, :], other=0.0,
        ).to(query.dtype)  # fmt: skip
        top, total, acc = update(top, total, acc, query, key, value, exists[None, :], scale, PRECISION)
    rows = row + tl.zeros([BLOCK_M], tl.int64)
    finish(
        out, partial, stats, rows, head, valid, e < v_dim, e, top, total, acc, num_rows, num_heads, v_dim, split, SPLITS
    )  # fmt: skip


def attend_selected(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    batch: Batch,
    scale: float,
    selected: Tensor,
    every: int,
    *,
    fixed: bool = False,
) -> Tensor:
    """As the contract says; `fixed` computes a row the same way whatever its batch."""
    num_rows, num_heads, dim = q.shape
    num_keys, v_dim = k_pages.shape[2], v_pages.shape[3]
    out = torch.empty(num_rows, num_heads, v_dim, dtype=q.dtype, device=q.device)
    if not out.numel():
        return out
    q, selected = inner(q), inner(selected)
    groups, sequences = num_heads // num_keys, batch.lengths.shape[0]
    block_m, block_n = power(groups, 16), 64 if dim <= 128 and q.dtype.itemsize == 2 else 32
    longest = selected.shape[1] * every + every - 1
    splits = 1 if fixed else num_splits(num_rows * num_keys, longest, block_n, q.device)
    partial, stats = buffers(splits, num_rows, num_heads, v_dim, q.device)
    _attend_selected[(num_rows, num_keys, splits)](
        q, k_pages, v_pages, selected, out, partial, stats, batch.starts, batch.positions, batch.pages,
        sequences, batch.pages.stride(0), scale, num_rows, selected.shape[1], num_heads, dim, v_dim,
        q.stride(0), q.stride(1), *k_pages.stride()[:3], *v_pages.stride()[:3], selected.stride(0),
        groups, splits, every, k_pages.shape[1], precision(q.dtype),
        block_m, block_n, power(dim, 16), power(v_dim, 16), sequence_block(batch), num_warps=4 if block_m <= 32 else 8,
    )  # fmt: skip
    return join(out, partial, stats, splits)


def fixed(*args: Any, **options: Any) -> Tensor:
    """`attend_selected` with a row computed the same way whatever its batch."""
    return attend_selected(*args, **options, fixed=True)
