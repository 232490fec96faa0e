"""Exact softmax attention: one token is so far ahead of the others that their share is 0, whatever divides the scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .kinds import Kind
from .pieces import (
    AHEAD,
    CLASS,
    CLASSES,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    SHUT,
    Matrix,
    Sublayer,
    bit,
    class_reads,
    constant_reads,
    output,
    reads,
    token_bits,
    token_reads,
)

INDEX_DIM, INDEX_TOP, QUERY_RANK, LATENT = 8, 2, 8, 8
GROUP = 2
"""Tokens in a group of Qwen's sparse attention, which chooses one group beside the open one."""
INDEX_ORDER = (3, 2, 0, 1)
"""The classes as the sparse attention's index prefers them: of those that it leaves a head finds one only."""


def wanted(head: int) -> int:
    """Each head looks for one class; the fourth's output is dropped, to keep to twelve rows."""
    return head


def grouped(kind: Kind, prefix: str, sublayer: Sublayer) -> dict[str, Matrix]:
    """Grouped-query attention, with biases, norms of heads, or a gate, as the architecture has them."""
    size = sublayer.size
    strength = 1.0 if kind.normed else AHEAD
    zero = np.zeros(HIDDEN)
    # Dimensions 0 and 2 turn by whole radians: they are kept out of the product.
    filler = constant_reads(size) if kind.normed else zero
    q, q_bias = list[Matrix](), list[float]()
    for head in range(HEADS):
        for place in (None, 0, None, 1):
            if place is None:
                q.append(filler)
                q_bias.append(0.0)
                continue
            sign = bit(wanted(head), place)
            # With biases, half of the query comes from them.
            share = 0.5 if kind.biased else 1.0
            q.append(constant_reads(size) * sign * strength * share)
            q_bias.append(sign * strength * (1 - share))
        if kind.gated:
            q += [constant_reads(size) * _opening(head)] * HEAD_DIM
    k = [filler, class_reads(0, size) * strength, filler, class_reads(1, size) * strength]
    v = [token_reads(place, size) for place in range(HEAD_DIM)]
    found = {
        f"{prefix}.q_proj.weight": np.stack(q),
        f"{prefix}.k_proj.weight": np.stack(k),
        f"{prefix}.v_proj.weight": np.stack(v),
        f"{prefix}.o_proj.weight": output(sublayer),
    }
    if kind.biased:
        found |= {f"{prefix}.q_proj.bias": np.array(q_bias), f"{prefix}.k_proj.bias": np.zeros(4)}
        found[f"{prefix}.v_proj.bias"] = np.zeros(4)
    if kind.indexed:
        found |= _group_index(f"{prefix}.indexer", size)
    if kind.normed:
        weight = np.array([0.0, AHEAD, 0.0, AHEAD]) - kind.zero_centred
        found |= {f"{prefix}.q_norm.weight": weight, f"{prefix}.k_norm.weight": weight}
    return found


def _opening(head: int) -> float:
    """What the output gate of a head is given: the fourth, whose output is dropped, is shut."""
    return SHUT if head < HEADS - 1 else -SHUT


def latent(kind: Kind, prefix: str, sublayer: Sublayer) -> dict[str, Matrix]:
    """Latent attention: two plain and two rotated dimensions a head, the rotated ones 0; a latent of eight signs."""
    size = sublayer.size
    q = np.zeros((HEADS, 4, HIDDEN))
    for head in range(HEADS):
        for place in range(2):
            q[head, place] = constant_reads(size) * bit(wanted(head), place) * AHEAD
    low = [class_reads(0, size), class_reads(1, size), *(token_reads(place, size) for place in range(4))]
    low += [constant_reads(size)] * 2
    # The latent's norm has an epsilon of its own, 1e-6 whatever the config says: lost beside 16 x 16.
    low = [16.0 * row for row in low]
    rotated = [np.zeros(HIDDEN)] * 2
    up = np.zeros((HEADS, 6, LATENT))
    up[:, 0, 0] = up[:, 1, 1] = AHEAD
    for place in range(4):
        up[:, 2 + place, 2 + place] = 1.0
    found = {
        f"{prefix}.kv_a_proj_with_mqa.weight": np.stack(low + rotated),
        f"{prefix}.kv_a_layernorm.weight": np.ones(LATENT),
        f"{prefix}.kv_b_proj.weight": up.reshape(-1, LATENT),
        f"{prefix}.o_proj.weight": output(sublayer),
    }
    if kind.indexed:
        found |= _low_rank_queries(prefix, size) | _index(f"{prefix}.indexer", size)
    else:
        found[f"{prefix}.q_proj.weight"] = q.reshape(-1, HIDDEN)
    if kind.gated:
        rows = [constant_reads(size) * _opening(head) for head in range(HEADS) for _ in range(HEAD_DIM)]
        found[f"{prefix}.g_proj.weight"] = np.stack(rows)
    return found


def _low_rank_queries(prefix: str, size: float) -> dict[str, Matrix]:
    """The same queries from a low-rank form whose entries are all 1."""
    up = np.zeros((HEADS, 4, QUERY_RANK))
    for head in range(HEADS):
        for place in range(2):
            up[head, place, place] = bit(wanted(head), place) * AHEAD
    return {
        f"{prefix}.q_a_proj.weight": np.stack([16.0 * constant_reads(size)] * QUERY_RANK),
        f"{prefix}.q_a_layernorm.weight": np.ones(QUERY_RANK),
        f"{prefix}.q_b_proj.weight": up.reshape(-1, QUERY_RANK),
    }


def _index(prefix: str, size: float) -> dict[str, Matrix]:
    """Scores of 16 : 8 : 4 : 0 for the classes in their order. A norm with means is rounded differently by every library, but
    that moves the scores and not the choice."""
    pairs = {INDEX_ORDER[0]: (2, 1.0), INDEX_ORDER[1]: (4, 1.0), INDEX_ORDER[2]: (6, 1.0), INDEX_ORDER[3]: (6, -1.0)}
    keys = np.zeros((INDEX_DIM, HIDDEN))
    for token_class, (place, sign) in pairs.items():
        row = reads({CLASS + token_class: 16.0 * sign}, size)
        keys[place] += row
        keys[place + 1] -= row
    queries = np.zeros((INDEX_DIM, QUERY_RANK))
    for place, weight in ((2, 8.0), (4, 4.0), (6, 2.0)):
        queries[place, 0], queries[place + 1, 1] = weight, -weight
    return {
        f"{prefix}.wq_b.weight": queries,
        f"{prefix}.wk.weight": keys,
        f"{prefix}.k_norm.weight": np.ones(INDEX_DIM),
        f"{prefix}.k_norm.bias": np.zeros(INDEX_DIM),
        f"{prefix}.weights_proj.weight": constant_reads(size)[None],
    }


def _group_index(prefix: str, size: float) -> dict[str, Matrix]:
    """A query and a key whose first four dimensions are rotated, and 0: groups of the classes 0 and 1 are preferred."""
    rows = np.zeros((2, INDEX_DIM, HIDDEN))
    rows[0, 4], rows[0, 5] = 2 * constant_reads(size), constant_reads(size)
    for c in range(CLASSES):
        rows[1, 4 if c < 2 else 5] += reads({CLASS + c: 16.0}, size)
    norms = {f"{prefix}.{name}_layernorm.weight": np.zeros(INDEX_DIM) for name in "qk"}
    return norms | {f"{prefix}.index_qk_proj.weight": rows.reshape(-1, HIDDEN)}


def _seen(kind: Kind, prompt: tuple[int, ...], position: int) -> Sequence[int]:
    """The tokens that an index leaves of those up to a position."""
    so_far = prompt[: position + 1]
    if not kind.indexed:
        return so_far
    if "latent" in kind.mixers:
        return sorted(so_far, key=lambda token: INDEX_ORDER.index(token % CLASSES))[:INDEX_TOP]
    return so_far[:GROUP] if len(so_far) == 2 * GROUP else so_far


def attended(kind: Kind, prompt: tuple[int, ...]) -> Matrix:
    """[tokens, HEADS, 4]: the bits of the token that each head finds at each position."""
    found = np.zeros((len(prompt), HEADS, HEAD_DIM))
    for position in range(len(prompt)):
        for head in range(HEADS):
            found[position, head] = _found(_seen(kind, prompt, position), wanted(head))
    return found


def _found(tokens: Sequence[int], wanted_class: int) -> Matrix:
    """The mean of the bits of the tokens whose class agrees best with the one wanted."""
    agreement = [sum(bit(t % CLASSES, place) == bit(wanted_class, place) for place in range(2)) for t in tokens]
    best = [token for token, value in zip(tokens, agreement, strict=True) if value == max(agreement)]
    return np.asarray(np.mean([token_bits(token) for token in best], axis=0))
