"""When only sampled text can be had: is it drawn from A's distribution? These see gross changes only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .divergence import Float64s, Ints, Top


def uniform_ranks(a: Top, tokens: Ints, *, seed: int) -> Float64s:
    """Where each sampled token falls in A's distribution function, best token first: uniform on (0, 1) if A drew it.

    The place inside the token's own step is drawn at random, which makes the discrete function continuous. A token outside
    A's head counts as the one bucket that holds the rest. One token a position: use one query a prompt.
    """
    p = np.where(a.ids >= 0, np.exp(a.logprobs.astype(np.float64)), 0.0)
    p = np.concatenate([p, np.exp(a.log_tail.astype(np.float64))[:, None]], axis=1)
    p /= p.sum(axis=1, keepdims=True)
    hit = a.ids == np.asarray(tokens)[:, None]
    place = np.where(hit.any(axis=1), hit.argmax(axis=1), a.ids.shape[1])[:, None]
    width = np.take_along_axis(p, place, axis=1)[:, 0]
    below = np.take_along_axis(p.cumsum(axis=1), place, axis=1)[:, 0] - width
    generator = np.random.Generator(np.random.Philox(key=seed))
    return np.asarray(np.clip(below + width * generator.random(len(width)), 0.0, 1.0))


def uniformity(ranks: Float64s) -> float:
    """The p-value of Cramer and von Mises that `ranks` are uniform on (0, 1)."""
    from scipy import stats  # type: ignore[import-untyped]  # half a second that few runs need

    return float(stats.cramervonmises(ranks, "uniform").pvalue)


def discrepancy(a: Ints, b: Ints, *, seed: int, num_permutations: int = 999) -> tuple[float, float]:
    """Squared maximum mean discrepancy of two sets of sampled answers, and its permutation p-value.

    Args:
        a, b: [prompts, samples, tokens], padded with -1; samples of the same prompts, at least two of each.

    The kernel is the share of places where two answers to the same prompt have the same token. Labels are permuted
    within a prompt, so any number of samples is valid (after Gao, Liang and Guestrin, Model Equality Testing, 2024).
    """
    if a.shape[0] != b.shape[0] or a.shape[1] < 2 or b.shape[1] < 2:
        raise ValueError("needs the same prompts on both sides, and at least two samples of each")
    both = np.concatenate([a, b], axis=1)
    kernels = np.stack([_agreement(rows) for rows in both])
    labels = np.zeros((both.shape[0], both.shape[1]), bool)
    labels[:, : a.shape[1]] = True
    observed = _unbiased(kernels, labels)
    generator = np.random.Generator(np.random.Philox(key=seed))
    hits = sum(_unbiased(kernels, generator.permuted(labels, axis=1)) >= observed - 1e-12 for _ in range(num_permutations))
    return observed, (1 + hits) / (1 + num_permutations)


def _agreement(rows: Ints) -> Float64s:
    """[samples, samples]: the share of places with the same token, an ended answer counting as one more token."""
    length = max(int((rows >= 0).sum(axis=1).max(initial=0)), 1)
    rows = rows[:, :length]
    return np.asarray((rows[:, None, :] == rows[None, :, :]).mean(axis=2))


def _unbiased(kernels: Float64s, labels: npt.NDArray[np.bool_]) -> float:
    first, second = labels.astype(np.float64), (~labels).astype(np.float64)
    n, m = first.sum(axis=1), second.sum(axis=1)
    diagonal = np.diagonal(kernels, axis1=1, axis2=2)

    def within(mask: Float64s, count: Float64s) -> Float64s:
        total = np.einsum("pi,pij,pj->p", mask, kernels, mask) - (mask * diagonal).sum(axis=1)
        return np.asarray(total / (count * (count - 1)))

    across = np.einsum("pi,pij,pj->p", first, kernels, second) / (n * m)
    return float((within(first, n) + within(second, m) - 2 * across).mean())


def margin_score(margins: Float64s, *, clip: float = 5.0) -> float:
    """How unlikely one greedy answer's tokens are to A: the mean margin in nats, each clipped so that one outlier cannot
    decide. 0 when every token is A's best."""
    return float(np.minimum(margins, clip).mean()) if margins.size else 0.0
