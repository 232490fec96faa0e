"""Rotation of queries and keys, with their norms, and writing to pages: one launch for what a layer does of them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.batch import Batch
from .common import inner, kernel, power, sequence_block, sequence_of, take_turn

_HEADS = 8  # heads of a program


@triton.jit
def _weighted(x, factor, weight, d, mask, dtype, ZERO_CENTRED: tl.constexpr):
    """x of some heads times the factor of each and the weight, rounded as a norm by itself would be."""
    scale = tl.load(weight + d, mask=mask, other=0.0).to(tl.float32)
    if ZERO_CENTRED:
        scale += 1.0
    return (x.to(tl.float32) * factor[:, None] * scale[None, :]).to(dtype)


@triton.jit
def _rotate(
    x, y, cos_sin, weight, row, heads, num_heads, dim, x_s, x_t, y_head, half, offset, eps,
    NORM: tl.constexpr, ZERO_CENTRED: tl.constexpr, INTERLEAVED: tl.constexpr, INVERSE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rotates some heads of a row of x, normed first if NORM, and leaves them at y, y_head from head to head."""
    d = tl.arange(0, BLOCK_D)
    inside = (heads < num_heads)[:, None] & (d < dim)[None, :]
    values = tl.load(x + row * x_s + heads[:, None] * x_t + d[None, :], mask=inside, other=0.0)
    turned = (d >= offset) & (d < offset + 2 * half)
    i = d - offset
    if INTERLEAVED:
        pair, second, partner = i // 2, i % 2 == 1, d + 1 - 2 * (i % 2)
    else:
        pair, second, partner = i % half, i >= half, tl.where(i >= half, d - half, d + half)
    other = tl.load(x + row * x_s + heads[:, None] * x_t + partner[None, :], mask=inside & turned[None, :], other=0.0)
    if NORM:
        wide = values.to(tl.float32)
        factor = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=1) / dim + eps)
        values = _weighted(values, factor, weight, d, d < dim, x.dtype.element_ty, ZERO_CENTRED)
        other = _weighted(other, factor, weight, partner, turned & (d < dim), x.dtype.element_ty, ZERO_CENTRED)
    cos = tl.load(cos_sin + row * 2 * half + pair, mask=turned, other=1.0)
    sin = tl.load(cos_sin + row * 2 * half + half + pair, mask=turned, other=0.0)
    if INVERSE:
        sin = -sin
    # The second of a pair takes b cos + a sin, the first a cos - b sin.
    sin = tl.where(second, sin, -sin)
    z = values.to(tl.float32) * cos[None, :] + other.to(tl.float32) * sin[None, :]
    z = tl.where(turned[None, :], z.to(x.dtype.element_ty), values)
    tl.store(y + heads[:, None] * y_head + d[None, :], z.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _place(
    positions, starts, pages, pages_stride, num_sequences, row, PAGE: tl.constexpr, EVERY: tl.constexpr, BLOCK_S: tl.constexpr
):
    """(page, entry in it) of a row, or of the group of EVERY rows that it ends."""
    s = sequence_of(starts, num_sequences, row, BLOCK_S)
    entry = tl.load(positions + row) // EVERY
    page = tl.load(pages + s * pages_stride + entry // PAGE).to(tl.int64)
    return page, entry % PAGE


@kernel
def _rope(
    x, out, cos_sin, num_heads, dim, x_s, x_t, half, offset,
    INTERLEAVED: tl.constexpr, INVERSE: tl.constexpr, HEADS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    y = out + row * num_heads * dim
    _rotate(
        x, y, cos_sin, x, row, heads, num_heads, dim, x_s, x_t, dim, half, offset, 0.0,
        False, False, INTERLEAVED, INVERSE, BLOCK_D,
    )  # fmt: skip


@kernel
def _rope_write(
    q, k, v, q_weight, k_weight, cos_sin, out, k_pages, v_pages, positions, starts, pages,
    num_sequences, pages_stride, num_heads, num_keys, dim, v_dim, q_tiles, k_tiles,
    q_s, q_t, k_s, k_t, v_s, v_t, kp_page, kp_entry, kp_head, vp_page, vp_entry, vp_head, half, offset, eps,
    NORM: tl.constexpr, ZERO_CENTRED: tl.constexpr, PAGE: tl.constexpr, INTERLEAVED: tl.constexpr, HEADS: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    lane = tl.arange(0, HEADS)
    if tile < q_tiles:
        to_q = out + row * num_heads * dim
        q_heads = tile * HEADS + lane
        _rotate(
            q, to_q, cos_sin, q_weight, row, q_heads, num_heads, dim, q_s, q_t, dim, half, offset, eps,
            NORM, ZERO_CENTRED, INTERLEAVED, False, BLOCK_D,
        )  # fmt: skip
    else:
        page, entry = _place(positions, starts, pages, pages_stride, num_sequences, row, PAGE, 1, BLOCK_S)
        if tile < q_tiles + k_tiles:
            to_k = k_pages + page * kp_page + entry * kp_entry
            k_heads = (tile - q_tiles) * HEADS + lane
            _rotate(
                k, to_k, cos_sin, k_weight, row, k_heads, num_keys, dim, k_s, k_t, kp_head, half, offset, eps,
                NORM, ZERO_CENTRED, INTERLEAVED, False, BLOCK_D,
            )  # fmt: skip
        else:
            v_heads = (tile - q_tiles - k_tiles) * HEADS + lane
            e = tl.arange(0, BLOCK_E)
            inside = (v_heads < num_keys)[:, None] & (e < v_dim)[None, :]
            values = tl.load(v + row * v_s + v_heads[:, None] * v_t + e[None, :], mask=inside, other=0.0)
            to_v = v_pages + page * vp_page + entry * vp_entry + v_heads[:, None] * vp_head + e[None, :]
            tl.store(to_v, values.to(v_pages.dtype.element_ty), mask=inside)


@kernel
def _write(
    target, values, positions, starts, pages, num_sequences, pages_stride, width, values_stride, target_page, target_entry,
    PAGE: tl.constexpr, EVERY: tl.constexpr, BLOCK: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    if (tl.load(positions + row) + 1) % EVERY == 0:
        d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        page, entry = _place(positions, starts, pages, pages_stride, num_sequences, row, PAGE, EVERY, BLOCK_S)
        x = tl.load(values + row * values_stride + d, mask=d < width, other=0.0)
        y = target + page * target_page + entry * target_entry + d
        tl.store(y, x.to(target.dtype.element_ty), mask=d < width)


def rope(x: Tensor, angles: Tensor, interleaved: bool = False, offset: int = 0, inverse: bool = False) -> Tensor:
    num_rows, num_heads, dim = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    x = inner(x)
    heads = min(_HEADS, power(num_heads))
    _rope[(num_rows, triton.cdiv(num_heads, heads))](
        x, out, angles.contiguous(), num_heads, dim, x.stride(0), x.stride(1), angles.shape[-1], offset,
        interleaved, inverse, heads, power(dim),
    )  # fmt: skip
    return out


def write(pages: Tensor, values: Tensor, batch: Batch) -> None:
    write_pooled(pages, values, batch, 1)


def write_pooled(pages: Tensor, values: Tensor, batch: Batch, every: int) -> None:
    if not values.numel():
        return
    width = values[0].numel()
    values = inner(values.reshape(values.shape[0], width))
    block = min(power(width), 1024)
    _write[(values.shape[0], triton.cdiv(width, block))](
        pages, values, batch.positions, batch.starts, batch.pages, batch.num_sequences, batch.pages.stride(0),
        width, values.stride(0), pages.stride(0), pages.stride(1), pages.shape[1], every, block,
        sequence_block(batch),
    )  # fmt: skip


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
    return _place_all(q, k, v, None, angles, k_pages, v_pages, batch, interleaved, offset)


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
    return _place_all(q, k, v, (q_weight, k_weight, eps, zero_centred), angles, k_pages, v_pages, batch, False, 0)


def _place_all(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    norm: tuple[Tensor, Tensor, float, bool] | None,
    angles: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    batch: Batch,
    interleaved: bool,
    offset: int,
) -> Tensor:
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not out.numel():
        return out
    q, k, v = inner(q), inner(k), inner(v)
    q_weight, k_weight, eps, zero_centred = norm or (q, k, 0.0, False)
    (num_rows, num_heads, dim), num_keys, v_dim = q.shape, k.shape[1], v.shape[-1]
    heads = min(_HEADS, power(num_heads))
    q_tiles, k_tiles = triton.cdiv(num_heads, heads), triton.cdiv(num_keys, heads)
    _rope_write[(num_rows, q_tiles + 2 * k_tiles)](
        q, k, v, q_weight, k_weight, angles.contiguous(), out, k_pages, v_pages, batch.positions, batch.starts, batch.pages,
        batch.num_sequences, batch.pages.stride(0), num_heads, num_keys, dim, v_dim, q_tiles, k_tiles,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        *k_pages.stride()[:3], *v_pages.stride()[:3], angles.shape[-1], offset, eps,
        norm is not None, zero_centred, k_pages.shape[1], interleaved, heads, power(dim), power(v_dim),
        sequence_block(batch),
    )  # fmt: skip
    return out
