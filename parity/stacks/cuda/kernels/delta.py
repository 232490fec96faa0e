"""The gated delta rule (arXiv 2412.06464; by channel, Kimi Linear, arXiv 2510.26692).

Row by row for decoding, and in chunks of 16 rows for prompts: with G the running sum of the decays in a chunk and S the
state before it, the changes u of its rows solve a triangular system,

    u_i = beta_i (v_i - (k_i e^{G_i})^T S - sum_{j < i} (k_i e^{G_i - G_j} . k_j) u_j),

after which outputs and the next state are products of matrices. The system is solved by substitution, and no exponent is
ever above zero, so that neither equal keys nor strong decays lose digits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....core.batch import Batch
from .common import inner, kernel, power, precision, take_turn

_CHUNK = 16


@triton.jit
def _unit(x, axis: tl.constexpr):
    return x * tl.expand_dims(1.0 / tl.sqrt(tl.sum(x * x, axis=axis) + 1e-6), axis)


@kernel
def _recurrent(
    q, k, v, decay, beta, state, out, starts, slots, scale, dim, v_dim, repeats, num_heads,
    q_s, q_t, k_s, k_t, v_s, v_t, d_s, d_t, b_s, s_slot, s_head, s_d,
    BY_CHANNEL: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    take_turn()
    s, head = tl.program_id(0), tl.program_id(1)
    d, e = tl.arange(0, BLOCK_D), tl.program_id(2) * BLOCK_E + tl.arange(0, BLOCK_E)
    has_d, has_e = d < dim, e < v_dim
    at = tl.load(slots + s).to(tl.int64) * s_slot + head * s_head + d[:, None] * s_d + e[None, :]
    inside = has_d[:, None] & has_e[None, :]
    start, end = tl.load(starts + s), tl.load(starts + s + 1)
    memory = tl.load(state + at, mask=inside, other=0.0).to(tl.float32)
    for i in range(start, end):
        row = tl.full([], 0, tl.int64) + i
        key = _unit(tl.load(k + row * k_s + (head // repeats) * k_t + d, mask=has_d, other=0.0).to(tl.float32), 0)
        query = _unit(tl.load(q + row * q_s + (head // repeats) * q_t + d, mask=has_d, other=0.0).to(tl.float32), 0)
        value = tl.load(v + row * v_s + head * v_t + e, mask=has_e, other=0.0).to(tl.float32)
        if BY_CHANNEL:
            memory *= tl.exp(tl.load(decay + row * d_s + head * d_t + d, mask=has_d, other=0.0))[:, None]
        else:
            memory *= tl.exp(tl.load(decay + row * d_s + head * d_t))
        change = (value - tl.sum(memory * key[:, None], axis=0)) * tl.load(beta + row * b_s + head)
        memory += key[:, None] * change[None, :]
        y = tl.sum(memory * query[:, None], axis=0) * scale
        tl.store(out + (row * num_heads + head) * v_dim + e, y.to(out.dtype.element_ty), mask=has_e)
    tl.store(state + at, memory.to(state.dtype.element_ty), mask=inside)


@kernel
def _chunked(
    q, k, v, decay, beta, state, out, starts, slots, scale, dim, v_dim, repeats, num_heads,
    q_s, q_t, k_s, k_t, v_s, v_t, d_s, d_t, b_s, s_slot, s_head, s_d,
    BY_CHANNEL: tl.constexpr, PRECISION: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    take_turn()
    s, head = tl.program_id(0), tl.program_id(1)
    d, e = tl.arange(0, BLOCK_D), tl.program_id(2) * BLOCK_E + tl.arange(0, BLOCK_E)
    has_d, has_e = d < dim, e < v_dim
    at = tl.load(slots + s).to(tl.int64) * s_slot + head * s_head + d[:, None] * s_d + e[None, :]
    inside = has_d[:, None] & has_e[None, :]
    start, end = tl.load(starts + s), tl.load(starts + s + 1)
    memory = tl.load(state + at, mask=inside, other=0.0).to(tl.float32)
    r = tl.arange(0, CHUNK)
    before = r[:, None] >= r[None, :]  # j <= i
    for first in range(start, end, CHUNK):
        row = (first + r).to(tl.int64)
        valid = row < end
        mask = valid[:, None] & has_d[None, :]
        key = tl.load(k + row[:, None] * k_s + (head // repeats) * k_t + d[None, :], mask=mask, other=0.0)
        query = tl.load(q + row[:, None] * q_s + (head // repeats) * q_t + d[None, :], mask=mask, other=0.0)
        key, query = _unit(key.to(tl.float32), 1), _unit(query.to(tl.float32), 1)
        value = tl.load(v + row[:, None] * v_s + head * v_t + e[None, :], mask=valid[:, None] & has_e[None, :], other=0.0)
        gate = tl.load(beta + row * b_s + head, mask=valid, other=0.0)
        # Rows past the end decay by nothing and change nothing.
        if BY_CHANNEL:
            sums = tl.cumsum(tl.load(decay + row[:, None] * d_s + head * d_t + d[None, :], mask=mask, other=0.0), axis=0)
            final = tl.sum(tl.where((r == CHUNK - 1)[:, None], sums, 0.0), axis=0)
            keys = tl.zeros([CHUNK, CHUNK], tl.float32)
            queries = tl.zeros([CHUNK, CHUNK], tl.float32)
            for j in range(CHUNK):
                mine = (r == j)[:, None]
                one = tl.sum(tl.where(mine, key, 0.0), axis=0)
                since = sums - tl.sum(tl.where(mine, sums, 0.0), axis=0)[None, :]
                weight = tl.exp(tl.minimum(since, 0.0)) * one[None, :]
                keys = tl.where((r == j)[None, :], tl.sum(key * weight, axis=1)[:, None], keys)
                queries = tl.where((r == j)[None, :], tl.sum(query * weight, axis=1)[:, None], queries)
            kept_key, kept_query = key * tl.exp(sums), query * tl.exp(sums)
            to_end = key * tl.exp(final[None, :] - sums)
            memory_end = memory * tl.exp(final)[:, None]
        else:
            sums = tl.cumsum(tl.load(decay + row * d_s + head * d_t, mask=valid, other=0.0), axis=0)
            final = tl.sum(tl.where(r == CHUNK - 1, sums, 0.0), axis=0)
            fade = tl.exp(tl.where(before, sums[:, None] - sums[None, :], float("-inf")))
            keys = tl.dot(key, tl.trans(key), input_precision=PRECISION) * fade
            queries = tl.dot(query, tl.trans(key), input_precision=PRECISION) * fade
            kept_key, kept_query = key * tl.exp(sums)[:, None], query * tl.exp(sums)[:, None]
            to_end = key * tl.exp(final - sums)[:, None]
            memory_end = memory * tl.exp(final)
        keys = tl.where(r[:, None] > r[None, :], keys * gate[:, None], 0.0)
        queries = tl.where(before, queries, 0.0)
        change = (value.to(tl.float32) - tl.dot(kept_key, memory, input_precision=PRECISION)) * gate[:, None]
        for i in range(1, CHUNK):
            mine = (r == i)[:, None]
            factors = tl.sum(tl.where(mine, keys, 0.0), axis=0)
            change = tl.where(mine, change - tl.sum(factors[:, None] * change, axis=0)[None, :], change)
        y = tl.dot(kept_query, memory, input_precision=PRECISION) + tl.dot(queries, change, input_precision=PRECISION)
        target = out + (row * num_heads + head)[:, None] * v_dim + e[None, :]
        tl.store(target, (y * scale).to(out.dtype.element_ty), mask=valid[:, None] & has_e[None, :])
        memory = memory_end + tl.dot(tl.trans(to_end), change, input_precision=PRECISION)
    tl.store(state + at, memory.to(state.dtype.element_ty), mask=inside)


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    state: Tensor,
    batch: Batch,
    scale: float,
    *,
    fixed: bool = False,
) -> Tensor:
    """As the contract says; `fixed` goes row by row always, so that it does not matter how a prompt is cut."""
    num_rows, num_heads, v_dim = v.shape
    out = torch.empty(num_rows, num_heads, v_dim, dtype=v.dtype, device=v.device)
    if not out.numel():
        return out
    q, k, v, beta = inner(q), inner(k), inner(v), inner(beta)
    by_channel, dim, sequences = decay.ndim == 3, q.shape[-1], batch.lengths.shape[0]
    if by_channel:
        decay = inner(decay)
    by_row = fixed or num_rows == sequences
    # Products of float32 keep more in registers.
    block_d, block_e = power(dim, 16), min(power(v_dim, 16), 32 if by_row or q.dtype.itemsize == 2 else 16)
    arguments = (
        q, k, v, decay, beta, state, out, batch.starts, batch.slots, scale, dim, v_dim, num_heads // q.shape[1], num_heads,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *decay.stride()[:2], beta.stride(0), *state.stride()[:3],
    )  # fmt: skip
    grid = (sequences, num_heads, triton.cdiv(v_dim, block_e))
    if by_row:
        _recurrent[grid](*arguments, by_channel, block_d, block_e, num_warps=4)
    else:
        _chunked[grid](*arguments, by_channel, precision(q.dtype), _CHUNK, block_d, block_e, num_warps=8)
    return out


def fixed(*args: Any, **options: Any) -> Tensor:
    """`gated_delta` with a row computed the same way whatever its batch."""
    return gated_delta(*args, **options, fixed=True)
