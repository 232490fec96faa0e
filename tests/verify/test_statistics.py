"""Every statistic against a closed form, scipy, a published value, or its own promise by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from parity.verify.sides.features import sketch
from parity.verify.statistics import bounds, decisions, samples
from parity.verify.statistics.divergence import (
    Top,
    coarse_kl,
    head_deltas,
    logsumexp,
    margins,
    rough_log_tail,
    signs,
    squared_distance,
)


def top_of(logits: np.ndarray, k: int = 8) -> Top:
    """The head of softmax(logits), computed with scipy in float64 and stored as a pack stores it."""
    logprobs = special.log_softmax(logits.astype(np.float64), axis=1)
    ids = np.argsort(-logprobs, axis=1, kind="stable")[:, :k]
    rest = np.ones_like(logprobs, bool)
    np.put_along_axis(rest, ids, False, axis=1)
    tail = special.logsumexp(np.where(rest, logprobs, -np.inf), axis=1)
    head = np.take_along_axis(logprobs, ids, axis=1)
    return Top(ids.astype(np.int32), head.astype(np.float32), tail.astype(np.float32))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=7))


def test_coarse_kl_of_equals_is_exactly_zero(rng: np.random.Generator) -> None:
    top = top_of(rng.normal(0, 4, (600, 300)), 64)
    assert (coarse_kl(top, top) == 0).all()


def test_coarse_kl_is_the_kl_when_nothing_is_left_out(rng: np.random.Generator) -> None:
    z, y = rng.normal(0, 2, (50, 16)), rng.normal(0, 2, (50, 16))
    p, q = special.softmax(z, axis=1), special.softmax(y, axis=1)
    tail = np.full(50, -1000.0)
    ids = np.tile(np.arange(16), (50, 1))
    got = coarse_kl(Top(ids, np.log(p), tail), Top(ids[:, ::-1], np.log(q)[:, ::-1], tail))
    np.testing.assert_allclose(got, special.rel_entr(p, q).sum(axis=1), rtol=1e-12)


def test_coarse_kl_is_a_lower_bound_even_with_different_heads(rng: np.random.Generator) -> None:
    z = rng.normal(0, 3, (400, 200))
    y = z + rng.normal(0, 1, z.shape)
    p, q = special.softmax(z, axis=1), special.softmax(y, axis=1)
    exact = special.rel_entr(p, q).sum(axis=1)
    for k_a, k_b in ((64, 64), (64, 5), (3, 20)):
        coarse = coarse_kl(top_of(z, k_a), top_of(y, k_b))
        assert (coarse <= exact + 1e-6).all()
    assert coarse_kl(top_of(z, 64), top_of(y, 64)).mean() > 0.5 * exact.mean()


def test_coarse_kl_by_hand() -> None:
    a = Top(np.array([[0]]), np.log([[0.5]]), np.log([0.5]))
    b = Top(np.array([[0]]), np.log([[0.25]]), np.log([0.75]))
    assert coarse_kl(a, b)[0] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-12)


def test_without_tails_it_is_still_a_lower_bound_and_zero_for_equals(rng: np.random.Generator) -> None:
    z = rng.normal(0, 3, (300, 200))
    y = z + rng.normal(0, 1, z.shape)
    exact = special.rel_entr(special.softmax(z, axis=1), special.softmax(y, axis=1)).sum(axis=1)
    a, b = top_of(z, 32), top_of(y, 32)
    blind = Top(b.ids, b.logprobs, np.full(300, np.nan))
    assert (coarse_kl(a, blind) <= exact + 1e-6).all()
    assert coarse_kl(a, blind).mean() > 0.3 * exact.mean()
    assert (coarse_kl(blind, blind) == 0).all()


def test_rough_tails_know_when_they_are_rough() -> None:
    got = rough_log_tail(np.log(np.array([[0.5, 0.25], [0.5, 0.49999], [0.5, 0.1]])), np.array([[1, 2], [1, 2], [1, -1]]))
    np.testing.assert_allclose(got, [math.log(0.25), math.nan, math.log(0.5)], rtol=1e-6)


def test_coarse_kl_sees_small_noise_at_its_own_size(rng: np.random.Generator) -> None:
    z = rng.normal(0, 3, (200, 500))
    values = [coarse_kl(top_of(z, 64), top_of(z + rng.normal(0, s, z.shape), 64)).mean() for s in (1e-5, 1e-4, 1e-3)]
    assert values[0] < 1e-9
    assert values[1] / values[0] > 10
    assert values[2] / values[1] == pytest.approx(100, rel=0.3)


def test_coarse_kl_of_disjoint_heads_is_zero_information() -> None:
    a = Top(np.array([[0, 1]]), np.log([[0.5, 0.25]]), np.log([0.25]))
    b = Top(np.array([[7, -1]]), np.array([[math.log(0.5), 9.0]]), np.log([0.5]))
    assert coarse_kl(a, b)[0] == 0


def test_coarse_kl_refuses_unequal_lengths(rng: np.random.Generator) -> None:
    top = top_of(rng.normal(size=(4, 20)))
    with pytest.raises(ValueError, match="4 positions and B has 3"):
        coarse_kl(top, top[:3])


def test_logsumexp_is_scipys(rng: np.random.Generator) -> None:
    values = rng.normal(0, 300, (20, 30))
    np.testing.assert_allclose(logsumexp(values), special.logsumexp(values, axis=1), rtol=1e-14)


def test_margins_and_deltas() -> None:
    a = Top(np.array([[3, 5], [1, 2]]), np.log([[0.6, 0.3], [0.5, 0.4]]), np.log([0.1, 0.1]))
    np.testing.assert_allclose(margins(a, np.array([5, 1])), [math.log(2), 0], atol=1e-12)
    np.testing.assert_allclose(margins(a, np.array([9, 2])), [math.log(2), math.log(1.25)], atol=1e-12)
    b = Top(np.array([[5, 9], [2, 1]]), np.log([[0.6, 0.3], [0.5, 0.4]]), np.log([0.1, 0.1]))
    np.testing.assert_allclose(sorted(head_deltas(a, b)), sorted([math.log(2), math.log(1.25), math.log(1.25)]), atol=1e-12)


def test_signs_are_pinned_and_fair() -> None:
    matrix = signs(5000, seed=1)
    assert set(np.unique(matrix)) == {-1.0, 1.0}
    assert abs(matrix.mean()) < 0.01
    assert (signs(100, seed=1) == matrix[:100]).all()
    words = np.random.Philox(key=1).random_raw(1)
    assert [int(x) for x in matrix[0, :8]] == [1 if int(words[0]) >> i & 1 else -1 for i in range(8)]


def test_sketch_distance_is_unbiased_over_seeds(rng: np.random.Generator) -> None:
    z = rng.normal(0, 3, (3, 400)).astype(np.float32)
    y = z + rng.normal(0, 0.1, z.shape).astype(np.float32) + np.float32(5)
    exact = (((z - z.mean(1, keepdims=True)) - (y - y.mean(1, keepdims=True))) ** 2).sum(axis=1)
    estimates = []
    for seed in range(200):
        matrix = signs(400, seed=seed)
        estimates.append(squared_distance(sketch(z, matrix), sketch(y, matrix)))
    spread = np.std(estimates, axis=0)
    assert (np.abs(np.mean(estimates, axis=0) - exact) < 4 * spread / math.sqrt(200)).all()
    assert (spread / exact < math.sqrt(2 / 32) * 1.3).all()


def test_bootstrap_of_a_constant_and_its_p_values() -> None:
    same = bounds.bootstrap_mean(np.full(10, 0.5), seed=1, num_draws=999)
    assert same.estimate == same.upper(0.99) == same.lower(0.99) == 0.5
    assert same.p_not_below(0.6) == same.p_not_above(0.4) == 1 / 1000
    assert same.p_not_below(0.4) == 1.0


def test_bootstrap_bound_covers_as_promised(rng: np.random.Generator) -> None:
    covered = 0
    for trial in range(400):
        covered += bounds.bootstrap_mean(rng.normal(0, 1, 25), seed=trial, num_draws=399).upper(0.95) >= 0
    assert stats.binomtest(covered, 400, 0.95).pvalue > 1e-3


def test_bootstrap_agrees_with_the_normal_bound(rng: np.random.Generator) -> None:
    values = rng.normal(3, 2, 400)
    expected = values.mean() + stats.norm.ppf(0.99) * values.std(ddof=1) / 20
    assert bounds.bootstrap_mean(values, seed=3).upper(0.99) == pytest.approx(expected, abs=0.02)


def test_bootstrap_ratio() -> None:
    below = np.arange(1, 21, dtype=float)
    exact = bounds.bootstrap_ratio(2 * below, below, seed=1, num_draws=99)
    assert exact.estimate == 2
    np.testing.assert_allclose(exact.draws, 2)
    assert bounds.bootstrap_ratio(below, np.zeros(20), seed=1, num_draws=99).estimate == math.inf


def test_bootstrap_quantile(rng: np.random.Generator) -> None:
    values, owners = rng.random(6000), np.repeat(np.arange(60), 100)
    seen = bounds.bootstrap_quantile(values, owners, 0.9, seed=1)
    assert seen.estimate == np.quantile(values, 0.9, method="inverted_cdf")
    assert seen.lower(0.99) < 0.9 < seen.upper(0.99)
    assert seen.upper(0.99) - seen.lower(0.99) < 0.05
    one_bad = np.where(owners == 3, 1.0, 0.0)
    assert bounds.bootstrap_quantile(one_bad, owners, 0.9, seed=1).upper(0.99) == 0.0
    assert bounds.bootstrap_quantile(one_bad, owners, 0.99, seed=1).upper(0.99) == 1.0


def test_clopper_pearson_published_values() -> None:
    assert bounds.rate_upper(0, 20, 0.95) == pytest.approx(1 - 0.05 ** (1 / 20), rel=1e-9)
    assert bounds.rate_lower(1, 10, 0.975) == pytest.approx(0.0025, abs=5e-5)
    assert bounds.rate_upper(1, 10, 0.975) == pytest.approx(0.4450, abs=5e-5)
    for failures in range(12):
        interval = stats.binomtest(failures, 12).proportion_ci(0.98, method="exact")
        assert bounds.rate_lower(failures, 12, 0.99) == pytest.approx(interval.low, abs=1e-12)
        assert bounds.rate_upper(failures, 12, 0.99) == pytest.approx(interval.high, abs=1e-12)
    assert bounds.rate_upper(5, 5, 0.9) == 1.0


def test_the_largest_of_59_bounds_the_95_percent_quantile() -> None:
    """59 is the classic sample size of the one-sided 95/95 tolerance bound."""
    values = np.arange(59, dtype=float)
    assert bounds.quantile_upper(values, 0.95, 0.95) == 58
    assert bounds.quantile_upper(values[:58], 0.95, 0.95) == math.inf


def test_quantile_bounds_cover_as_promised(rng: np.random.Generator) -> None:
    draws = rng.normal(size=(2000, 120))
    truth = stats.norm.ppf(0.9)
    above = sum(bounds.quantile_upper(row, 0.9, 0.95) >= truth for row in draws)
    assert above >= 0.95 * 2000 - 3 * math.sqrt(2000 * 0.05 * 0.95)


def test_prompts_needed() -> None:
    assert bounds.prompts_needed(0.2, 0.1, 10) == 40
    assert bounds.prompts_needed(0.2, 0.0, 10) is None


def test_holm_textbook_example() -> None:
    p = {"H1": 0.01, "H2": 0.04, "H3": 0.03, "H4": 0.005}
    assert decisions.holm(p, 0.05) == {"H1", "H4"}
    assert decisions.holm(p, 0.02) == {"H4"}
    assert decisions.holm({}, 0.05) == frozenset()


def test_holm_keeps_the_family_wise_error(rng: np.random.Generator) -> None:
    wrong = sum(bool(decisions.holm(dict(enumerate_names(rng.random(10))), 0.05)) for _ in range(2000))
    assert wrong / 2000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def enumerate_names(values: np.ndarray) -> list[tuple[str, float]]:
    return [(str(i), float(v)) for i, v in enumerate(values)]


def test_mcnemar_exact() -> None:
    assert decisions.mcnemar(0, 0) == 1.0
    assert decisions.mcnemar(0, 5) == pytest.approx(2 / 32)
    assert decisions.mcnemar(10, 10) == 1.0


def test_paired_difference_solves_its_score_equation_and_mirrors() -> None:
    lower, upper = decisions.paired_difference(3, 9, 60, 0.95)
    assert decisions._tango(3, 9, 60, lower) == pytest.approx(1.6449, abs=1e-3)
    assert decisions._tango(3, 9, 60, upper) == pytest.approx(-1.6449, abs=1e-3)
    assert lower < 6 / 60 < upper
    mirrored = decisions.paired_difference(9, 3, 60, 0.95)
    assert mirrored == pytest.approx((-upper, -lower))
    large = decisions.paired_difference(300, 900, 6000, 0.95)
    wald = 1.6449 * math.sqrt((1200 / 6000 - 0.1**2) / 6000)
    assert large == pytest.approx((0.1 - wald, 0.1 + wald), abs=1e-3)


def test_without_disagreement_the_score_interval_is_closed_form() -> None:
    """With no discordant pair the score equation is n d / (1 - d) = z^2, so d = z^2 / (n + z^2)."""
    z = stats.norm.ppf(0.95)
    assert decisions.paired_difference(0, 0, 50, 0.95)[1] == pytest.approx(z**2 / (50 + z**2), rel=1e-6)


@pytest.mark.parametrize(("only_a", "only_b"), [(200, 0), (0, 200)])
def test_paired_difference_at_the_edges(only_a: int, only_b: int) -> None:
    lower, upper = decisions.paired_difference(only_a, only_b, 200, 0.95)
    assert -1 <= lower <= (only_b - only_a) / 200 <= upper <= 1


def test_ranks_are_uniform_for_the_same_model_and_not_for_another(rng: np.random.Generator) -> None:
    z = rng.normal(0, 2, (500, 100))
    p = special.softmax(z, axis=1)
    drawn = np.array([rng.choice(100, p=row) for row in p])
    assert samples.uniformity(samples.uniform_ranks(top_of(z, 16), drawn, seed=1)) > 0.01
    sharper = np.array([rng.choice(100, p=row) for row in special.softmax(1.6 * z, axis=1)])
    assert samples.uniformity(samples.uniform_ranks(top_of(z, 16), sharper, seed=1)) < 1e-4


def test_ranks_hold_their_level(rng: np.random.Generator) -> None:
    z = rng.normal(0, 2, (40, 30))
    cumulative = special.softmax(z, axis=1).cumsum(axis=1)
    top, rejected = top_of(z, 5), 0
    for trial in range(400):
        drawn = (rng.random((40, 1)) > cumulative).sum(axis=1)
        rejected += samples.uniformity(samples.uniform_ranks(top, np.minimum(drawn, 29), seed=trial)) < 0.05
    assert stats.binomtest(rejected, 400, 0.05).pvalue > 1e-3


def draw(rng: np.random.Generator, p: np.ndarray, n: int, length: int = 6) -> np.ndarray:
    return np.stack([rng.choice(len(row), p=row, size=(n, length)) for row in p])


def test_discrepancy_by_hand() -> None:
    a = np.array([[[1], [1]]])
    b = np.array([[[2], [2]]])
    value, _ = samples.discrepancy(a, b, seed=0, num_permutations=9)
    assert value == 2.0
    mixed = np.array([[[1], [2]]])
    assert samples.discrepancy(mixed, mixed, seed=0, num_permutations=9)[0] == pytest.approx(-1.0)


def test_discrepancy_holds_its_level_and_has_power(rng: np.random.Generator) -> None:
    p = special.softmax(rng.normal(0, 2, (6, 12)), axis=1)
    rejected = sum(
        samples.discrepancy(draw(rng, p, 6), draw(rng, p, 6), seed=t, num_permutations=99)[1] <= 0.05 for t in range(150)
    )
    assert stats.binomtest(rejected, 150, 0.05).pvalue > 1e-3
    other = special.softmax(rng.normal(0, 2, (6, 12)), axis=1)
    assert samples.discrepancy(draw(rng, p, 10), draw(rng, other, 10), seed=1)[1] == 0.001


def test_margin_score_clips() -> None:
    assert samples.margin_score(np.array([0.0, 1.0, 100.0]), clip=5) == 2.0
    assert samples.margin_score(np.zeros(0)) == 0.0
