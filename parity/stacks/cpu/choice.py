"""Choosing the entries that rows attend to, and pooling entries from groups of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.batch import Batch
from .. import reference_entries
from .arena import empty
from .dense import plain
from .fallback import told, usable
from .native import native
from .paged import PAGE_TYPES, chosen, places, readable


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
    if not _scorable(q, weights, k_pages, batch, top_k) or not chosen(within):
        told("select", q, k_pages)
        return reference_entries.select(q, weights, k_pages, batch, top_k, every, within, block)
    return _select(q, weights, k_pages, batch, top_k, every, block, within=within)


def select_blocks(
    q: Tensor, weights: Tensor | None, k_pages: Tensor, batch: Batch, top_k: int, every: int, block: int
) -> Tensor:
    if not _scorable(q, weights, k_pages, batch, top_k):
        told("select_blocks", q, k_pages)
        return reference_entries.select_blocks(q, weights, k_pages, batch, top_k, every, block)
    return _select(q, weights, k_pages, batch, top_k, every, block, blocks=True)


def _scorable(q: Tensor, weights: Tensor | None, k_pages: Tensor, batch: Batch, top_k: int) -> bool:
    right = weights is None or usable(weights)
    return right and usable(q) and readable(k_pages) and batch.positions.dtype == torch.int32 and top_k > 0


def _select(
    q: Tensor,
    weights: Tensor | None,
    k_pages: Tensor,
    batch: Batch,
    top_k: int,
    every: int,
    block: int,
    *,
    within: Tensor | None = None,
    blocks: bool = False,
) -> Tensor:
    out = empty(q.shape[0], top_k, dtype=torch.int32)
    native().select(
        q.data_ptr(),
        q.stride(0),
        q.stride(1),
        0 if weights is None else weights.data_ptr(),
        0 if weights is None else weights.stride(0),
        k_pages.data_ptr(),
        0 if within is None else within.data_ptr(),
        out.data_ptr(),
        PAGE_TYPES[k_pages.dtype],
        q.shape[1],
        q.shape[2],
        top_k,
        every,
        0 if within is None else within.shape[1],
        block,
        blocks,
        places(batch, k_pages.shape[1]),
    )
    return out


def pool(
    values: Tensor,
    gates: Tensor | None,
    bias: Tensor | None,
    tail: Tensor,
    batch: Batch,
    every: int,
    overlap: bool = False,
) -> Tensor:
    if not (usable(values) and (gates is None or usable(gates)) and plain(bias, tail)):
        told("pool", values, tail)
        return reference_entries.pool(values, gates, bias, tail, batch, every, overlap)
    tokens, channels = values.shape
    out = empty(tokens, channels // 2 if overlap else channels)
    native().pool(
        values.data_ptr(),
        values.stride(0),
        0 if gates is None else gates.data_ptr(),
        0 if gates is None else gates.stride(0),
        0 if bias is None else bias.data_ptr(),
        tail.data_ptr(),
        out.data_ptr(),
        batch.starts.data_ptr(),
        batch.lengths.data_ptr(),
        batch.slots.data_ptr(),
        batch.num_sequences,
        channels,
        every,
        overlap,
        tokens,
    )
    return out
