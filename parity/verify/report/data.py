"""The report as plain values. Everything on the page comes from here, and nothing else does."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from ..comparison import PromptResult
from ..gates import Finding, as_json
from ..levels import LEVELS
from ..outcome import Outcome
from ..packs import Pack
from ..record import PATHS, Answer
from ..statistics.divergence import Float64s

FORMAT = 1
_MAX_PROMPTS = 2000
_MAX_FORKS = 40
_DECADES = range(-14, 2)


def report_data(outcome: Outcome, command: str) -> dict[str, Any]:
    """All of a report, as JSON can hold it.

    Args:
        outcome: what was found.
        command: what reproduces it; holds no key.
    """
    evidence = outcome.evidence
    return {
        "format": FORMAT,
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "verdict": msgspec.to_builtins(outcome.verdict) | {"exit_code": outcome.verdict.exit_code},
        "sides": {"a": _side(evidence.a), "b": _side(evidence.b), "oracle": evidence.oracle and _side(evidence.oracle)},
        "levels": [_level(level, outcome) for level in LEVELS],
        "findings": [_finding(finding) for finding in outcome.findings],
        "bands": {name: _number(getattr(evidence, f"{name}_band")) for name in ("noise", "rounding", "precision")},
        "histogram": _histogram(outcome.results),
        "positions": _by_position(outcome.results),
        "layers": _layers(evidence.a, evidence.b),
        "prompts": [_prompt(result) for result in outcome.results[:_MAX_PROMPTS]],
        "forks": _forks(outcome.results),
        "tools": _tools(outcome.results),
        "coverage": _coverage(outcome.results),
        "cost": {"seconds": {name: round(value, 2) for name, value in outcome.seconds.items()}},
        "plan": msgspec.to_builtins(evidence.a.plan),
        "suite": None if outcome.suite is None else {"name": outcome.suite.name, "licence": outcome.suite.licence},
        "rules": as_json(evidence.rules),
        "command": command,
    }


def _side(pack: Pack) -> dict[str, Any]:
    identity = msgspec.to_builtins(pack.identity)
    identity["tensors"] = len(pack.identity.tensors)
    return {
        "identity": identity,
        "pack": pack.hash,
        "signed_by": pack.signed_by,
        "made_by": pack.summary.made_by,
        "unreached": dict(pack.summary.unreached),
    }


def _level(level: int, outcome: Outcome) -> dict[str, Any]:
    found = [finding for finding in outcome.findings if finding.level == level]
    return {"level": level, "name": LEVELS[level], "outcome": _outcome(level, outcome, found)}


def _outcome(level: int, outcome: Outcome, found: Sequence[Finding]) -> str:
    if level not in outcome.levels:
        return "not run"
    outcomes = {finding.outcome for finding in found}
    for word in ("fail", "inconclusive", "precision", "pass", "identical"):
        if word in outcomes:
            return word
    return "uncovered"


def _finding(finding: Finding) -> dict[str, Any]:
    plain = msgspec.to_builtins(finding)
    return {key: _number(value) if isinstance(value, float) else value for key, value in plain.items() if key != "p_values"} | {
        "p_values": {key: _number(value) for key, value in finding.p_values.items()}
    }


def _number(value: float | None) -> float | None:
    """JSON has no infinity: what has no bound is null."""
    return None if value is None or not math.isfinite(value) else float(value)


def _histogram(results: Sequence[PromptResult]) -> dict[str, Any]:
    """Positions by the decade of their KL: A against B, as they serve and in float32 where that is another thing, and each
    side against itself."""
    exact = [r.float32 for r in results if r.float32 is not None and any(v is not r.kl.get(k) for k, v in r.float32.kl.items())]
    series = {
        "A and B as they serve": [kl for result in results for kl in result.kl.values()],
        "A and B in float32": [kl for forced in exact for kl in forced.kl.values()],
        "A on its other paths": [kl for result in results for kl in result.within_a.values()],
        "B on its other paths": [kl for result in results for kl in result.within_b.values()],
    }
    return {"decades": list(_DECADES), "series": {name: _counts(parts) for name, parts in series.items()}}


def _counts(parts: Sequence[Float64s]) -> list[int]:
    values = np.concatenate([np.zeros(0), *parts])
    exponents = np.floor(np.log10(np.maximum(values, 10.0 ** _DECADES[0])))
    clipped = np.clip(exponents, _DECADES[0], _DECADES[-1]).astype(int)
    return [int((clipped == decade).sum()) for decade in _DECADES]


def _by_position(results: Sequence[PromptResult]) -> list[dict[str, Any]]:
    """Mean and largest KL over all prompts by position, in bands that double."""
    pairs = [(at, kl) for result in results for path, kl in result.kl.items() if len(at := result.at[path])]
    if not pairs:
        return []
    at, kl = np.concatenate([a for a, _ in pairs]), np.concatenate([k for _, k in pairs])
    rows: list[dict[str, Any]] = []
    first = 0
    while first <= int(at.max()):
        last = max(first + 1, first * 2) if first >= 8 else first + 2
        chosen = kl[(at >= first) & (at < last)]
        if len(chosen):
            rows.append({"first": first, "last": last - 1, "mean": float(chosen.mean()), "most": float(chosen.max())})
        first = last
    return rows


def _layers(a: Pack, b: Pack) -> dict[str, Any]:
    isolated = b.isolated()
    if isolated is None or isolated.reference != a.layers_hash():
        return {"sites": []}
    return {"sites": [{"layer": layer, "site": site, "error": _number(error)} for layer, site, error in isolated.sites]}


def _prompt(result: PromptResult) -> dict[str, Any]:
    return {
        "id": result.id,
        "tokens": list(result.counts),
        "same_tokens": result.tokens_equal,
        "kl": {path: _number(float(kl.mean())) for path, kl in result.kl.items() if len(kl)},
        "worst": {path: _number(float(kl.max())) for path, kl in result.kl.items() if len(kl)},
        "flips": len(result.flips),
        "same_answer": result.equal_answers,
        "identical": result.identical,
    }


def _forks(results: Sequence[PromptResult]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for result in results:
        one, two = result.answers
        if result.equal_answers is False and one is not None and two is not None and len(rows) < _MAX_FORKS:
            place = None if result.fork is None else result.fork.position
            margin = None if result.fork is None else _number(result.fork.margin)
            rows.append({"id": result.id, "position": place, "margin": margin, "a": _said(one), "b": _said(two)})
    return rows


def _said(answer: Answer) -> str:
    calls = "".join(f" [{name} {arguments}]" for name, arguments in answer.tool_calls)
    return (answer.error or answer.text + calls)[:600]


def _tools(results: Sequence[PromptResult]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for result in results:
        one, two = result.answers
        if one is not None and two is not None and (one.tool_calls or two.tool_calls):
            rows.append({"id": result.id, "a": [list(c) for c in one.tool_calls], "b": [list(c) for c in two.tool_calls]})
    return rows[:_MAX_FORKS]


def _coverage(results: Sequence[PromptResult]) -> dict[str, dict[str, int]]:
    """By path, how many prompts and positions were compared."""
    paths = (*PATHS, "answer")
    return {
        path: {
            "prompts": sum(path in result.kl for result in results),
            "positions": sum(len(result.kl[path]) for result in results if path in result.kl),
        }
        for path in paths
    }
