"""Exact attention with one key for all heads, which is the value too, and entries pooled from older tokens (DeepSeek-V4, V4.1).

The window is a token too small: what is left of the group's first token is its pooled entry, which a gate makes of it alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .attention import wanted
from .kinds import Kind
from .pieces import (
    CLASS,
    CLASSES,
    HEAD_DIM,
    HEADS,
    SHUT,
    Matrix,
    Sublayer,
    bit,
    class_reads,
    constant_reads,
    output,
    reads,
    token_reads,
)

DIM, ROPE_DIM, QUERY_RANK, GROUPS, WINDOW = 8, 2, 8, 2, 3
EVERY: dict[str, int] = {"deepseek_v4": 4, "deepseek_v41": 2}
"""Tokens in a pooled entry."""
_STRENGTH = 512.0


def _latents(size: float) -> Matrix:
    """[DIM, HIDDEN]: two bits of the class, four of the token; what is rotated is a constant that nobody reads."""
    rows = [class_reads(0, size), class_reads(1, size), *(token_reads(place, size) for place in range(HEAD_DIM))]
    return 16.0 * np.stack(rows + [constant_reads(size)] * ROPE_DIM)


def _weight() -> Matrix:
    """Of the norm of keys: the class decides by far."""
    return np.array([_STRENGTH] * 2 + [1.0] * (DIM - 2))


def _gates(size: float, open_classes: Sequence[int]) -> Matrix:
    """[DIM, HIDDEN]: an entry is made of the token of one of these classes alone."""
    row = reads({CLASS + c: SHUT if c in open_classes else -SHUT for c in range(CLASSES)}, size)
    return np.stack([row] * DIM)


def _compressor(prefix: str, size: float, *, overlap: bool, weight: Matrix) -> dict[str, Matrix]:
    """With `overlap` a second set of channels serves the group before, of which there is none."""
    times = 2 if overlap else 1
    return {
        f"{prefix}.wkv.weight": np.concatenate([_latents(size)] * times),
        f"{prefix}.wgate.weight": np.concatenate([_gates(size, (0,))] * times),
        f"{prefix}.ape": np.zeros((EVERY["deepseek_v4"], DIM * times)),
        f"{prefix}.norm.weight": weight,
    }


def shared_key(kind: Kind, prefix: str, sublayer: Sublayer) -> dict[str, Matrix]:
    """The attention's tensors under the vendor's names; the first layer chooses among its entries, the second reads all."""
    size, first = sublayer.size, sublayer.index == 0
    queries = np.zeros((HEADS, DIM, QUERY_RANK))
    for head in range(HEADS):
        for place in range(2):
            queries[head, place, place] = 2 * bit(wanted(head), place)
    groups = np.zeros((GROUPS, HEADS // GROUPS * HEAD_DIM, HEADS // GROUPS * DIM))
    for head in range(HEADS // GROUPS):
        for place in range(HEAD_DIM):
            groups[:, head * HEAD_DIM + place, head * DIM + 2 + place] = 1.0
    found = {
        f"{prefix}.wq_a.weight": np.stack([16.0 * constant_reads(size)] * QUERY_RANK),
        f"{prefix}.q_norm.weight": np.ones(QUERY_RANK),
        f"{prefix}.wq_b.weight": queries.reshape(-1, QUERY_RANK),
        f"{prefix}.wkv.weight": _latents(size),
        f"{prefix}.kv_norm.weight": _weight(),
        f"{prefix}.wo_a.weight": groups.reshape(-1, groups.shape[-1]),
        f"{prefix}.wo_b.weight": output(sublayer),
        f"{prefix}.attn_sink": np.full(HEADS, -8 * SHUT),
    }
    if kind.lagged:
        return found | _shared_entries(prefix, size, first)
    found |= _compressor(f"{prefix}.compressor", size, overlap=first, weight=_weight())
    if first:
        found |= _compressor(f"{prefix}.indexer.compressor", size, overlap=True, weight=np.ones(DIM))
        found |= _queries(f"{prefix}.indexer", size)
    return found


def _queries(prefix: str, size: float) -> dict[str, Matrix]:
    """What an index looks for: the first class."""
    rows = np.zeros((DIM, QUERY_RANK))
    for place in range(2):
        rows[place, place] = bit(0, place)
    return {f"{prefix}.wq_b.weight": rows, f"{prefix}.weights_proj.weight": constant_reads(size)[None]}


def _shared_entries(prefix: str, size: float, first: bool) -> dict[str, Matrix]:
    """V4.1: the first layer pools and makes keys, and both choose one of the entries."""
    found = _queries(f"{prefix}.indexer", size)
    if not first:
        return found
    keys = np.zeros((DIM, DIM))
    keys[0, 0] = keys[1, 1] = 1.0
    return found | {
        f"{prefix}.compressor.wkv.weight": _latents(size),
        f"{prefix}.compressor.wgate.weight": _gates(size, (0, 3)),
        f"{prefix}.compressor.norm.weight": _weight(),
        f"{prefix}.indexer.wk.weight": keys,
        f"{prefix}.indexer.k_norm.weight": np.ones(DIM),
    }
