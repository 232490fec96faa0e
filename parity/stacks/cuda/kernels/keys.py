"""Order-preserving integer keys of floats, and the search for a rank among them without sorting.

A number's key is its bits with the order of the numbers: comparing keys compares numbers. A rank is found four bits at a
time, from the top: count (or weigh) the sixteen ways that the next four bits can be, walk down to the way that holds the
rank, go on inside it. Eight passes find any rank exactly, ties included, whatever the length.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def key_of(x):
    """float32 -> uint32 of the same order; both zeros have one key."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.uint32, bitcast=True)
    return tl.where((bits >> 31) != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def digit_of(key, prefix, shift):
    """The four bits of a key at `shift`, or 16 where the bits above them are not the prefix's."""
    # Two shifts, since shifting all 32 bits out at once is undefined.
    same = ((key ^ prefix) >> shift >> 4) == 0
    return tl.where(same, (key >> shift) & 15, 16).to(tl.int32)


@triton.jit
def walk_down(sums, wanted):
    """The highest bin at which the sum over it and those above reaches `wanted`, else 0; and the sum above it."""
    bins = tl.arange(0, 16)
    above = tl.sum(sums) - tl.cumsum(sums, axis=0)
    found = tl.max(tl.where(above + sums >= wanted, bins, 0), axis=0)
    return found, tl.sum(tl.where(bins == found, above, 0.0 if sums.dtype.is_floating() else 0), axis=0)
