"""Choosing tokens from logits without sorting the vocabulary, several programs a row.

A row is cut into pieces, a program each:

1. `_survey` finds each piece's largest logit, and with them the row's. A row that is greedy is done.
2. `_weigh` puts a piece's tokens into sixteen bins by their distance from the best, and counts and weighs each bin.
3. `_edge` adds the pieces' bins: what is chosen lies in the bins down to one.
4. `_gather` copies the tokens of these bins, in the order of ids; a piece that has none is not read.
5. `_choose` chooses among them exactly (`nucleus.py`), one program a row.

A row without top-k and top-p needs no bins: the weights of its pieces say which piece the random number falls in, and only
that one is chosen from.

Bytes read of V float32 logits: 4 V where all is greedy, 8 V without top-k and top-p, and up to 12 V with them, against some
80 V if one program searched the whole row; 0.6 MB each 4 V for a vocabulary of 152k. Written: 8 bytes a candidate and 140 a
piece. Every sum is over a piece or over pieces in order, whatever the number of rows: a row's token does not depend on its
batch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import inner, kernel, power, take_turn
from .nucleus import draw, kth, mass, nucleus

_PIECE = 4096
_CANDIDATES = 16384
"""Most tokens that are gathered for a row, at least a piece; one with more, all but flat, is searched whole."""
_WORKSPACE = 64 << 20  # bytes of candidates held at a time

_FARTHEST = tl.constexpr(40.0)
"""Tokens of less than exp(-40) of the best's probability are left out where top-k or top-p is asked for: all of a vocabulary
together weigh less than the last bit of a float32 sum."""
_FINENESS = tl.constexpr(6.4)  # bin = sqrt(distance * fineness): 16 at the farthest, narrow near the best


@triton.jit
def _best(bests, r, num_pieces, BLOCK_P: tl.constexpr):
    """A row's largest logit, 0 where nothing is allowed."""
    piece = tl.arange(0, BLOCK_P)
    best = tl.max(tl.load(bests + r * num_pieces + piece, mask=piece < num_pieces, other=float("-inf")), axis=0)
    return tl.where(best == float("-inf"), 0.0, best)


@triton.jit
def _numbers(row, index, size):
    """Logits, with -inf past the end and for what is no number to choose by: such a row gets no token anyway."""
    x = tl.load(row + index, mask=index < size, other=float("-inf"))
    return tl.where((x != x) | (x == float("inf")), float("-inf"), x)


@triton.jit
def _has_bins(top_k, top_p, r, size):
    """(whether top-k restricts the row, whether top-k or top-p does)."""
    k = tl.load(top_k + r)
    limited = (k > 0) & (k < size)
    return limited, limited | (tl.load(top_p + r) < 1.0)


@triton.jit
def _bin_of(distance, inside):
    """The bin of each token, 16 for those that are left out."""
    near = inside & (distance <= _FARTHEST)
    index = tl.sqrt(tl.where(near, distance, 0.0) * _FINENESS).to(tl.int32)
    return tl.where(near, tl.minimum(index, 15), 16)


@kernel
def _survey(logits, bests, places, poisoned, size, stride, num_pieces, PIECE: tl.constexpr, BLOCK: tl.constexpr):
    """Of each piece: its largest logit, the lowest index of it, and whether a logit is NaN or +inf."""
    take_turn()
    r, c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    best = tl.full([], float("-inf"), tl.float32)
    place, bad = tl.zeros([], tl.int32), tl.zeros([], tl.int32)
    for first in range(0, PIECE, BLOCK):
        index = c * PIECE + first + lane
        x = tl.load(logits + r * stride + index, mask=index < size, other=float("-inf"))
        wrong = (x != x) | (x == float("inf"))
        bad = tl.maximum(bad, tl.max(wrong.to(tl.int32), axis=0))
        x = tl.where(wrong, float("-inf"), x)
        highest = tl.max(x, axis=0)
        where = tl.min(tl.where(x == highest, index, 2147483647), axis=0)
        place = tl.where(highest > best, where, place)
        best = tl.maximum(best, highest)
    at = r * num_pieces + c
    tl.store(bests + at, best)
    tl.store(places + at, place)
    tl.store(poisoned + at, bad)


@kernel
def _weigh(
    logits, temperature, top_k, top_p, min_p, bests, counts, weights, size, stride, num_pieces,
    PIECE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Of each piece: the number and the weight of the tokens in each bin; without bins the allowed weight, as bin 0's."""
    take_turn()
    r, c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heat = tl.load(temperature + r)
    if heat > 0.0:
        lane, bins = tl.arange(0, BLOCK), tl.arange(0, 16)
        best, coldness = _best(bests, r, num_pieces, BLOCK_P), 1.0 / heat
        _, binned = _has_bins(top_k, top_p, r, size)
        number, weight = tl.zeros([16], tl.int32), tl.zeros([16], tl.float32)
        if binned:
            for first in range(0, PIECE, BLOCK):
                index = c * PIECE + first + lane
                x = _numbers(logits + r * stride, index, size)
                distance = (best - x) * coldness
                mine = _bin_of(distance, index < size)[:, None] == bins[None, :]
                number += tl.sum(mine.to(tl.int32), axis=0)
                weight += tl.sum(tl.where(mine, tl.exp(-distance)[:, None], 0.0), axis=0)
        else:
            floor, total = tl.load(min_p + r), tl.zeros([], tl.float32)
            for first in range(0, PIECE, BLOCK):
                index = c * PIECE + first + lane
                x = _numbers(logits + r * stride, index, size)
                w = tl.exp((x - best) * coldness)
                total += tl.sum(tl.where((index < size) & (w >= floor), w, 0.0), axis=0)
            weight = tl.where(bins == 0, total, 0.0)
        at = (r * num_pieces + c) * 16 + bins
        tl.store(counts + at, number)
        tl.store(weights + at, weight)


@kernel
def _edge(
    temperature, top_k, top_p, uniform, counts, weights, edges, aims, offsets, lengths, size, num_pieces,
    BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Of each row: the last bin that is needed, the number of candidates and where each piece's stand.

    The aim is the weight that the nucleus has to reach, where top-p alone restricts. Without bins the edge is the piece that
    the random number falls in, and the aim is what is left of it there.
    """
    take_turn()
    r = tl.program_id(0).to(tl.int64)
    if tl.load(temperature + r) > 0.0:
        piece, bins = tl.arange(0, BLOCK_P), tl.arange(0, 16)
        at = (r * num_pieces + piece)[:, None] * 16 + bins[None, :]
        has = (piece < num_pieces)[:, None] & (bins >= 0)[None, :]
        weight = tl.load(weights + at, mask=has, other=0.0)
        limited, binned = _has_bins(top_k, top_p, r, size)
        if binned:
            number = tl.load(counts + at, mask=has, other=0)
            if limited:
                reached = tl.cumsum(tl.sum(number, axis=0), axis=0) >= tl.load(top_k + r)
                aim = tl.zeros([], tl.float32)
            else:
                sums = tl.cumsum(tl.sum(weight, axis=0), axis=0)
                aim = tl.load(top_p + r) * tl.max(sums, axis=0)
                reached = sums >= aim
            edge = tl.min(tl.where(reached, bins, 15), axis=0)
            kept = tl.sum(tl.where((bins <= edge)[None, :], number, 0), axis=1)
            tl.store(offsets + r * num_pieces + piece, tl.cumsum(kept, axis=0) - kept, mask=piece < num_pieces)
            tl.store(lengths + r, tl.sum(kept, axis=0))
        else:
            whole = tl.sum(weight, axis=1)
            sums = tl.cumsum(whole, axis=0)
            aim = tl.load(uniform + r) * tl.max(sums, axis=0)
            passed = tl.min(tl.where(sums > aim, piece, BLOCK_P), axis=0)
            edge = tl.minimum(passed, tl.max(tl.where(whole > 0.0, piece, 0), axis=0))
            aim -= tl.sum(tl.where(piece == edge, sums - whole, 0.0), axis=0)
            tl.store(offsets + r * num_pieces + piece, tl.zeros([BLOCK_P], tl.int32), mask=piece < num_pieces)
        tl.store(edges + r, edge)
        tl.store(aims + r, aim)


@kernel
def _gather(
    logits, temperature, top_k, top_p, min_p, bests, counts, edges, offsets, lengths, values, ids,
    size, stride, num_pieces, most, PIECE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Copies a row's candidates and their ids, unless they are more than `most`."""
    take_turn()
    r, c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heat = tl.load(temperature + r)
    if heat > 0.0:
        lane, bins = tl.arange(0, BLOCK), tl.arange(0, 16)
        edge = tl.load(edges + r)
        _, binned = _has_bins(top_k, top_p, r, size)
        if binned:
            number = tl.load(counts + (r * num_pieces + c) * 16 + bins)
            wanted = (tl.sum(tl.where(bins <= edge, number, 0), axis=0) > 0) & (tl.load(lengths + r) <= most)
        else:
            wanted = edge == c
        if wanted:
            best, coldness = _best(bests, r, num_pieces, BLOCK_P), 1.0 / heat
            floor = tl.load(min_p + r)
            written = tl.load(offsets + r * num_pieces + c)
            for first in range(0, PIECE, BLOCK):
                index = c * PIECE + first + lane
                inside = index < size
                x = _numbers(logits + r * stride, index, size)
                if binned:
                    kept = _bin_of((best - x) * coldness, inside) <= edge
                else:
                    kept = inside & (tl.exp((x - best) * coldness) >= floor)
                place = written + tl.cumsum(kept.to(tl.int32), axis=0) - 1
                tl.store(values + r * most + place, x, mask=kept)
                tl.store(ids + r * most + place, index, mask=kept)
                written += tl.sum(kept.to(tl.int32), axis=0)
            if not binned:
                tl.store(lengths + r, written)


@kernel
def _choose(
    logits, temperature, top_k, top_p, min_p, uniform, bests, places, poisoned, aims, lengths, values, ids, out,
    size, stride, num_pieces, most, BLOCK: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    take_turn()
    r = tl.program_id(0).to(tl.int64)
    piece = tl.arange(0, BLOCK_P)
    highest = tl.load(bests + r * num_pieces + piece, mask=piece < num_pieces, other=float("-inf"))
    best = tl.max(highest, axis=0)
    first = tl.min(tl.where(highest == best, piece, BLOCK_P), axis=0)
    place = tl.load(places + r * num_pieces + piece, mask=piece < num_pieces, other=0)
    token = tl.sum(tl.where(piece == first, place, 0), axis=0)
    bad = tl.max(tl.load(poisoned + r * num_pieces + piece, mask=piece < num_pieces, other=0), axis=0)
    heat = tl.load(temperature + r)
    if (bad > 0) | (best == float("-inf")):
        token = tl.full([], -1, tl.int32)
    elif heat > 0.0:
        coldness, p, length = 1.0 / heat, tl.load(top_p + r), tl.load(lengths + r)
        limited, binned = _has_bins(top_k, top_p, r, size)
        gathered = length <= most
        # A number, since Triton 3.6 for AMD does not take a pointer that is one of two.
        row = tl.where(gathered, (values + r * most).to(tl.uint64), (logits + r * stride).to(tl.uint64))
        row = row.to(tl.pointer_type(tl.float32), bitcast=True)
        length = tl.where(gathered, length, size)
        # Without thresholds every token is above the least key.
        least, ties = tl.zeros([], tl.uint32), tl.zeros([], tl.int32)
        aim, floor = tl.load(aims + r), tl.load(min_p + r)
        if limited:
            k = tl.load(top_k + r)
            if k < length:
                least, ties = kth(row, length, k, BLOCK)
        if p < 1.0:
            if limited:
                aim = p * mass(row, length, best, coldness, least, ties, BLOCK)
            least, ties = nucleus(row, length, best, coldness, least, ties, aim, BLOCK)
        if binned:
            whole, _ = draw(row, length, best, coldness, least, ties, floor, float("inf"), BLOCK)
            aim = tl.load(uniform + r) * whole
        _, token = draw(row, length, best, coldness, least, ties, floor, aim, BLOCK)
        if gathered:
            token = tl.load(ids + r * most + token)
    tl.store(out + r, token.to(tl.int64))


def sample(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    num_rows, size = logits.shape
    out = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    logits = inner(logits)
    columns = [x.contiguous() for x in (temperature, top_k, top_p, min_p, uniform)]
    most = min(_CANDIDATES, size)
    step = max(1, _WORKSPACE // (8 * most))
    for first in range(0, num_rows, step):
        part = slice(first, first + step)
        _sample(logits[part], [x[part] for x in columns], out[part], most)
    return out


def _sample(logits: Tensor, columns: list[Tensor], out: Tensor, most: int) -> None:
    """Fills `out` with a token for each row of `logits`; its candidates are held at once."""
    num_rows, size = logits.shape
    temperature, top_k, top_p, min_p, uniform = columns
    whole = min(_PIECE, power(size))
    num_pieces = triton.cdiv(size, whole)
    block, pieces, stride = min(1024, whole), power(num_pieces), logits.stride(0)

    def new(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=logits.device)

    bests, places, poisoned = (
        new(num_rows, num_pieces, dtype=torch.float32),
        new(num_rows, num_pieces),
        new(num_rows, num_pieces),
    )
    counts, weights = new(num_rows, num_pieces, 16), new(num_rows, num_pieces, 16, dtype=torch.float32)
    edges, lengths, aims = new(num_rows), new(num_rows), new(num_rows, dtype=torch.float32)
    offsets, ids, values = new(num_rows, num_pieces), new(num_rows, most), new(num_rows, most, dtype=torch.float32)
    grid = (num_rows, num_pieces)
    _survey[grid](logits, bests, places, poisoned, size, stride, num_pieces, whole, block)
    _weigh[grid](
        logits, temperature, top_k, top_p, min_p, bests, counts, weights, size, stride, num_pieces,
        whole, min(512, block), pieces, num_warps=8,
    )  # fmt: skip
    _edge[(num_rows,)](
        temperature, top_k, top_p, uniform, counts, weights, edges, aims, offsets, lengths, size, num_pieces, pieces
    )
    _gather[grid](
        logits, temperature, top_k, top_p, min_p, bests, counts, edges, offsets, lengths, values, ids,
        size, stride, num_pieces, most, whole, block, pieces,
    )  # fmt: skip
    _choose[(num_rows,)](
        logits, temperature, top_k, top_p, min_p, uniform, bests, places, poisoned, aims, lengths, values, ids, out,
        size, stride, num_pieces, most, block, pieces, num_warps=8,
    )  # fmt: skip
