"""Exact gated delta rule layers: a linear attention whose keys are one-hot and whose gates are wholly open or shut.

SiLU is the identity or 0 beyond 256. A value is eight channels, one of each pair open for each bit, so that its norm divides
by a power of two. Four heads, of which one of the second and the fourth is empty at any position:

    0   is asked for the token before, by a convolution over its query
    1   the same, and forgets everything before the token of class 2
    2   has one key for two classes: what was stored first must be taken out again
    3   as 2, and stores the token of class 2 only
"""

from __future__ import annotations

import numpy as np

from .kinds import Kind
from .pieces import (
    CLASS,
    CLASSES,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    SHUT,
    Matrix,
    Sublayer,
    constant_reads,
    output,
    reads,
    token_bits,
    token_reads,
)

WIDTH = 4
KEY_HEADS, SIZE = 2, 16
"""Key heads of Qwen's layers, each of which serves two of the heads; and the dimensions of keys and values."""
_FORGETS, _STORES = 1, 3
"""The heads that forget, and that store, at class `_AT` only."""
_AT = 2


def _at(size: float) -> Matrix:
    """A weight that gives 256 for the class at which something happens, and -256 else."""
    return reads({CLASS + c: SHUT if c == _AT else -SHUT for c in range(CLASSES)}, size)


def _keys(key_head: int, size: float) -> Matrix:
    """[SIZE, HIDDEN]: one-hot by class, or by the class's first bit."""
    found = np.zeros((SIZE, HIDDEN))
    for c in range(CLASSES):
        found[c if key_head == 0 else c % 2] += reads({CLASS + c: SHUT}, size)
    return found


def _values(size: float) -> Matrix:
    """[SIZE, HIDDEN]: for each bit of the token one channel that is open if it is set, and one if it is not."""
    found = np.zeros((SIZE, HIDDEN))
    for place in range(HEAD_DIM):
        found[2 * place], found[2 * place + 1] = SHUT * token_reads(place, size), -SHUT * token_reads(place, size)
    return found


def _taps(rows: int, *, before: bool = False) -> Matrix:
    """[rows, 1, WIDTH]: the token itself; or the token before, and for the first class, which has none before it, both."""
    taps = np.zeros((rows, 1, WIDTH))
    taps[:, 0, -1] = 1.0
    if before:
        taps[:CLASSES, 0, -2] = 1.0
        taps[1:CLASSES, 0, -1] = 0.0
    return taps


def _write(sublayer: Sublayer, scale: float) -> Matrix:
    """[HIDDEN, HEADS * SIZE]: from pairs of channels to the bits' new rows; heads 1 and 3 share theirs."""
    bits = output(sublayer)
    found = np.zeros((HIDDEN, HEADS, SIZE))
    for head in range(HEADS):
        slot = 1 if head == _STORES else head
        for place in range(HEAD_DIM):
            row = bits[:, slot * HEAD_DIM + place] * scale
            found[:, head, 2 * place], found[:, head, 2 * place + 1] = row, -row
    return found.reshape(HIDDEN, -1)


def gated_delta(kind: Kind, prefix: str, sublayer: Sublayer) -> dict[str, Matrix]:
    """Qwen's layer: two key heads, a decay for each head, an output gate through SiLU."""
    size = sublayer.size
    always = constant_reads(size) * SHUT
    q = k = np.stack([_keys(head, size) for head in range(KEY_HEADS)])
    v = np.stack([_values(size)] * HEADS)
    z = np.stack([np.stack([always] * SIZE)] * HEADS)
    b = np.stack([_at(size) if head == _STORES else always for head in range(HEADS)])
    # With the bias below, -256 or 256 for the head that forgets, and -256 for the others.
    a = np.stack([2 * reads({CLASS + _AT: SHUT}, size) if head == _FORGETS else 0 * always for head in range(HEADS)])
    taps = [_taps(SIZE, before=True), _taps(SIZE), _taps(KEY_HEADS * SIZE), _taps(HEADS * SIZE)]
    found = {
        f"{prefix}.conv1d.weight": np.concatenate(taps),
        f"{prefix}.A_log": np.zeros(HEADS),
        f"{prefix}.dt_bias": np.full(HEADS, -SHUT),
        f"{prefix}.norm.weight": np.full(SIZE, 0.5),
        f"{prefix}.out_proj.weight": _write(sublayer, 1 / SHUT),
    }
    if not kind.packed:
        flat = [part.reshape(-1, HIDDEN) for part in (q, k, v)]
        names = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a")
        parts = (np.concatenate(flat), z.reshape(-1, HIDDEN), b, a)
        return found | {f"{prefix}.{name}.weight": part for name, part in zip(names, parts, strict=True)}
    by_key = [part.reshape(KEY_HEADS, -1, HIDDEN) for part in (q, k, v, z)]
    gates = [part.reshape(KEY_HEADS, -1, HIDDEN) for part in (b, a)]
    found[f"{prefix}.in_proj_qkvz.weight"] = np.concatenate(by_key, axis=1).reshape(-1, HIDDEN)
    found[f"{prefix}.in_proj_ba.weight"] = np.concatenate(gates, axis=1).reshape(-1, HIDDEN)
    return found


def kimi_delta(kind: Kind, prefix: str, sublayer: Sublayer) -> dict[str, Matrix]:
    """Kimi's layer: keys for every head, a decay for each channel of a key, an output gate through the sigmoid."""
    size = sublayer.size
    always = constant_reads(size) * SHUT
    keys = np.concatenate([_keys(head // 2, size) for head in range(HEADS)])
    taps = np.concatenate([_taps(SIZE, before=True)] * 2 + [_taps(SIZE)] * 2)
    forget = np.zeros((SIZE, HIDDEN))
    forget[0] = 2 * reads({CLASS + _AT: SHUT}, size)
    spread = np.zeros((HEADS, SIZE, SIZE))
    # The one channel that is asked for just after: the others need not be forgotten.
    spread[_FORGETS, _AT - 1, 0] = 1.0
    found = {
        f"{prefix}.q_proj.weight": keys,
        f"{prefix}.k_proj.weight": keys,
        f"{prefix}.v_proj.weight": np.concatenate([_values(size)] * HEADS),
        f"{prefix}.q_conv1d.weight": taps,
        f"{prefix}.k_conv1d.weight": _taps(HEADS * SIZE),
        f"{prefix}.v_conv1d.weight": _taps(HEADS * SIZE),
        f"{prefix}.f_a_proj.weight": forget,
        f"{prefix}.f_b_proj.weight": spread.reshape(-1, SIZE),
        f"{prefix}.b_proj.weight": np.stack([_at(size) if head == _STORES else always for head in range(HEADS)]),
        f"{prefix}.A_log": np.zeros(HEADS) if kind.full_rank_gate else np.zeros((1, 1, HEADS, 1)),
        f"{prefix}.dt_bias": np.full(HEADS * SIZE, -SHUT),
        f"{prefix}.o_norm.weight": np.full(SIZE, 0.5),
        f"{prefix}.o_proj.weight": _write(sublayer, 1.0),
    }
    if kind.full_rank_gate:
        return found | {f"{prefix}.g_proj.weight": np.stack([always] * (HEADS * SIZE))}
    ones = np.zeros((HEADS * SIZE, SIZE))
    ones[:, 0] = 1.0
    return found | {f"{prefix}.g_a_proj.weight": np.stack([always] * SIZE), f"{prefix}.g_b_proj.weight": ones}


def recalled(prompt: tuple[int, ...]) -> Matrix:
    """[tokens, HEADS, 4]: the bits that each slot of the output holds, by the rule above and not by its arithmetic."""
    found = np.zeros((len(prompt), HEADS, HEAD_DIM))
    for position, token in enumerate(prompt):
        before = prompt[max(0, position - 1)]
        found[position, 0] = token_bits(before)
        found[position, 1] = token_bits(token if token % CLASSES == _AT else before)
        found[position, 2] = token_bits(token)
    return found
