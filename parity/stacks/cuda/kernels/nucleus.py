"""The exact choice among a list of logits in the order of their ids, by one program: top-k, top-p, min-p, the draw.

Top-k and top-p are thresholds on the order-preserving keys of the logits, found sixteen ways at a time: by counts for top-k,
by probability mass for top-p. Of the tokens at the threshold itself, the lowest so many belong. The last pass adds the
probabilities in the order of ids until the row's random number is passed. Some twenty passes: the list should be short.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .keys import digit_of, key_of, walk_down


@triton.jit
def kth(row, size, wanted, BLOCK: tl.constexpr):
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
def mass(row, size, best, coldness, least, ties, BLOCK: tl.constexpr):
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
def value_of(key):
    """The inverse of `key_of`."""
    return tl.where((key >> 31) != 0, key ^ 0x80000000, key ^ 0xFFFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def nucleus(row, size, best, coldness, least, ties, wanted, BLOCK: tl.constexpr):
    """(the key at which the mass of the tokens from the top reaches `wanted`, how many of the tokens with that key belong).

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
    # A token belongs while the mass before it is below what is wanted; the first always does.
    one = tl.exp((value_of(prefix) - best) * coldness)
    number = tl.ceil(tl.minimum(wanted / tl.maximum(one, 1e-37), 1e9)).to(tl.int32)
    number = tl.maximum(number, 1)
    return prefix, tl.where(prefix == least, tl.minimum(number, ties), number)


@triton.jit
def draw(row, size, best, coldness, least, ties, min_p, aim, BLOCK: tl.constexpr):
    """(the mass of the allowed tokens, the first at which it exceeds `aim`, or the last of any weight)."""
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
        last = tl.maximum(last, tl.max(tl.where(weight > 0.0, index, 0), axis=0))
        total += tl.sum(weight, axis=0)
    return total, tl.where(token < 0, last, token)
