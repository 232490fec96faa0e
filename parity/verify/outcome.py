"""Two packs judged level by level, up to the first that fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import UsageError
from .comparison import PromptResult, compare
from .gates import Finding, Measurement, Rules, decide
from .levels import Evidence, measure
from .packs import Pack
from .suites import Suite
from .verdict import Verdict, judge


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A finished verification. `levels` are those that were judged; `seconds` by what was done."""

    verdict: Verdict
    findings: Sequence[Finding]
    results: Sequence[PromptResult]
    evidence: Evidence
    suite: Suite | None
    levels: tuple[int, ...]
    seconds: Mapping[str, float]


def compare_packs(
    a: Pack,
    b: Pack,
    *,
    suite: Suite | None,
    rules: Rules,
    levels: tuple[int, ...],
    oracle: Pack | None = None,
    keep_going: bool = False,
) -> Outcome:
    """Level by level, up to the first that fails; the drill-down, if wanted, always.

    Raises:
        UsageError: the packs were not made for each other.
    """
    if a.plan.suite_hash != b.plan.suite_hash:
        raise UsageError(f"the packs were made with different suites ({a.plan.suite} and {b.plan.suite}): capture one again")
    if a.plan.seed != b.plan.seed or a.plan.sketch_size != b.plan.sketch_size:
        raise UsageError("the packs were made with different seeds or sketch sizes: capture one again")
    items = {item.id: item for item in suite.items} if suite is not None else {}
    results = list(compare(a, b, oracle))
    evidence = Evidence(a, b, results, rules, items, oracle)
    seen: list[Measurement] = []
    judged: list[int] = []
    for level in sorted(set(levels) - {7}):
        seen += measure(evidence, level)
        judged.append(level)
        if not keep_going and any(f.outcome == "fail" and f.level == level for f in decide(seen, rules)):
            break
    if 7 in levels:
        seen += measure(evidence, 7)
        judged.append(7)
    findings = decide(seen, rules)
    return Outcome(judge(findings), findings, results, evidence, suite, tuple(judged), {})
