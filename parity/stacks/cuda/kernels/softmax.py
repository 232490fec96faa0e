"""The running softmax that all attention kernels share: its beginning, one block of entries, its end."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import dot


@triton.jit
def start(sinks, head, valid, split, SINKS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr):
    """(largest score, sum, weighted sum of values) of nothing; a sink is an entry without a value, seen by the first split."""
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if SINKS:  # noqa: SIM102 (known when compiling, unlike the next)
        if split == 0:
            top = tl.load(sinks + head, mask=valid, other=0.0).to(tl.float32)
            total += 1.0
    return top, total, tl.zeros([BLOCK_M, BLOCK_E], tl.float32)


@triton.jit
def update(top, total, acc, query, key, value, seen, scale, PRECISION: tl.constexpr, more=None):
    """The three with entries added: key [D, N], value [N, E], `seen` [M or 1, N]; `more` [M, N] is added to the scores."""
    scores = dot(query, key, PRECISION)
    if more is not None:
        scores += more
    scores = tl.where(seen, scores * scale, float("-inf"))
    highest = tl.maximum(top, tl.max(scores, axis=1))
    safe = tl.where(highest == float("-inf"), 0.0, highest)
    share = tl.exp(scores - safe[:, None])
    fade = tl.exp(top - safe)
    acc = acc * fade[:, None] + dot(share.to(query.dtype), value, PRECISION)
    return highest, total * fade + tl.sum(share, axis=1), acc


@triton.jit
def finish(
    out, partial, stats, row, head, valid, has, e, top, total, acc, num_rows, num_heads, width, split, SPLITS: tl.constexpr
):  # fmt: skip
    """The quotient to `out` [rows, heads, width], or a split's share to its place in the buffers of `split.join`."""
    inside = valid[:, None] & has[None, :]
    if SPLITS == 1:
        at = (row * num_heads + head)[:, None] * width + e[None, :]
        y = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)
    else:
        at = (split * num_rows + row) * num_heads + head
        tl.store(partial + at[:, None] * width + e[None, :], acc, mask=inside)
        tl.store(stats + at * 2, top, mask=valid)
        tl.store(stats + at * 2 + 1, total, mask=valid)
