"""Ops on several residual streams [T, N, D]: hyper-connections, gated streams, mixtures of blocks; and windows of tokens.

The weights of hyper-connections are products of few rows with a long sum, N D numbers: it is cut into parts of one size,
whatever the batch, so that one token keeps many programs busy and a row is summed the same way in any batch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.batch import Batch
from .common import inner, kernel, power, sigmoid, take_turn

_PART = 512  # numbers of a part of the sum
_MAX_PARTS = 64
_BLOCK = 1024


@kernel
def _hyper_parts(
    streams, fn, parts, num_rows, rows, size, part, s_t,
    BLOCK_T: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A part of the sums fn . streams, and in column `rows` of the squares."""
    take_turn()
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T).to(tl.int64)
    o = tl.arange(0, BLOCK_O)
    begin = tl.program_id(1) * part
    end = tl.minimum(begin + part, size)
    sums = tl.zeros([BLOCK_O, BLOCK_T], tl.float32)
    squares = tl.zeros([BLOCK_T], tl.float32)
    for first in range(begin, end, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        x = tl.load(streams + t[None, :] * s_t + k[:, None], mask=(t < num_rows)[None, :] & (k < end)[:, None], other=0.0)
        x = x.to(tl.float32)
        weight = tl.load(fn + o[:, None] * size + k[None, :], mask=(o < rows)[:, None] & (k < end)[None, :], other=0.0)
        sums += tl.dot(weight.to(tl.float32), x, input_precision="ieee")
        squares += tl.sum(x * x, axis=0)
    sums = tl.where((o == rows)[:, None], squares[None, :], sums)
    at = (t * tl.num_programs(1) + tl.program_id(1))[None, :] * BLOCK_O + o[:, None]
    tl.store(parts + at, sums, mask=(t < num_rows)[None, :])


@triton.jit
def _total(parts, row, columns, inside, num_parts, BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr):
    """The sums of some columns [C] of a row's parts."""
    p = tl.arange(0, BLOCK_P)
    at = (row * num_parts + p)[:, None] * BLOCK_O + columns[None, :]
    return tl.sum(tl.load(parts + at, mask=(p < num_parts)[:, None] & inside[None, :], other=0.0), axis=0)


@kernel
def _hyper_weights(
    parts, base, scale, pre, post, comb, size, num_parts, norm_eps, eps, iterations,
    N: tl.constexpr, READS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    one = tl.zeros([1], tl.int32)
    count: tl.constexpr = N if READS else N * (2 + N)
    squares = tl.sum(_total(parts, row, one + count, one == 0, num_parts, BLOCK_P, BLOCK_O), axis=0)
    shrink = 1.0 / tl.sqrt(squares / size + norm_eps)
    n = tl.arange(0, BLOCK_N)
    has = n < N
    mixed = _total(parts, row, n, has, num_parts, BLOCK_P, BLOCK_O) * shrink
    mixed = mixed * tl.load(scale) + tl.load(base + n, mask=has, other=0.0)
    tl.store(pre + row * N + n, sigmoid(mixed) + eps, mask=has)
    if not READS:
        mixed = _total(parts, row, N + n, has, num_parts, BLOCK_P, BLOCK_O) * shrink
        mixed = mixed * tl.load(scale + 1) + tl.load(base + N + n, mask=has, other=0.0)
        tl.store(post + row * N + n, 2.0 * sigmoid(mixed), mask=has)
        both = tl.arange(0, BLOCK_N * BLOCK_N)
        i, j = both // BLOCK_N, both % BLOCK_N
        exists = (i < N) & (j < N)
        column = 2 * N + i * N + j
        mixed = _total(parts, row, column, exists, num_parts, BLOCK_P, BLOCK_O) * shrink
        mixed = mixed * tl.load(scale + 2) + tl.load(base + column, mask=exists, other=0.0)
        inside = has[:, None] & has[None, :]
        grid = tl.where(inside, tl.reshape(mixed, [BLOCK_N, BLOCK_N]), float("-inf"))
        grid = tl.exp(grid - tl.max(tl.where(has[:, None], grid, 0.0), axis=1)[:, None])
        grid = tl.where(inside, grid / tl.where(has, tl.sum(grid, axis=1), 1.0)[:, None] + eps, 0.0)
        grid = grid / (tl.sum(grid, axis=0) + eps)[None, :]
        for _ in range(iterations - 1):
            grid = grid / (tl.sum(grid, axis=1) + eps)[:, None]
            grid = grid / (tl.sum(grid, axis=0) + eps)[None, :]
        tl.store(comb + row * N * N + n[:, None] * N + n[None, :], grid, mask=inside)


@kernel
def _hyper_read(streams, pre, out, width, s_t, s_n, N: tl.constexpr, BLOCK: tl.constexpr):
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros([BLOCK], tl.float32)
    for n in tl.static_range(N):
        x = tl.load(streams + row * s_t + n * s_n + d, mask=d < width, other=0.0).to(tl.float32)
        y += x * tl.load(pre + row * N + n).to(tl.float32)
    tl.store(out + row * width + d, y.to(out.dtype.element_ty), mask=d < width)


@kernel
def _hyper_write(
    streams, y, post, comb, out, width, s_t, s_n, y_t, N: tl.constexpr, MIXED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    has = d < width
    new = tl.load(y + row * y_t + d, mask=has, other=0.0).to(tl.float32)
    for k in tl.static_range(N):
        z = new * tl.load(post + row * N + k).to(tl.float32)
        if MIXED:
            for j in tl.static_range(N):
                x = tl.load(streams + row * s_t + j * s_n + d, mask=has, other=0.0).to(tl.float32)
                z += x * tl.load(comb + (row * N + j) * N + k).to(tl.float32)
        else:
            z += tl.load(streams + row * s_t + k * s_n + d, mask=has, other=0.0).to(tl.float32)
        tl.store(out + (row * N + k) * width + d, z.to(out.dtype.element_ty), mask=has)


@kernel
def _stream_norm(streams, weight, out, width, s_t, s_n, eps, N: tl.constexpr, ZERO_CENTRED: tl.constexpr, BLOCK: tl.constexpr):
    take_turn()
    row, n = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = tl.arange(0, BLOCK)
    has = d < width
    x = tl.load(streams + row * s_t + n * s_n + d, mask=has, other=0.0).to(tl.float32)
    y = x * (1.0 / tl.sqrt(tl.sum(x * x, axis=0) / width + eps))
    scale = tl.load(weight + n * width + d, mask=has, other=0.0).to(tl.float32)
    if ZERO_CENTRED:
        scale += 1.0
    tl.store(out + (row * N + n) * width + d, (y * scale).to(out.dtype.element_ty), mask=has)


@kernel
def _gated_mean(streams, gates, out, width, s_t, s_n, g_t, g_n, N: tl.constexpr, BLOCK: tl.constexpr):
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    has = d < width
    y = tl.zeros([BLOCK], tl.float32)
    for n in tl.static_range(N):
        x = tl.load(streams + row * s_t + n * s_n + d, mask=has, other=0.0).to(tl.float32)
        y += x * sigmoid(tl.load(gates + row * g_t + n * g_n + d, mask=has, other=0.0).to(tl.float32))
    tl.store(out + row * width + d, (y / N).to(out.dtype.element_ty), mask=has)


@kernel
def _stream_gate(queries, keys, out, width, shrink, q_t, q_n, k_t, k_n, N: tl.constexpr, BLOCK: tl.constexpr):
    take_turn()
    row, n = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = tl.arange(0, BLOCK)
    q = tl.load(queries + row * q_t + n * q_n + d, mask=d < width, other=0.0).to(tl.float32)
    k = tl.load(keys + row * k_t + n * k_n + d, mask=d < width, other=0.0).to(tl.float32)
    score = tl.sum(q * k, axis=0) * shrink
    root = tl.sqrt(tl.maximum(tl.abs(score), 1e-6))
    root = tl.where(score > 0.0, root, tl.where(score < 0.0, -root, 0.0))
    tl.store(out + row * N + n, sigmoid(root))


@kernel
def _mix(values, norm, proj, out, width, strides, eps, N: tl.constexpr, BLOCK: tl.constexpr):
    """One row: scores joined as they come, each value weighed by what is known so far."""
    take_turn()
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    has = d < width
    scale = tl.load(norm + d, mask=has, other=0.0) * tl.load(proj + d, mask=has, other=0.0)
    y = tl.zeros([BLOCK], tl.float32)
    top, total = float("-inf"), 0.0
    for n in tl.static_range(N):
        x = tl.load(values[n] + row * strides[n] + d, mask=has, other=0.0).to(tl.float32)
        score = tl.sum(x * scale, axis=0) / tl.sqrt(tl.sum(x * x, axis=0) / width + eps)
        higher = tl.maximum(top, score)
        old, new = tl.exp(top - higher), tl.exp(score - higher)
        y = y * old + x * new
        total = total * old + new
        top = higher
    tl.store(out + row * width + d, (y / total).to(out.dtype.element_ty), mask=has)


@triton.jit
def _named(tokens, mask, ids, IDS: tl.constexpr):
    """Tokens, or what stands for them."""
    token = tl.load(tokens, mask=mask, other=0)
    return tl.load(ids + token, mask=mask, other=0).to(tl.int32) if IDS else token.to(tl.int32)


@kernel
def _token_windows(
    tokens, history, ids, out, starts, slots, h_slot,
    IDS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """One sequence: its rows' windows from its tokens and history, then the history moved on."""
    take_turn()
    s = tl.program_id(0)
    start, end = tl.load(starts + s), tl.load(starts + s + 1)
    here = history + tl.load(slots + s).to(tl.int64) * h_slot
    w = tl.arange(0, BLOCK_W)
    for first in range(start, end, BLOCK_T):
        row = first + tl.arange(0, BLOCK_T)
        mask = (row < end)[:, None] & (w < WIDTH)[None, :]
        back = row[:, None] - w[None, :]
        own = _named(tokens + back, mask & (back >= start), ids, IDS)
        kept = tl.load(here + (start - 1 - back), mask=mask & (back < start), other=0).to(tl.int32) - 1
        token = tl.where(back >= start, own, kept)
        tl.store(out + row[:, None].to(tl.int64) * WIDTH + w[None, :], token.to(tl.int64), mask=mask)
    if end > start:
        mask = w < WIDTH - 1
        back = end - 1 - w
        own = _named(tokens + back, mask & (back >= start), ids, IDS) + 1
        kept = tl.load(here + (start - 1 - back), mask=mask & (back < start), other=0).to(tl.int32)
        value = tl.where(back >= start, own, kept)
        tl.debug_barrier()  # a neighbour may still read what is written here
        tl.store(here + w, value, mask=mask)


def hyper_weights(
    streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor, norm_eps: float, eps: float, iterations: int
) -> tuple[Tensor, ...]:
    num_rows, count, width = streams.shape
    reads, size = len(fn) == count, count * width
    shapes = ((num_rows, count), (num_rows, count), (num_rows, count, count))
    pre, post, comb = (torch.empty(shape, dtype=torch.float32, device=streams.device) for shape in shapes)
    if num_rows:
        part = max(triton.cdiv(triton.cdiv(size, _MAX_PARTS), 128) * 128, _PART)
        num_parts, block_o = triton.cdiv(size, part), power(len(fn) + 1, 16)
        parts = torch.empty(num_rows, num_parts, block_o, dtype=torch.float32, device=streams.device)
        flat = inner(streams.flatten(1))
        _hyper_parts[(triton.cdiv(num_rows, 16), num_parts)](
            flat, fn.contiguous(), parts, num_rows, len(fn), size, part, flat.stride(0), 16, block_o, 64
        )
        _hyper_weights[(num_rows,)](
            parts, base.float().contiguous(), scale.float().contiguous(), pre, post, comb, size, num_parts, norm_eps, eps,
            iterations, count, reads, power(num_parts), block_o, power(count), num_warps=1,
        )  # fmt: skip
    return (pre,) if reads else (pre, post, comb)


def hyper_read(streams: Tensor, pre: Tensor) -> Tensor:
    num_rows, count, width = streams.shape
    out = torch.empty(num_rows, width, dtype=streams.dtype, device=streams.device)
    if out.numel():
        streams, block = inner(streams), min(power(width), _BLOCK)
        grid = (num_rows, triton.cdiv(width, block))
        _hyper_read[grid](streams, pre.contiguous(), out, width, *streams.stride()[:2], count, block)
    return out


def hyper_write(streams: Tensor, y: Tensor, post: Tensor, comb: Tensor | None) -> Tensor:
    num_rows, count, width = streams.shape
    out = torch.empty(streams.shape, dtype=streams.dtype, device=streams.device)
    if out.numel():
        streams, y, post, block = inner(streams), inner(y), post.contiguous(), min(power(width), _BLOCK)
        _hyper_write[(num_rows, triton.cdiv(width, block))](
            streams, y, post, post if comb is None else comb.contiguous(), out, width, *streams.stride()[:2], y.stride(0),
            count, comb is not None, block,
        )  # fmt: skip
    return out


def stream_norm(streams: Tensor, weight: Tensor, eps: float, zero_centred: bool = False) -> Tensor:
    num_rows, count, width = streams.shape
    out = torch.empty(streams.shape, dtype=streams.dtype, device=streams.device)
    if out.numel():
        streams, block = inner(streams), power(width)
        _stream_norm[(num_rows, count)](
            streams, weight.contiguous(), out, width, *streams.stride()[:2], eps, count, zero_centred, block,
            num_warps=4 if block <= 2048 else 8,
        )  # fmt: skip
    return out


def gated_mean(streams: Tensor, gates: Tensor) -> Tensor:
    num_rows, count, width = streams.shape
    out = torch.empty(num_rows, width, dtype=streams.dtype, device=streams.device)
    if out.numel():
        streams, gates, block = inner(streams), inner(gates), min(power(width), _BLOCK)
        grid = (num_rows, triton.cdiv(width, block))
        _gated_mean[grid](streams, gates, out, width, *streams.stride()[:2], *gates.stride()[:2], count, block)
    return out


def stream_gate(queries: Tensor, keys: Tensor) -> Tensor:
    num_rows, count, width = queries.shape
    out = torch.empty(num_rows, count, dtype=torch.float32, device=queries.device)
    if out.numel():
        queries, keys, block = inner(queries), inner(keys), power(width)
        _stream_gate[(num_rows, count)](
            queries, keys, out, width, width**-0.5, *queries.stride()[:2], *keys.stride()[:2], count, block,
            num_warps=4 if block <= 2048 else 8,
        )  # fmt: skip
    return out


def mix(values: tuple[Tensor, ...], norm: Tensor, proj: Tensor, eps: float) -> Tensor:
    num_rows, width = values[0].shape
    out = torch.empty(num_rows, width, dtype=values[0].dtype, device=values[0].device)
    if out.numel():
        values, block = tuple(inner(value) for value in values), power(width)
        _mix[(num_rows,)](
            values, norm.float().contiguous(), proj.float().contiguous(), out, width,
            tuple(value.stride(0) for value in values), eps, len(values), block, num_warps=4 if block <= 2048 else 8,
        )  # fmt: skip
    return out


def token_windows(tokens: Tensor, history: Tensor, batch: Batch, ids: Tensor | None = None) -> Tensor:
    width = history.shape[1] + 1
    out = torch.empty(tokens.shape[0], width, dtype=torch.int64, device=tokens.device)
    if out.numel():
        sequences = batch.lengths.shape[0]
        block = 1 if tokens.shape[0] == sequences else 128
        _token_windows[(sequences,)](
            tokens, history, tokens if ids is None else ids, out, batch.starts, batch.slots, history.stride(0),
            ids is not None, width, block, power(width), num_warps=1,
        )  # fmt: skip
    return out
