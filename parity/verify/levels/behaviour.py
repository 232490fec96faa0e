"""Level 6: tools, stop reasons and right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..comparison import PromptResult
from ..gates import Measurement
from ..record import Answer
from ..statistics.bounds import bootstrap_mean
from ..statistics.decisions import mcnemar, paired_difference
from .evidence import MAX_EVENTS, Evidence, Excuse, both_answers, excuse
from .tool_schema import fault


def behaviour(evidence: Evidence) -> list[Measurement]:
    """Level 6: what an agent or a benchmark would notice."""
    results = [result for result in evidence.results if result.equal_answers is not None]
    excuses = {r.id: why for r in results if r.fork is not None and (why := excuse(evidence, r.fork)) is not None}
    return [*_tool_calls(evidence, results, excuses), _stops(results, excuses), _task(evidence, results)]


def _tool_calls(evidence: Evidence, results: Sequence[PromptResult], excuses: Mapping[str, Excuse]) -> list[Measurement]:
    """Whether both sides call tools for the same prompts, and as their schemas say."""
    with_tools = [r for r in results if r.id in evidence.items and evidence.items[r.id].tools]
    triggers, schemas, invalid_a, excused = list[str](), list[str](), 0, list[Excuse]()
    called_a = called_b = called_both = 0
    for result in with_tools:
        one, two = both_answers(result)
        tools = {tool.name: tool.parameters for tool in evidence.items[result.id].tools}
        a, b = bool(one.tool_calls), bool(two.tool_calls)
        called_a, called_b, called_both = called_a + a, called_b + b, called_both + (a and b)
        if a != b and result.id in excuses:
            excused.append(excuses[result.id])
        elif a != b:
            triggers.append(f"{result.id}: {'only A' if a else 'only B'} called a tool")
        bad_a, bad_b = _bad_call(one, tools), _bad_call(two, tools)
        invalid_a += bad_a is not None
        if bad_b and not bad_a:
            schemas.append(f"{result.id}: {bad_b}")
    f1 = 2 * called_both / (called_a + called_b) if called_a + called_b else 1.0
    why = "no answers with tools on both sides, or the suite is not at hand"
    same = all(result.equal_answers for result in with_tools)
    return [
        Measurement(
            "calls",
            len(with_tools),
            why,
            events=tuple(triggers),
            near_ties=excused.count("noise"),
            rounded=excused.count("rounding"),
            excused=excused.count("precision"),
            identical=same,
            text=f"F1 {f1:.3f}",
        ),
        Measurement(
            "schemas",
            len(with_tools),
            why,
            events=tuple(schemas),
            identical=same,
            text=f"{invalid_a} of A's calls break theirs",
        ),
    ]


def _stops(results: Sequence[PromptResult], excuses: Mapping[str, Excuse]) -> Measurement:
    changed = [(r.id, *both_answers(r)) for r in results if both_answers(r)[0].finish != both_answers(r)[1].finish]
    events = tuple(f"{name}: {one.finish} and {two.finish}" for name, one, two in changed if name not in excuses)
    excused = [excuses[name] for name, *_ in changed if name in excuses]
    return Measurement(
        "stops",
        len(results),
        "no answers",
        events=events[:MAX_EVENTS],
        near_ties=excused.count("noise"),
        rounded=excused.count("rounding"),
        excused=excused.count("precision"),
        identical=not changed,
    )


def _task(evidence: Evidence, results: Sequence[PromptResult]) -> Measurement:
    only_a = only_b = trials = right = 0
    for result in results:
        check = evidence.items[result.id].check if result.id in evidence.items else None
        if check is not None:
            one, two = (check.passes(answer.text) for answer in both_answers(result))
            trials, right = trials + 1, right + one
            only_a, only_b = only_a + (one and not two), only_b + (two and not one)
    if trials < 2:
        return Measurement("task", 0, "the suite has no answers to check, or is not at hand")
    lower, upper = paired_difference(only_a, only_b, trials, 1 - evidence.rules.family_error)
    values = np.zeros(trials)
    values[:only_a], values[only_a : only_a + only_b] = -1, 1
    text = (
        f"A right in {right} of {trials}; B minus A between {100 * lower:+.1f} and {100 * upper:+.1f} points; "
        f"McNemar p = {mcnemar(only_a, only_b):.2g}"
    )
    return Measurement("task", trials, statistic=bootstrap_mean(values, seed=evidence.seed), text=text)


def _bad_call(answer: Answer, tools: Mapping[str, Mapping[str, object]]) -> str | None:
    for name, arguments in answer.tool_calls:
        if name not in tools:
            return f"calls {name!r}, which was not offered"
        wrong = fault(arguments, tools[name])
        if wrong:
            return wrong
    return None
