"""Choosing tokens from logits without sorting the vocabulary.

One program a row. Top-k and top-p are thresholds on the order-preserving keys of the logits, found sixteen ways at a time:
by counts for top-k, by probability mass for top-p. Of the tokens at the threshold itself, the lowest so many belong. The
last pass adds the probabilities in the order of ids until the row's random number is passed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import inner, power
from .keys import digit_of, key_of, walk_down

_BLOCK = 2048


@triton.jit
def _best(row, size, BLOCK: tl.constexpr):
    """(the largest logit, its lowest index)."""
    lane = tl.arange(0, BLOCK)
    best = tl.full([], float("-inf"), tl.float32)
    index = tl.zeros([], tl.int32)
    for first in range(0, size, BLOCK):
        x = tl.load(row + first + lane, mask=first + lane < size, other=float("-inf"))
        highest = tl.max(x, axis=0)
        where = tl.min(tl.where(x == highest, first + lane, 2147483647), axis=0)
        index = tl.where(highest > best, where, index)
        best = tl.maximum(best, highest)
    return best, index


@triton.jit
def _kth(row, size, wanted, BLOCK: tl.constexpr):
    """(the key of the wanted-th largest logit, how many of the tokens with that key belong)."""
    lane = tl.arange(0, BLOCK)
    prefix, shift = tl.zeros([], tl.uint32), tl.full([], 28, tl.uint32)
    for _ in range(8):
        counts = tl.zeros([16], tl.int32)
        for first in range(0, size, BLOCK):
            inside = first + lane < size
            key = key_of(tl.load(row + first + lane, mask=inside, other=0.0))
            digit = tl.where(inside, digit_of(key, prefix, shift), 16)
            counts += tl.sum((digit[:, None] == tl.arange(0, 16)[None, :]).to(tl.int32), axis=0)
        found, above = walk_down(counts, wanted)
        wanted -= above
        prefix = prefix | (found.to(tl.uint32) << shift)
        shift -= 4
    return prefix, wanted


@triton.jit
def _mass(row, size, best, coldness, least, ties, BLOCK: tl.constexpr):
    """The weight of the tokens whose key is above `least`, and of `ties` at it."""
    lane = tl.arange(0, BLOCK)
    total, tied, count = tl.zeros([], tl.float32), tl.zeros([], tl.float32), tl.zeros([], tl.int32)
    for first in range(0, size, BLOCK):
        inside = first + lane < size
        x = tl.load(row + first + lane, mask=inside, other=float("-inf"))
        key, weight = key_of(x), tl.exp((x - best) * coldness)
        total += tl.sum(tl.where(inside & (key > least), weight, 0.0), axis=0)
        tie = inside & (key == least)
        tied += tl.sum(tl.where(tie, weight, 0.0), axis=0)
        count += tl.sum(tie.to(tl.int32), axis=0)
    one = tied / tl.maximum(count, 1).to(tl.float32)
    return total + one * tl.minimum(count, ties).to(tl.float32)


@triton.jit
def _nucleus(row, size, best, coldness, least, ties, wanted, BLOCK: tl.constexpr):
    """The key at which the mass of the tokens from the top reaches `wanted`, and the mass wanted of those with this key.

    Only tokens above `least` and the first `ties` at it take part.
    """
    lane = tl.arange(0, BLOCK)
    prefix, shift = tl.zeros([], tl.uint32), tl.full([], 28, tl.uint32)
    for _ in range(8):
        sums = tl.zeros([16], tl.float32)
        seen = tl.zeros([], tl.int32)
        for first in range(0, size, BLOCK):
            inside = first + lane < size
            x = tl.load(row + first + lane, mask=inside, other=float("-inf"))
            key = key_of(x)
            tie = inside & (key == least)
            rank = seen + tl.cumsum(tie.to(tl.int32), axis=0)
            seen += tl.sum(tie.to(tl.int32), axis=0)
            inside = inside & ((key > least) | (tie & (rank <= ties)))
            digit = tl.where(inside, digit_of(key, prefix, shift), 16)
            weight = tl.where(inside, tl.exp((x - best) * coldness), 0.0)
            sums += tl.sum(tl.where(digit[:, None] == tl.arange(0, 16)[None, :], weight[:, None], 0.0), axis=0)
        found, above = walk_down(sums, wanted)
        wanted -= above
        prefix = prefix | (found.to(tl.uint32) << shift)
        shift -= 4
    return prefix, wanted


@triton.jit
def _draw(row, size, best, coldness, least, ties, min_p, aim, BLOCK: tl.constexpr):
    """(the mass of the allowed tokens, the first at which it exceeds `aim`, or the last allowed)."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([], tl.float32)
    seen = tl.zeros([], tl.int32)
    token = tl.full([], -1, tl.int32)
    last = tl.zeros([], tl.int32)
    for first in range(0, size, BLOCK):
        index = first + lane
        inside = index < size
        x = tl.load(row + index, mask=inside, other=float("-inf"))
        key, weight = key_of(x), tl.exp((x - best) * coldness)
        tie = inside & (key == least)
        rank = seen + tl.cumsum(tie.to(tl.int32), axis=0)
        seen += tl.sum(tie.to(tl.int32), axis=0)
        allowed = inside & ((key > least) | (tie & (rank <= ties))) & (weight >= min_p)
        weight = tl.where(allowed, weight, 0.0)
        sums = total + tl.cumsum(weight, axis=0)
        passed = allowed & (sums > aim)
        here = tl.min(tl.where(passed, index, 2147483647), axis=0)
        token = tl.where((token < 0) & (here < size), here, token)
        last = tl.maximum(last, tl.max(tl.where(allowed, index, 0), axis=0))
        total += tl.sum(weight, axis=0)
    return total, tl.where(token < 0, last, token)


@triton.jit
def _sample(
    logits, temperature, top_k, top_p, min_p, uniform, out, size, stride, BLOCK: tl.constexpr
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    row = logits + r * stride
    best, token = _best(row, size, BLOCK)
    heat = tl.load(temperature + r)
    if heat > 0.0:
        coldness = 1.0 / heat
        best = tl.where(best == float("-inf"), 0.0, best)  # a row with nothing allowed: any token, but no NaN
        k, p = tl.load(top_k + r), tl.load(top_p + r)
        # Without thresholds every token is above the least key but NaNs of one kind.
        least, ties = tl.zeros([], tl.uint32), tl.zeros([], tl.int32)
        if (k > 0) & (k < size):
            least, ties = _kth(row, size, k, BLOCK)
        if p < 1.0:
            wanted = p * _mass(row, size, best, coldness, least, ties, BLOCK)
            edge, left = _nucleus(row, size, best, coldness, least, ties, wanted, BLOCK)
            one = tl.exp((_value_of(edge) - best) * coldness)
            # A token belongs while the mass before it is below what is wanted; the first always does.
            number = tl.ceil(tl.minimum(left / tl.maximum(one, 1e-37), 1e9)).to(tl.int32)
            number = tl.maximum(number, 1)
            ties = tl.where(edge == least, tl.minimum(number, ties), number)
            least = edge
        floor = tl.load(min_p + r)
        whole, _ = _draw(row, size, best, coldness, least, ties, floor, float("inf"), BLOCK)
        _, token = _draw(row, size, best, coldness, least, ties, floor, tl.load(uniform + r) * whole, BLOCK)
    tl.store(out + r, token.to(tl.int64))


@triton.jit
def _value_of(key):
    """The inverse of `key_of`."""
    return tl.where((key >> 31) != 0, key ^ 0x80000000, key ^ 0xFFFFFFFF).to(tl.float32, bitcast=True)


def sample(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    num_rows, size = logits.shape
    out = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if not num_rows:
        return out
    logits = inner(logits)
    columns = [x.contiguous() for x in (temperature, top_k, top_p, min_p, uniform)]
    _sample[(num_rows,)](logits, *columns, out, size, logits.stride(0), min(_BLOCK, power(size)), num_warps=8)
    return out.where(logits.amax(-1).isfinite(), -1)
