"""Choosing entries for sparse attention (DeepSeek-V3.2's indexer): scores, then the best of them in ascending order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.batch import Batch
from .common import dot, inner, kernel, power, precision, sequence_block, sequence_of, take_turn
from .keys import digit_of, key_of, walk_down

_WORKSPACE = 64 << 20  # scores held at a time
_BLOCK = 1024


@kernel
def _scores(
    q, weights, k_pages, out, starts, positions, pages, first_row, num_sequences, pages_stride,
    num_heads, dim, q_s, q_t, w_s, k_page, k_entry, out_stride, every, within, num_blocks, within_stride, block,
    WEIGHTS: tl.constexpr, WITHIN: tl.constexpr, PRECISION: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    take_turn()
    row = first_row + tl.program_id(0).to(tl.int64)
    count = (tl.load(positions + row) + 1) // every
    if tl.program_id(1) * BLOCK_N < count:
        s = sequence_of(starts, num_sequences, row, BLOCK_S)
        entry = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        exists = entry < count
        d = tl.arange(0, BLOCK_D)
        page = tl.load(pages + s * pages_stride + entry // PAGE, mask=exists, other=0).to(tl.int64)
        key = tl.load(
            k_pages + (page * k_page + (entry % PAGE) * k_entry)[None, :] + d[:, None],
            mask=exists[None, :] & (d < dim)[:, None], other=0.0,
        )  # fmt: skip
        sums = tl.zeros([BLOCK_N], tl.float32)
        for first in range(0, num_heads, BLOCK_H):
            head = first + tl.arange(0, BLOCK_H)
            has = head < num_heads
            query = tl.load(q + row * q_s + head[:, None] * q_t + d[None, :], mask=has[:, None] & (d < dim)[None, :], other=0.0)
            scores = dot(query, key.to(query.dtype), PRECISION)
            scores = tl.where(scores > 0.0, scores, 0.0)
            if WEIGHTS:
                scores *= tl.load(weights + row * w_s + head, mask=has, other=0.0).to(tl.float32)[:, None]
            sums += tl.sum(scores, axis=0)
        if WITHIN:
            allowed = tl.zeros([BLOCK_N], tl.int32)
            for first in range(0, num_blocks, BLOCK_N):
                i = first + tl.arange(0, BLOCK_N)
                inside = tl.load(within + row * within_stride + i, mask=i < num_blocks, other=-1)
                allowed += tl.sum((inside[None, :] == (entry // block)[:, None]).to(tl.int32), axis=1)
            sums = tl.where(allowed > 0, sums, float("-inf"))
        tl.store(out + tl.program_id(0).to(tl.int64) * out_stride + entry, sums, mask=exists)


@kernel
def _block_scores(
    scores, out, positions, first_row, scores_stride, out_stride, every, block, BLOCK: tl.constexpr, BLOCK_B: tl.constexpr
):
    """The best score of each block of entries; the newest block's is above all."""
    take_turn()
    here = tl.program_id(0).to(tl.int64)
    count = (tl.load(positions + first_row + here) + 1) // every
    index = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    i = tl.arange(0, BLOCK)
    entry = index[:, None] * block + i[None, :]
    inside = (i < block)[None, :] & (entry < count)
    best = tl.max(tl.load(scores + here * scores_stride + entry, mask=inside, other=float("-inf")), axis=1)
    best = tl.where(index == (count - 1) // block, float("inf"), best)
    tl.store(out + here * out_stride + index, best, mask=index * block < count)


@kernel
def _best(scores, out, positions, first_row, scores_stride, top_k, every, block, BLOCK: tl.constexpr):
    """The top_k blocks of entries of a row above -inf, ascending; ties at the last place go to the lowest."""
    take_turn()
    here = tl.program_id(0).to(tl.int64)
    row = first_row + here
    count = ((tl.load(positions + row) + 1) // every + block - 1) // block
    lane = tl.arange(0, BLOCK)
    prefix = tl.zeros([], tl.uint32)
    wanted = tl.minimum(top_k, count)
    if count > top_k:
        shift = tl.full([], 28, tl.uint32)
        for _ in range(8):
            counts = tl.zeros([16], tl.int32)
            for first in range(0, count, BLOCK):
                entry = first + lane
                x = tl.load(scores + here * scores_stride + entry, mask=entry < count, other=float("-inf"))
                key = key_of(x)
                digit = tl.where(x > float("-inf"), digit_of(key, prefix, shift), 16)
                counts += tl.sum((digit[:, None] == tl.arange(0, 16)[None, :]).to(tl.int32), axis=0)
            found, above = walk_down(counts, wanted)
            wanted -= above
            prefix = prefix | (found.to(tl.uint32) << shift)
            shift -= 4
    # Of the entries whose key is the prefix the first `wanted` belong; of the higher ones all.
    written, ties = 0, 0
    for first in range(0, count, BLOCK):
        entry = first + lane
        x = tl.load(scores + here * scores_stride + entry, mask=entry < count, other=float("-inf"))
        exists, key = x > float("-inf"), key_of(x)
        tie = exists & (key == prefix)
        rank = ties + tl.cumsum(tie.to(tl.int32), axis=0)
        chosen = exists & ((key > prefix) | (tie & (rank <= wanted)))
        place = written + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
        tl.store(out + row * top_k + place, entry, mask=chosen)
        written += tl.sum(chosen.to(tl.int32), axis=0)
        ties += tl.sum(tie.to(tl.int32), axis=0)


def _parts(
    q: Tensor, weights: Tensor | None, k_pages: Tensor, batch: Batch, every: int, within: Tensor | None, block: int
) -> Iterator[tuple[int, Tensor]]:
    """(first row, scores [rows, entries]) of some rows after the other, as many as the workspace holds."""
    num_rows, num_heads, dim = q.shape
    q, given = inner(q), q if weights is None else inner(weights)
    blocks = q if within is None else inner(within)
    longest = batch.pages.shape[1] * k_pages.shape[1]
    step = max(1, min(num_rows, _WORKSPACE // longest))
    scores = torch.empty(step, longest, dtype=torch.float32, device=q.device)
    sequences, block_n = batch.lengths.shape[0], 64
    for first in range(0, num_rows, step):
        rows = min(step, num_rows - first)
        _scores[(rows, triton.cdiv(longest, block_n))](
            q, given, k_pages, scores, batch.starts, batch.positions, batch.pages, first, sequences,
            batch.pages.stride(0), num_heads, dim, q.stride(0), q.stride(1), given.stride(0),
            *k_pages.stride()[:2], longest, every, blocks, blocks.shape[1], blocks.stride(0), block,
            weights is not None, within is not None, precision(q.dtype), k_pages.shape[1],
            min(power(num_heads, 16), 64), block_n, power(dim, 16), sequence_block(batch),
        )  # fmt: skip
        yield first, scores[:rows]


def select(
    q: Tensor,
    weights: Tensor | None,
    k_pages: Tensor,
    batch: Batch,
    top_k: int,
    every: int = 1,
    within: Tensor | None = None,
    block: int = 1,
) -> Tensor:
    out = torch.full((q.shape[0], top_k), -1, dtype=torch.int32, device=q.device)
    if len(q):
        for first, scores in _parts(q, weights, k_pages, batch, every, within, block):
            lanes = min(_BLOCK, power(scores.shape[1]))
            _best[(len(scores),)](scores, out, batch.positions, first, scores.stride(0), top_k, every, 1, lanes, num_warps=8)
    return out


def select_blocks(
    q: Tensor, weights: Tensor | None, k_pages: Tensor, batch: Batch, top_k: int, every: int, block: int
) -> Tensor:
    out = torch.full((q.shape[0], top_k), -1, dtype=torch.int32, device=q.device)
    if len(q):
        for first, scores in _parts(q, weights, k_pages, batch, every, None, 1):
            number = triton.cdiv(scores.shape[1], block)
            best = torch.empty(len(scores), number, dtype=torch.float32, device=q.device)
            together = max(1, 2048 // power(block))
            _block_scores[(len(scores), triton.cdiv(number, together))](
                scores, best, batch.positions, first, scores.stride(0), number, every, block, power(block), together
            )
            lanes = min(_BLOCK, power(number))
            _best[(len(scores),)](best, out, batch.positions, first, number, top_k, every, block, lanes, num_warps=8)
    return out
