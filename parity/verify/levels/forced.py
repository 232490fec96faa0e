"""Levels 3 and 4: distributions along given tokens, in float32 and in the precision that serves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..comparison import Forced, PromptResult, flat
from ..gates import Measurement
from ..packs import Pack
from ..record import Int32s
from ..statistics.bounds import bootstrap_mean, bootstrap_quantile, bootstrap_ratio
from .evidence import Evidence, explain


def implementation(evidence: Evidence) -> list[Measurement]:
    """Level 3: both sides in float32, on every path: as they serve, or as they were captured beside that."""
    names = ("float32_kl", "float32_worst", "float32_paths")
    seen = [(r.id, r.float32) for r in evidence.results if r.float32 is not None and r.float32.worst_path_kl is not None]
    if not seen:
        why = f"needs float32 on both sides; they show {_dtype(evidence.a)} and {_dtype(evidence.b)}"
        return [Measurement(name, 0, why) for name in names]
    forced = [both for _, both in seen]
    means = np.array([both.worst_path_kl for both in forced], np.float64)
    identical = all(both.identical for both in forced)
    place, worst = _worst([(prompt, path, both.at[path], kl) for prompt, both in seen for path, kl in both.kl.items()])
    inner = [(prompt, path, None, kl) for prompt, both in seen for path, kl in both.within_b.items()]
    inner_place, inner_worst = _worst(inner)
    bits = f"; centred logits {_distance(forced)} apart" if _distance(forced) else ""
    mean = Measurement(
        "float32_kl",
        len(means),
        statistic=bootstrap_mean(means, seed=evidence.seed) if len(means) > 1 else None,
        value=float(means.max()),
        identical=identical,
        text=f"paths: {', '.join(_paths(forced))}{bits}",
    )
    return [
        mean if len(means) > 1 else Measurement("float32_kl", 0, "needs at least two prompts"),
        Measurement("float32_worst", len(means), value=worst, identical=identical, text=place),
        Measurement(
            "float32_paths",
            len({prompt for prompt, *_ in inner}),
            "B shows one path only",
            value=inner_worst,
            identical=inner_worst == 0,
            text=inner_place,
        ),
    ]


def production(evidence: Evidence) -> list[Measurement]:
    """Level 4: whatever precision the sides serve in."""
    results = _with_distributions(evidence)
    found = [_ratio(evidence)]
    if len(results) < 2:
        why = "no distributions to compare" if not results else "needs at least two prompts"
        return [*found, *(Measurement(name, 0, why) for name in ("kl", "kl_tail", "flips")), _own_paths(evidence)]
    means = np.array([result.worst_path_kl for result in results], np.float64)
    identical = all(result.identical for result in results)
    values, owners = flat(list(results))
    changes = [flip for result in results for flip in result.flips]
    explained = explain(evidence, changes)
    return [
        *found,
        Measurement(
            "kl",
            len(means),
            statistic=bootstrap_mean(means, seed=evidence.seed),
            identical=identical,
            text=f"{len(values)} positions; paths: {', '.join(_paths(results))}",
        ),
        Measurement(
            "kl_tail",
            len(means),
            statistic=bootstrap_quantile(values, owners, 0.99, seed=evidence.seed),
            identical=identical,
        ),
        Measurement(
            "flips",
            len(means),
            events=explained.events,
            near_ties=explained.near_ties,
            rounded=explained.rounded,
            excused=explained.excused,
            identical=identical and not changes,
            text=_bands(evidence),
        ),
        _own_paths(evidence),
    ]


def _bands(evidence: Evidence) -> str:
    text = f"near-tie up to {evidence.noise_band:.2g} nats"
    return text + (f", A's rounding up to {evidence.rounding_band:.2g}" if evidence.rounding_band else "")


def _own_paths(evidence: Evidence) -> Measurement:
    worst = [
        max(float(kl.mean()) for kl in result.within_b.values() if len(kl))
        for result in evidence.results
        if any(len(kl) for kl in result.within_b.values())
    ]
    if len(worst) < 2:
        return Measurement("paths", 0, "B shows one path only")
    statistic = bootstrap_mean(np.array(worst), seed=evidence.seed)
    return Measurement("paths", len(worst), statistic=statistic, identical=max(worst) == 0)


def _ratio(evidence: Evidence) -> Measurement:
    pairs = [result.oracle for result in evidence.results if result.oracle is not None]
    if len(pairs) < 2:
        return Measurement("ratio", 0, "no oracle: neither A in float32 nor a third side of the same model")
    ra, rb = np.array(pairs).T
    if ra.mean() < 1e-9:
        return Measurement("ratio", 0, "A is as exact as the oracle, so there is nothing to compare B's distance with")
    who = "A in float32" if evidence.oracle is None else evidence.oracle.identity.side
    text = f"mean KL from {who}: A {ra.mean():.3g}, B {rb.mean():.3g}"
    return Measurement("ratio", len(pairs), statistic=bootstrap_ratio(rb, ra, seed=evidence.seed), text=text)


def _worst(places: Sequence[tuple[str, str, Int32s | None, np.ndarray]]) -> tuple[str, float]:
    best, text = 0.0, ""
    for prompt, path, at, values in places:
        if len(values) and float(values.max()) >= best:
            index = int(values.argmax())
            best = float(values[index])
            text = f"largest in {prompt}, {path}, position {index if at is None else int(at[index])}"
    return text, best


def _with_distributions(evidence: Evidence) -> list[PromptResult]:
    return [result for result in evidence.results if result.worst_path_kl is not None]


def _paths(results: Sequence[PromptResult | Forced]) -> list[str]:
    return list(dict.fromkeys(path for result in results for path in result.kl))


def _distance(results: Sequence[Forced]) -> str:
    values = [result.distance for result in results if result.distance is not None]
    return f"{float(np.sqrt(np.mean(values))):.3g}" if values else ""


def _dtype(pack: Pack) -> str:
    return pack.identity.dtype or "an unknown precision"
