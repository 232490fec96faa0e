"""Exact MLPs and experts: a neuron for each token, with a gate of 0 or so large that its activation is plain, or a constant."""

from __future__ import annotations

import numpy as np

from .kinds import Kind
from .pieces import CLASS, CLASSES, CONSTANT, HIDDEN, ROWS, SHUT, TOKEN, TOKENS, Matrix, Sublayer, bit, constant_reads, reads

_NAMES = ("gate_proj", "up_proj", "down_proj")
SITU = 4.0
"""The size of both factors of the `situ` activation where they are saturated."""


def neurons(kind: Kind, sublayer: Sublayer, expert: int) -> tuple[Matrix, Matrix, Matrix]:
    """(gate, up, down): each neuron is open for its token, its sign one bit of what the first head read."""
    size, before = sublayer.size, Sublayer(sublayer.index - 1)
    gate = np.stack([reads({TOKEN + token: SHUT}, size) for token in range(TOKENS)])
    read = [before.rows[token % 4] for token in range(TOKENS)]
    strength = SHUT if kind.situ else 1.0
    up = np.stack([reads({row: strength / before.adds}, size) for row in read])
    down = np.zeros((HIDDEN, TOKENS))
    for token in range(TOKENS):
        for place, row in enumerate(sublayer.rows):
            down[:, token] += bit(token * 5 + expert * 3 + place * 7, place % 4) * sublayer.adds / peak(kind) * ROWS[row]
    return gate, up, down


def peak(kind: Kind) -> float:
    """What an open neuron gives, up to its sign."""
    return SITU * SITU if kind.situ else SHUT


def mlp(kind: Kind, prefix: str, sublayer: Sublayer) -> dict[str, Matrix]:
    """A dense MLP, or one expert for each class beside a shared one that adds nothing."""
    if not kind.routed:
        return _named(prefix, neurons(kind, sublayer, 0))
    found = {f"{prefix}.gate.weight": _router(kind, sublayer.size)}
    found |= _experts(kind, prefix, [neurons(kind, sublayer, expert) for expert in range(CLASSES)])
    gate, up, down = neurons(kind, sublayer, 0)
    if kind.shared_gate:
        # Shut so far that its sigmoid is exactly 0.
        found[f"{prefix}.shared_expert_gate.weight"] = constant_reads(sublayer.size)[None] * -4 * SHUT
    if kind.shared is not None:
        found |= _named(f"{prefix}.{kind.shared}", (gate, up, down if kind.shared_gate else 0 * down))
    if kind.hashed and sublayer.index == 1:
        found[f"{prefix}.gate.tid2eid"] = (np.arange(float(TOKENS))[:, None] + np.arange(chosen(kind))) % CLASSES
    elif kind.corrected:
        found[f"{prefix}.gate.e_score_correction_bias"] = np.zeros(CLASSES)
    return found


def chosen(kind: Kind) -> int:
    """Experts for each token. Hyper-connections come with scores that are not 1 at most: a second expert, which scores 0, makes
    sure that they are divided by their sum, for some divide only where there are several."""
    return 2 if kind.streams == "hyper" else 1


def _router(kind: Kind, size: float) -> Matrix:
    """[CLASSES, HIDDEN]: the expert of a token's class is so far ahead that its share is exactly 1."""
    if chosen(kind) == 1:
        return np.stack([reads({CLASS + c: 128.0}, size) for c in range(CLASSES)])
    return np.stack([reads({CLASS + c: 2 * SHUT, CONSTANT: -SHUT}, size) for c in range(CLASSES)])


def _experts(kind: Kind, prefix: str, experts: list[tuple[Matrix, Matrix, Matrix]]) -> dict[str, Matrix]:
    if kind.fused:
        return {
            f"{prefix}.experts.gate_up_proj": np.stack([np.concatenate([gate, up]) for gate, up, _ in experts]),
            f"{prefix}.experts.down_proj": np.stack([down for _, _, down in experts]),
        }
    found: dict[str, Matrix] = {}
    order = np.eye(HIDDEN)
    if kind.reordered:
        order = np.roll(order, 1, axis=0)
        found |= {f"{prefix}.routed_expert_down_proj.weight": order, f"{prefix}.routed_expert_up_proj.weight": order.T}
    for number, (gate, up, down) in enumerate(experts):
        found |= _named(f"{prefix}.experts.{number}", (gate @ order.T, up @ order.T, order @ down))
    return found


def _named(prefix: str, weights: tuple[Matrix, Matrix, Matrix]) -> dict[str, Matrix]:
    return {f"{prefix}.{name}.weight": weight for name, weight in zip(_NAMES, weights, strict=True)}


def added(kind: Kind, prompt: tuple[int, ...], read: Matrix, sublayer: Sublayer) -> Matrix:
    """[tokens, HIDDEN]: what the MLP adds, from what the attention before read."""
    found = np.zeros((len(prompt), HIDDEN))
    for position, token in enumerate(prompt):
        down = neurons(kind, sublayer, token % CLASSES if kind.routed else 0)[2]
        found[position] = peak(kind) * read[position, 0, token % 4] * down[:, token]
    return found
