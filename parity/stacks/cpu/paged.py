"""Rotation, pages and attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...core.batch import Batch
from .. import reference, reference_entries
from ..paged import row_size
from .arena import empty
from .dense import rms_norm
from .fallback import told, usable
from .native import native

SEEN = {"all": 0, "chosen": 1, "groups": 2, "pooled": 3}
"""What a row attends to, as the kernel knows it."""


def places(batch: Batch, page_size: int) -> Any:
    """Where the rows of a batch stand in pages of so many entries."""
    return native().Places(
        batch.positions.data_ptr(),
        batch.starts.data_ptr(),
        batch.lengths.data_ptr(),
        batch.pages.data_ptr(),
        batch.num_sequences,
        batch.num_tokens,
        batch.pages.stride(0),
        page_size,
    )


def _inner_contiguous(x: Tensor) -> bool:
    """Whether each row [H, D] is in one piece."""
    return x[0].is_contiguous() if x.shape[0] else True


def rope_angles(positions: Tensor, inv_freq: Tensor, scale: float = 1.0, shift: int = 0) -> Tensor:
    if positions.dtype != torch.int32 or not usable(inv_freq):
        told("rope_angles", positions, inv_freq)
        return reference.rope_angles(positions, inv_freq, scale, shift)
    half = inv_freq.shape[0]
    out = empty(positions.shape[0], 2, half)
    native().rope_angles(positions.data_ptr(), inv_freq.data_ptr(), out.data_ptr(), positions.shape[0], half, shift, scale)
    return out


def rope(x: Tensor, angles: Tensor, interleaved: bool = False, offset: int = 0, inverse: bool = False) -> Tensor:
    if not (usable(x) and angles.is_contiguous()):
        told("rope", x)
        return reference.rope(x, angles, interleaved, offset, inverse)
    out = empty(*x.shape)
    native().rope(
        x.data_ptr(), x.stride(0), x.stride(1), angles.data_ptr(), out.data_ptr(), *x.shape, angles.shape[-1], offset,
        interleaved, inverse,
    )  # fmt: skip
    return out


def write(pages: Tensor, values: Tensor, batch: Batch) -> None:
    if not _write(pages, values, batch, 1):
        told("write", values, pages)
        reference.write(pages, values, batch)


def write_pooled(pages: Tensor, values: Tensor, batch: Batch, every: int) -> None:
    if not _write(pages, values, batch, every):
        told("write_pooled", values, pages)
        reference_entries.write_pooled(pages, values, batch, every)


def _write(pages: Tensor, values: Tensor, batch: Batch, every: int) -> bool:
    """Brings rows to their entries of `every` tokens: copies of the pages' own dtype, or float32 that is converted."""
    same = pages.dtype == values.dtype
    converted = values.dtype == torch.float32 and pages.dtype in PAGE_TYPES
    if not (same or converted) or not pages.is_contiguous() or not _inner_contiguous(values):
        return False
    columns = 0 if same else values.shape[-1]
    native().write(
        values.data_ptr(), pages.data_ptr(), values.stride(0) * values.element_size(),
        pages[0, 0].numel() * pages.element_size(), every, math.prod(values.shape[1:-1]), columns,
        PAGE_TYPES.get(pages.dtype, 0), places(batch, pages.shape[1]),
    )  # fmt: skip
    return True


def rope_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    batch: Batch,
    interleaved: bool = False,
    offset: int = 0,
) -> Tensor:
    same = q.shape[-1] == k.shape[-1] and k_pages.shape[1] == v_pages.shape[1] and readable(k_pages, v_pages)
    if not (same and all(usable(x) and _inner_contiguous(x) for x in (q, k, v)) and angles.is_contiguous()):
        told("rope_write", q, k, v, k_pages, v_pages)
        return reference.rope_write(q, k, v, angles, k_pages, v_pages, batch, interleaved, offset)
    out = empty(*q.shape)
    native().rope_write(
        q.data_ptr(), q.stride(0), k.data_ptr(), k.stride(0), v.data_ptr(), v.stride(0), angles.data_ptr(), out.data_ptr(),
        k_pages.data_ptr(), v_pages.data_ptr(), PAGE_TYPES[k_pages.dtype], *q.shape[1:2], *k.shape[1:],
        v.shape[2], angles.shape[-1], offset, interleaved, places(batch, k_pages.shape[1]),
    )  # fmt: skip
    return out


def norm_rope_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    zero_centred: bool,
    angles: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    batch: Batch,
) -> Tensor:
    q, k = rms_norm(q, q_weight, eps, zero_centred), rms_norm(k, k_weight, eps, zero_centred)
    return rope_write(q, k, v, angles, k_pages, v_pages, batch)


def attend(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    batch: Batch,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    if not (usable(q) and readable(k_pages, v_pages) and (sinks is None or usable(sinks))):
        told("attend", q, k_pages, v_pages)
        return reference.attend(q, k_pages, v_pages, batch, scale, window, sinks)
    return _attend(q, k_pages, v_pages, batch, scale, window=window or 0, sinks=sinks)


def attend_latent(
    q: Tensor,
    q_rope: Tensor,
    latent_pages: Tensor,
    rope_pages: Tensor,
    batch: Batch,
    scale: float,
    selected: Tensor | None = None,
) -> Tensor:
    if not (usable(q) and usable(q_rope) and readable(latent_pages, rope_pages) and chosen(selected)):
        told("attend_latent", q, q_rope, latent_pages, rope_pages)
        return reference.attend_latent(q, q_rope, latent_pages, rope_pages, batch, scale, selected)
    keys = latent_pages.unsqueeze(2)  # one head
    seen = "all" if selected is None else "chosen"
    return _attend(q, keys, keys, batch, scale, seen=seen, q_rope=q_rope, rope_pages=rope_pages, selected=selected)


def attend_selected(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, batch: Batch, scale: float, selected: Tensor, every: int
) -> Tensor:
    if not (usable(q) and readable(k_pages, v_pages) and chosen(selected)):
        told("attend_selected", q, k_pages, v_pages)
        return reference_entries.attend_selected(q, k_pages, v_pages, batch, scale, selected, every)
    return _attend(q, k_pages, v_pages, batch, scale, seen="groups", selected=selected, every=every)


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
) -> Tensor:
    entries = pages if pooled is None else pooled
    if not (usable(q) and readable(pages, entries) and (sinks is None or usable(sinks)) and chosen(selected)):
        told("attend_pooled", q, pages, entries)
        return reference_entries.attend_pooled(q, pages, pooled, batch, scale, window, every, selected, sinks)
    keys = pages.unsqueeze(2)  # one head
    choice = None if pooled is None else selected
    return _attend(
        q, keys, keys, batch, scale, seen="pooled", window=window, pooled=pooled, selected=choice, every=every, sinks=sinks
    )


PAGE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int8: 3}
"""The dtypes of pages, as the kernels know them."""


def readable(*arrays: Tensor) -> bool:
    """Whether the kernels read such pages: all of one dtype, each in one piece."""
    kinds = {pages.dtype for pages in arrays}
    return len(kinds) == 1 and kinds <= PAGE_TYPES.keys() and all(pages.is_contiguous() for pages in arrays)


def chosen(selected: Tensor | None) -> bool:
    """Whether the kernels can read a choice, if there is one."""
    return selected is None or (selected.dtype == torch.int32 and selected.is_contiguous())


def _attend(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    batch: Batch,
    scale: float,
    *,
    seen: str = "all",
    window: int = 0,
    every: int = 1,
    sinks: Tensor | None = None,
    q_rope: Tensor | None = None,
    rope_pages: Tensor | None = None,
    pooled: Tensor | None = None,
    selected: Tensor | None = None,
) -> Tensor:
    out = empty(q.shape[0], q.shape[1], row_size(v_pages))
    native().attend(
        q.data_ptr(),
        q.stride(0),
        q.stride(1),
        0 if q_rope is None else q_rope.data_ptr(),
        0 if q_rope is None else q_rope.stride(0),
        0 if q_rope is None else q_rope.stride(1),
        k_pages.data_ptr(),
        0 if rope_pages is None else rope_pages.data_ptr(),
        v_pages.data_ptr(),
        0 if pooled is None else pooled.data_ptr(),
        0 if sinks is None else sinks.data_ptr(),
        0 if selected is None else selected.data_ptr(),
        out.data_ptr(),
        PAGE_TYPES[k_pages.dtype],
        q.shape[1],
        k_pages.shape[2],
        q.shape[2],
        0 if rope_pages is None else row_size(rope_pages),
        row_size(v_pages),
        0 if selected is None else selected.shape[1],
        window,
        SEEN[seen],
        max(every, 1),
        scale,
        places(batch, k_pages.shape[1]),
    )
    return out
