"""Exact residuals of several streams: one of them is read and written, the others keep the embedding.

Gates that must be 1 are open, or 2 sigmoid(0); all others are shut. With hyper-connections the streams change places at each
site, so that the next one has to be read from the next place.
"""

from __future__ import annotations

import numpy as np

from .pieces import CONSTANT, HIDDEN, LAYERS, ROWS, SHUT, Matrix, Sublayer, constant_reads

COUNT, RANK = 4, 4
_LARGEST = 2.0 ** (2 * LAYERS + 1)
"""Root mean square of the stream at the end: no norm divides by more."""


def hyper_site(prefix: str, index: int, *, lagged: bool) -> dict[str, Matrix]:
    """A site of hyper-connections that reads the stream `index`, writes the one after it, and moves all by one.

    Args:
        lagged: what is read is decided one site before.
    """
    source, target = index % COUNT, (index + 1) % COUNT
    fn = np.zeros((COUNT * (2 + COUNT), COUNT * HIDDEN))
    fn[:COUNT] = _choice(target if lagged else source)
    base = np.zeros(len(fn))
    base[COUNT : 2 * COUNT] = [0.0 if place == target else -SHUT for place in range(COUNT)]
    base[2 * COUNT :] = (SHUT * np.roll(np.eye(COUNT), 1, axis=1)).ravel()
    return {f"{prefix}_fn": fn, f"{prefix}_base": base, f"{prefix}_scale": np.ones(3)}


def _choice(chosen: int) -> Matrix:
    """[COUNT, COUNT * HIDDEN]: the constant, which every stream has, opens one gate and shuts the others."""
    row = np.concatenate([ROWS[CONSTANT] * (SHUT * _LARGEST / HIDDEN), np.zeros((COUNT - 1) * HIDDEN)])
    return np.stack([row if place == chosen else -row for place in range(COUNT)])


def hyper_head(prefix: str) -> dict[str, Matrix]:
    """The stream that is left at the end."""
    return {
        f"{prefix}hc_fn": _choice(2 * LAYERS % COUNT),
        f"{prefix}hc_base": np.zeros(COUNT),
        f"{prefix}hc_scale": np.ones(1),
    }


def gated_site(prefix: str, sublayer: Sublayer, *, writes: bool = True) -> dict[str, Matrix]:
    """Qwen's gated streams: the mean over the streams is a fourth of the first, which is the only one that is written."""
    own = constant_reads(sublayer.size / COUNT) * SHUT
    down = np.zeros((RANK, COUNT * HIDDEN))
    down[0, :HIDDEN] = own
    up = np.zeros((COUNT * HIDDEN, RANK))
    up[:, 0] = np.repeat([COUNT] + [-COUNT] * (COUNT - 1), HIDDEN)
    found = {
        f"{prefix}.hc_norm.weight": np.zeros(COUNT * HIDDEN),
        f"{prefix}.input_mix_weight_down.weight": down,
        f"{prefix}.input_mix_weight_up.weight": up,
    }
    if writes:
        inject = np.zeros((COUNT, COUNT * HIDDEN))
        inject[1:, :HIDDEN] = -COUNT * own
        found[f"{prefix}.block_inject_weight.weight"] = inject
    return found
