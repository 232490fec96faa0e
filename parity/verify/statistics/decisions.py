"""Tests: several at once (Holm), paired scores (McNemar, equivalence)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scipy import special  # type: ignore[import-untyped]


def holm(p_values: Mapping[str, float], alpha: float) -> frozenset[str]:
    """The names rejected with a family-wise error of at most `alpha` (Holm, Scand. J. Statist. 6, 1979)."""
    rejected: list[str] = []
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > alpha / (len(p_values) - place):
            break
        rejected.append(name)
    return frozenset(rejected)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value that A and B are right equally often; counts of prompts that only one of them got right."""
    from scipy import stats

    total = only_a + only_b
    return 1.0 if total == 0 else float(stats.binomtest(only_a, total, 0.5).pvalue)


def paired_difference(only_a: int, only_b: int, trials: int, confidence: float) -> tuple[float, float]:
    """One-sided lower and upper bounds of P(B right) - P(A right) from paired answers, each at this confidence.

    Tango's score interval (Statistics in Medicine 17, 1998), which stays honest when the answers never disagree.
    """
    from scipy import optimize

    if trials < 1 or only_a < 0 or only_b < 0 or only_a + only_b > trials:
        raise ValueError(f"{only_a} and {only_b} of {trials} are not paired counts")
    z = float(special.ndtri(confidence))
    estimate = (only_b - only_a) / trials

    def score(difference: float) -> float:
        return _tango(only_a, only_b, trials, difference)

    edge = 1 - 1e-12
    estimate = min(max(estimate, -edge), edge)
    lower = -1.0 if score(-edge) < z else optimize.brentq(lambda d: score(d) - z, -edge, estimate)
    upper = 1.0 if score(edge) > -z else optimize.brentq(lambda d: score(d) + z, estimate, edge)
    return float(lower), float(upper)


def _tango(only_a: int, only_b: int, trials: int, difference: float) -> float:
    """The score statistic of `difference`, with the discordant rate at its restricted maximum likelihood."""
    excess = only_b - only_a - trials * difference
    linear = -only_b - only_a + (2 * trials - only_b + only_a) * difference
    constant = -only_a * difference * (1 - difference)
    nuisance = (math.sqrt(max(linear**2 - 8 * trials * constant, 0.0)) - linear) / (4 * trials)
    variance = trials * (2 * nuisance + difference * (1 - difference))
    if variance <= 0:
        return 0.0 if abs(excess) < 1e-12 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)
