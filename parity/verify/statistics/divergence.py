"""How far two next-token distributions are apart, from what a pack keeps of them.

A pack keeps the most likely tokens with their log-probabilities and the log of all remaining mass. Nothing is ever made up
about the remaining mass: it is one bucket, or, where its size is not known exactly, it is left out and the divergence
within the head is weighted by the head's mass (the chain rule without its other, never negative, terms). Both can only
lower a Kullback-Leibler divergence, so the coarse value is a true lower bound, and equal inputs give exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Float64s = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]

_ROWS_AT_ONCE = 256
_LOG_ZERO = -745.0
"""Stands for the log of no mass at all: below it, exp is 0 in float64."""


@dataclass(frozen=True, slots=True, eq=False)
class Top:
    """The head of each position's distribution.

    Args:
        ids: [positions, K], distinct within a row, most likely first; -1 marks an unused place.
        logprobs: [positions, K], natural logarithm; ignored where `ids` is -1.
        log_tail: [positions], the log of the mass of all other tokens; NaN where it is known too roughly to be used.
    """

    ids: Ints
    logprobs: Floats
    log_tail: Floats

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def __getitem__(self, rows: slice) -> Top:
        return Top(self.ids[rows], self.logprobs[rows], self.log_tail[rows])


def coarse_kl(a: Top, b: Top) -> Float64s:
    """KL(A || B) over {A's top tokens that B also reports} and one bucket for the rest, in nats: [positions].

    Both sides are renormalised in float64, so rounding of the stored values enters in second order only and the result
    is never negative by more than rounding of its own sum.
    """
    if len(a) != len(b):
        raise ValueError(f"A has {len(a)} positions and B has {len(b)}")
    parts = [_coarse_kl(a[i : i + _ROWS_AT_ONCE], b[i : i + _ROWS_AT_ONCE]) for i in range(0, len(a), _ROWS_AT_ONCE)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _coarse_kl(a: Top, b: Top) -> Float64s:
    match = (a.ids[:, :, None] == b.ids[:, None, :]) & (a.ids[:, :, None] >= 0)
    in_b, in_a = match.any(axis=2), match.any(axis=1)
    log_a, log_b = a.logprobs.astype(np.float64), b.logprobs.astype(np.float64)
    at_b = np.take_along_axis(log_b, match.argmax(axis=2), axis=1)
    head_a, head_b = np.where(in_b, log_a, -np.inf), np.where(in_b, at_b, -np.inf)
    bucketed = ~np.isnan(np.asarray(a.log_tail, np.float64)) & ~np.isnan(np.asarray(b.log_tail, np.float64))
    rest_a = _bucket(np.where((a.ids >= 0) & ~in_b, log_a, -np.inf), a.log_tail, bucketed)
    rest_b = _bucket(np.where((b.ids >= 0) & ~in_a, log_b, -np.inf), b.log_tail, bucketed)
    log_p, mass = _normalised(np.concatenate([head_a, rest_a], axis=1))
    log_q, _ = _normalised(np.concatenate([head_b, rest_b], axis=1))
    used = np.isfinite(log_p) & np.isfinite(log_q)
    terms = np.where(used, np.exp(log_p) * (np.where(used, log_p, 0) - np.where(used, log_q, 0)), 0.0)
    return np.asarray(np.maximum(terms.sum(axis=1), 0.0) * np.where(bucketed, 1.0, np.minimum(mass, 1.0)))


def _bucket(other: Float64s, log_tail: Floats, bucketed: npt.NDArray[np.bool_]) -> Float64s:
    """[positions, 1]: the log of all mass outside the shared head; no bucket where a tail is not known."""
    tail = np.maximum(np.where(bucketed, log_tail.astype(np.float64), 0.0), _LOG_ZERO)[:, None]
    mass = logsumexp(np.concatenate([other, tail], axis=1))[:, None]
    return np.asarray(np.where(bucketed[:, None], mass, -np.inf))


def _normalised(logs: Float64s) -> tuple[Float64s, Float64s]:
    """The rows as log-probabilities, and the mass that they had; a row of no mass stays empty."""
    empty: npt.NDArray[np.bool_] = np.asarray(~np.isfinite(logs).any(axis=1))
    total = logsumexp(np.where(empty[:, None], 0.0, logs))
    return np.where(empty[:, None], -np.inf, logs - total[:, None]), np.where(empty, 0.0, np.exp(total))


def logsumexp(values: Float64s) -> Float64s:
    """log(sum(exp(values))) along the last axis, which must hold at least one finite value in each row."""
    peak = values.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(values - peak).sum(axis=-1)) + peak[..., 0])


def head_deltas(a: Top, b: Top, *, count: int = 8) -> Float64s:
    """|difference in log-probability| of A's `count` most likely tokens that B reports too: one flat array."""
    count = min(count, a.ids.shape[1])
    match = (a.ids[:, :count, None] == b.ids[:, None, :]) & (a.ids[:, :count, None] >= 0)
    at_b = np.take_along_axis(b.logprobs.astype(np.float64), match.argmax(axis=2), axis=1)
    return np.asarray(np.abs(a.logprobs[:, :count].astype(np.float64) - at_b)[match.any(axis=2)])


def rough_log_tail(logprobs: Floats, ids: Ints, *, exact_above: float = 1e-4) -> npt.NDArray[np.float32]:
    """The log of what reported probabilities leave over: [positions]; NaN where rounding could be most of it."""
    left = 1.0 - np.where(ids >= 0, np.exp(logprobs.astype(np.float64)), 0.0).sum(axis=1)
    return np.where(left > exact_above, np.log(np.maximum(left, exact_above)), np.nan).astype(np.float32)


def margins(a: Top, tokens: Ints) -> Float64s:
    """How much less likely than A's best token each of `tokens` [positions] is to A, in nats; 0 where it is the best.

    A token outside A's head is given the head's last log-probability: the margin is then a lower bound.
    """
    hit = a.ids == np.asarray(tokens)[:, None]
    logprobs = a.logprobs.astype(np.float64)
    floor = np.where(a.ids >= 0, logprobs, np.inf).min(axis=1)
    own = np.where(hit.any(axis=1), np.take_along_axis(logprobs, hit.argmax(axis=1)[:, None], axis=1)[:, 0], floor)
    return np.asarray(np.maximum(logprobs[:, 0] - own, 0.0))


def signs(vocab_size: int, *, seed: int, count: int = 32) -> npt.NDArray[np.float32]:
    """Random +1 and -1, [vocab_size, count], from the raw bits of a Philox stream: the same on every machine and version."""
    words = -(-vocab_size * count // 64)
    raw = np.random.Philox(key=seed).random_raw(words).astype("<u8").view(np.uint8)
    bits = np.unpackbits(raw, bitorder="little")[: vocab_size * count].reshape(vocab_size, count)
    return bits.astype(np.float32) * 2 - 1


def squared_distance(a: Floats, b: Floats) -> Float64s:
    """The squared Euclidean distance of two centred logit rows, unbiased over the seed, from their sketches: [positions].

    Its relative standard error is at most sqrt(2 / count).
    """
    difference = a.astype(np.float64) - b.astype(np.float64)
    return np.asarray((difference**2).mean(axis=1))


def relative_error(wanted: Floats, seen: Floats) -> float:
    """The largest distance of a token's value from what was wanted, over the typical length of one."""
    one, two = (array.reshape(len(array), -1).astype(np.float64) for array in (wanted, seen))
    size = float(np.sqrt((one**2).sum(axis=1).mean()))
    distance = np.sqrt(((two - one) ** 2).sum(axis=1)).max(initial=0.0)
    return float(distance / size) if size > 0 else float(distance > 0)
