"""Levels 0 to 2: the same files, the same tokens, the same bits."""

from __future__ import annotations

from collections.abc import Mapping

from ..gates import Measurement
from ..record import Exact
from .evidence import MAX_EVENTS, Evidence

_OP = "op "


def identity(evidence: Evidence) -> list[Measurement]:
    """Level 0: what the sides say they are."""
    a, b = evidence.a.identity, evidence.b.identity
    events, compared = list[str](), list[str]()
    for name in ("architecture", "weights", "config", "tokenizer", "template"):
        one, two = getattr(a, name), getattr(b, name)
        if one is not None and two is not None:
            compared.append(name)
            if one != two:
                events.append(f"{name} differ{_tensor_names(a.tensors, b.tensors) if name == 'weights' else 's'}")
    if a.sampling is not None and b.sampling is not None:
        compared.append("sampling defaults")
        events += [
            f"sampling default {key} is {a.sampling.get(key)} and {b.sampling.get(key)}"
            for key in sorted({*a.sampling, *b.sampling})
            if a.sampling.get(key) != b.sampling.get(key)
        ]
    why = "a side says too little of itself"
    text = f"compared: {', '.join(compared)}"
    return [Measurement("identity", len(compared), why, events=tuple(events), identical=not events, text=text)]


def _tensor_names(a: Mapping[str, str], b: Mapping[str, str]) -> str:
    changed = sorted(name for name in {*a, *b} if a.get(name) != b.get(name))
    if not changed or not (a and b):
        return ""
    return f" in {len(changed)} tensors, such as {changed[0]}"


def tokens(evidence: Evidence) -> list[Measurement]:
    """Level 1: the prompts as token ids, or at least their number."""
    events, covered = list[str](), 0
    by_count = 0
    for result in evidence.results:
        one, two = result.counts
        if result.tokens_equal is not None:
            covered += 1
            if not result.tokens_equal:
                events.append(f"{result.id}: other token ids ({one} and {two})")
        elif one is not None and two is not None:
            covered, by_count = covered + 1, by_count + 1
            if one != two:
                events.append(f"{result.id}: {one} and {two} prompt tokens")
    text = f"{by_count} of {covered} by their number only" if by_count else ""
    why = "a side shows neither token ids nor their number"
    return [Measurement("tokens", covered, why, events=tuple(events[:MAX_EVENTS]), identical=not events, text=text)]


def exact(evidence: Evidence) -> list[Measurement]:
    """Level 2: the integer-valued probes."""
    one, two = evidence.a.exact(), evidence.b.exact()
    if one is None or two is None:
        return [Measurement("exact", 0, "a side cannot run the probes")]
    shared = [name for name in sorted({*one} & {*two}) if one[name].right == two[name].right]
    changed = [name for name in shared if one[name].found != two[name].found]
    events = tuple(f"{name} has other bits{_whose(one[name], two[name])}" for name in changed)
    both_wrong = [name for name in shared if one[name].found == two[name].found != one[name].right]
    others = sorted({*one} ^ {*two}) + [name for name in sorted({*one} & {*two}) if name not in shared]
    checkpoints = dict.fromkeys(name.partition("/")[0] for name in shared if not name.startswith(_OP))
    text = f"{sum(name.startswith(_OP) for name in shared)} ops one by one; checkpoints of {', '.join(checkpoints) or 'none'}"
    text += f"; equal on both sides and yet not exact: {', '.join(both_wrong)}" if both_wrong else ""
    text += f"; not the same probe on both sides: {', '.join(others)}" if others else ""
    return [Measurement("exact", len(shared), "no probe in common", events=events, identical=not events, text=text)]


def _whose(one: Exact, two: Exact) -> str:
    if one.found == one.right:
        return ": A computed exactly, B did not"
    return ": B computed exactly, A did not" if two.found == two.right else ": neither computed exactly"
