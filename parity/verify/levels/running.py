"""Level 5: what the sides say when they run freely, greedy or sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..comparison import PromptResult
from ..gates import Measurement
from ..record import Answer, Int32s
from ..statistics.bounds import bootstrap_mean, bootstrap_ratio
from ..statistics.divergence import Top
from ..statistics.samples import discrepancy, margin_score, uniform_ranks, uniformity
from .evidence import MAX_EVENTS, Evidence, both_answers, explain


def free_running(evidence: Evidence) -> list[Measurement]:
    """Level 5: greedy answers, and samples where there are any."""
    results = [result for result in evidence.results if result.equal_answers is not None]
    names = ("forks", "lengths", "degenerate", "margin_score")
    if not results:
        return [*(Measurement(name, 0, "no greedy answers on both sides") for name in names), *_sampled(evidence)]
    texts_only = [r for r in results if r.equal_answers is False and r.fork is None]
    changes = [result.fork for result in results if result.fork is not None]
    explained = explain(evidence, changes)
    equal = sum(result.equal_answers is True for result in results)
    forks = Measurement(
        "forks",
        len(results) if not texts_only else 0,
        f"{len(texts_only)} answers differ as texts, and without token ids a near-tie cannot be told from a fault",
        events=explained.events,
        near_ties=explained.near_ties,
        rounded=explained.rounded,
        excused=explained.excused,
        identical=equal == len(results),
        text=f"{equal} of {len(results)} answers equal",
    )
    pairs = [(result, *both_answers(result)) for result in results]
    lengths = np.array([(_length(one), _length(two)) for _, one, two in pairs], np.float64)
    repeated = tuple(
        f"{result.id}: {two.text[-60:]!r}" for result, one, two in pairs if _repeats(two.text) and not _repeats(one.text)
    )
    ratio = None
    if len(lengths) > 1 and lengths[:, 0].sum() > 0:
        ratio = bootstrap_ratio(lengths[:, 1], np.maximum(lengths[:, 0], 1e-9), seed=evidence.seed)
    return [
        forks,
        Measurement("lengths", len(lengths) if ratio else 0, "too few answers", ratio, identical=equal == len(results)),
        Measurement("degenerate", len(results), events=repeated[:MAX_EVENTS], identical=equal == len(results)),
        _margin_scores(evidence, results),
        *_sampled(evidence),
    ]


def _margin_scores(evidence: Evidence, results: Sequence[PromptResult]) -> Measurement:
    """Each prompt's margin at its fork, spread over the tokens that agreed: 0 where there is none."""
    scores = []
    for result in results:
        if result.fork is None and result.equal_answers:
            scores.append(0.0)
        elif result.fork is not None and result.fork.margin is not None:
            scores.append(margin_score(np.array([result.fork.margin])) / (result.fork.position + 1))
    if len(scores) < 2:
        return Measurement("margin_score", 0, "A shows no log-probabilities along its answers")
    identical = all(result.equal_answers for result in results)
    statistic = bootstrap_mean(np.array(scores), seed=evidence.seed)
    return Measurement("margin_score", len(scores), statistic=statistic, identical=identical)


def _sampled(evidence: Evidence) -> list[Measurement]:
    firsts = [(r.first, r.samples[1]) for r in evidence.results if r.first is not None and r.samples[1] is not None]
    ranks = Measurement("ranks", 0, "B was not sampled, or A shows no distribution")
    if firsts:
        a = Top(*(np.concatenate([getattr(top, name) for top, _ in firsts]) for name in ("ids", "logprobs", "log_tail")))
        a = Top(a.ids, a.logprobs, np.where(np.isfinite(a.log_tail), a.log_tail, -745.0))
        drawn = np.array([tokens[0, 0] for _, tokens in firsts])
        p = uniformity(uniform_ranks(a, drawn, seed=evidence.seed)) if len(drawn) > 1 else None
        ranks = Measurement("ranks", len(drawn), value=p)
    pairs = [r.samples for r in evidence.results if r.samples[0] is not None and r.samples[1] is not None]
    if not pairs or min(len(s) for pair in pairs for s in pair if s is not None) < 2:
        return [ranks, Measurement("samples", 0, "needs two sampled answers a prompt on both sides")]
    one, two = (_stacked([pair[side] for pair in pairs]) for side in (0, 1))
    value, p_value = discrepancy(one, two, seed=evidence.seed)
    text = f"discrepancy {value:.3g}; sees gross changes only"
    return [ranks, Measurement("samples", len(pairs), value=p_value, text=text)]


def _stacked(samples: Sequence[Int32s | None]) -> Int32s:
    arrays = [array for array in samples if array is not None]
    count, length = min(len(array) for array in arrays), max(array.shape[1] for array in arrays)
    padded = [np.pad(x[:count], ((0, 0), (0, length - x.shape[1])), constant_values=-1) for x in arrays]
    return np.stack(padded).astype(np.int32)


def _length(answer: Answer) -> float:
    return float(len(answer.tokens) if answer.tokens is not None else answer.num_tokens or len(answer.text))


def _repeats(text: str, *, times: int = 6) -> bool:
    """Whether a text ends in one piece said over and over."""
    return any(len(text) >= n * times and text.endswith(text[-n:] * times) and text[-n:].strip() for n in range(1, 65))
