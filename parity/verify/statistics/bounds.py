"""One-sided confidence bounds. The unit is the prompt: tokens of one text are not independent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special  # type: ignore[import-untyped]  # SciPy has no types

Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """A statistic, and the same statistic of many resampled sets of prompts."""

    estimate: float
    draws: Float64s

    def upper(self, confidence: float) -> float:
        """The value that the true statistic stays below with this confidence."""
        return float(np.quantile(self.draws, confidence, method="higher"))

    def lower(self, confidence: float) -> float:
        """The value that the true statistic stays above with this confidence."""
        return float(np.quantile(self.draws, 1 - confidence, method="lower"))

    def p_not_below(self, threshold: float) -> float:
        """Evidence against `the statistic is at least threshold`: small when it is below."""
        return float((1 + (self.draws > threshold).sum()) / (1 + len(self.draws)))

    def p_not_above(self, threshold: float) -> float:
        """Evidence against `the statistic is at most threshold`: small when it is above."""
        return float((1 + (self.draws <= threshold).sum()) / (1 + len(self.draws)))


def bootstrap_mean(values: Float64s, *, seed: int, num_draws: int = 9999) -> Resampled:
    """The mean over prompts, resampled. `values` has one number a prompt.

    Draws are spread around the mean by sqrt(n / (n - 1)), which undoes the narrowness of the plain bootstrap on few
    prompts (Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 4).
    """
    values = np.asarray(values, np.float64)
    if values.size < 2:
        raise ValueError("a bootstrap needs at least two prompts")
    weights = _resampling_weights(values.size, seed, num_draws)
    mean = float(values.mean())
    widen = math.sqrt(values.size / (values.size - 1))
    return Resampled(mean, mean + widen * (weights @ (values - mean)))


def bootstrap_ratio(numerator: Float64s, denominator: Float64s, *, seed: int, num_draws: int = 9999) -> Resampled:
    """mean(numerator) / mean(denominator) over the same prompts, resampled in pairs; the denominator is positive."""
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if top.shape != bottom.shape or top.size < 2:
        raise ValueError("a ratio needs the same two or more prompts above and below")
    weights = _resampling_weights(top.size, seed, num_draws)
    below = weights @ bottom
    draws = np.divide(weights @ top, below, out=np.full(num_draws, np.inf), where=below > 0)
    return Resampled(float(top.mean() / bottom.mean()) if bottom.mean() > 0 else math.inf, draws)


def bootstrap_quantile(values: Float64s, prompts: npt.NDArray[np.integer], q: float, *, seed: int) -> Resampled:
    """The q-quantile over all positions, with whole prompts resampled.

    Args:
        values: one a position.
        prompts: which prompt each position belongs to, counted from 0.
    """
    order = np.argsort(values, kind="stable")
    ordered, owners = np.asarray(values, np.float64)[order], np.asarray(prompts)[order]
    num_prompts = int(owners.max()) + 1
    weights = _resampling_weights(num_prompts, seed, 999) * num_prompts
    draws = np.empty(len(weights))
    for index, weight in enumerate(weights):
        mass = weight[owners].cumsum()
        draws[index] = ordered[min(int(np.searchsorted(mass, q * mass[-1])), len(ordered) - 1)]
    return Resampled(float(np.quantile(ordered, q, method="inverted_cdf")), draws)


def _resampling_weights(size: int, seed: int, num_draws: int) -> Float64s:
    generator = np.random.Generator(np.random.Philox(key=seed))
    return generator.multinomial(size, np.full(size, 1 / size), size=num_draws) / size


def rate_upper(failures: int, trials: int, confidence: float) -> float:
    """Clopper and Pearson's upper bound of a rate (Biometrika 26, 1934)."""
    _check_counts(failures, trials)
    return 1.0 if failures == trials else float(special.betaincinv(failures + 1, trials - failures, confidence))


def rate_lower(failures: int, trials: int, confidence: float) -> float:
    """Clopper and Pearson's lower bound of a rate."""
    _check_counts(failures, trials)
    return 0.0 if failures == 0 else float(special.betaincinv(failures, trials - failures + 1, 1 - confidence))


def _check_counts(failures: int, trials: int) -> None:
    if not 0 <= failures <= trials or trials == 0:
        raise ValueError(f"{failures} of {trials} is not a rate")


def quantile_upper(values: Float64s, q: float, confidence: float) -> float:
    """A distribution-free upper bound of the q-quantile: an order statistic; infinite when there are too few values.

    The number of values below the q-quantile is binomial(n, q), so the k-th smallest value is at or above it with
    probability P(binomial(n, q) < k).
    """
    ordered = np.sort(np.asarray(values, np.float64))
    rank = _binomial_quantile(confidence, ordered.size, q) + 1
    return math.inf if rank > ordered.size else float(ordered[rank - 1])


def prompts_needed(half_width: float, gap: float, num_prompts: int) -> int | None:
    """How many prompts would make a bound that is `half_width` wide as narrow as `gap`; None when no number would."""
    if gap <= 0 or not math.isfinite(half_width):
        return None
    return max(num_prompts + 1, math.ceil(num_prompts * (half_width / gap) ** 2))


def _binomial_quantile(level: float, trials: int, p: float) -> int:
    """The smallest count that successes stay at or below with this probability: what `scipy.stats` gives, which takes more
    than a second to import."""
    count = max(int(np.ceil(special.bdtrik(level, trials, p))), 0)
    return count - 1 if count and special.bdtr(count - 1, trials, p) >= level else count
