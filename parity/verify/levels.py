"""The levels 0 to 7: what is measured at each. Thresholds are in `gates.json`; outcomes are decided in `gates.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import probes
from .compare import Change, PromptResult, flat
from .drill import layer_measurements
from .gates import Measurement, Rules
from .pack import Pack
from .record import Answer, Int32s
from .schema import fault
from .statistics.bounds import bootstrap_mean, bootstrap_quantile, bootstrap_ratio, quantile_upper
from .statistics.decisions import mcnemar, paired_difference
from .statistics.divergence import Top
from .statistics.samples import discrepancy, margin_score, uniform_ranks, uniformity
from .suites import Item

LEVELS: Mapping[int, str] = {
    0: "identity",
    1: "tokens",
    2: "exact probes",
    3: "implementation",
    4: "production",
    5: "free running",
    6: "behaviour",
    7: "drill-down",
}
_MAX_EVENTS = 50


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the levels may look at. `items` are the suite's, by id, where it is at hand."""

    a: Pack
    b: Pack
    results: Sequence[PromptResult]
    rules: Rules
    items: Mapping[str, Item]
    oracle: Pack | None = None

    @property
    def seed(self) -> int:
        """The seed of all resampling, fixed in A's plan."""
        return self.a.plan.seed

    @property
    def noise_band(self) -> float:
        """The margin up to which A's own noise explains a change: twice the 99.9 % quantile, from A alone."""
        noise = np.concatenate([np.zeros(1), *(result.noise for result in self.results)])
        bound = quantile_upper(noise, 0.999, 0.95)
        quantile = bound if np.isfinite(bound) else float(noise.max())
        return max(2 * quantile, self.rules.band("float32"))

    @property
    def precision_band(self) -> float:
        """The margin up to which the coarser of the two number formats explains a change."""
        return max(self.rules.band(self.a.identity.dtype), self.rules.band(self.b.identity.dtype))

    @property
    def both_float32(self) -> bool:
        """Whether both sides say that they compute in float32."""
        return self.a.identity.dtype == self.b.identity.dtype == "float32"


def measure(evidence: Evidence, level: int) -> list[Measurement]:
    """The measurements of one level."""
    return _LEVELS[level](evidence)


def _identity(evidence: Evidence) -> list[Measurement]:
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


def _tokens(evidence: Evidence) -> list[Measurement]:
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
    return [Measurement("tokens", covered, why, events=tuple(events[:_MAX_EVENTS]), identical=not events, text=text)]


def _exact(evidence: Evidence) -> list[Measurement]:
    one, two = evidence.a.exact(), evidence.b.exact()
    if one is None or two is None:
        return [Measurement("exact", 0, "a side cannot run the probes")]
    shared = sorted({*one} & {*two})
    right = {name: probes.expected_digest(name.partition("/")[0]) for name in shared}
    changed = [name for name in shared if one[name] != two[name]]
    events = tuple(f"{name} has other bits{_whose(one[name], two[name], right[name])}" for name in changed)
    both_wrong = sum(one[name] == two[name] != right[name] for name in shared)
    text = f"compared: {', '.join(shared)}" + (f"; {both_wrong} equal on both sides and yet not exact" if both_wrong else "")
    return [Measurement("exact", len(shared), "no probe in common", events=events, identical=not events, text=text)]


def _whose(one: str, two: str, right: str) -> str:
    if one == right:
        return ": A computed exactly, B did not"
    return ": B computed exactly, A did not" if two == right else ": neither computed exactly"


def _implementation(evidence: Evidence) -> list[Measurement]:
    names = ("float32_kl", "float32_worst", "float32_paths")
    if not evidence.both_float32:
        why = f"needs float32 on both sides; they compute in {_dtype(evidence.a)} and {_dtype(evidence.b)}"
        return [Measurement(name, 0, why) for name in names]
    results = _with_distributions(evidence)
    if not results:
        return [Measurement(name, 0, "no distribution in common") for name in names]
    means = np.array([result.worst_path_kl for result in results], np.float64)
    identical = all(result.identical for result in results)
    place, worst = _worst([(r.id, path, r.at[path], kl) for r in results for path, kl in r.kl.items()])
    inner = [(r.id, path, None, kl) for r in evidence.results for path, kl in r.within_b.items()]
    inner_place, inner_worst = _worst(inner)
    bits = f"; centred logits {_distance(results)} apart" if _distance(results) else ""
    mean = Measurement(
        "float32_kl",
        len(means),
        statistic=bootstrap_mean(means, seed=evidence.seed) if len(means) > 1 else None,
        value=float(means.max()),
        identical=identical,
        text=f"paths: {', '.join(_paths(results))}{bits}",
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


def _production(evidence: Evidence) -> list[Measurement]:
    results = _with_distributions(evidence)
    found = [_ratio(evidence)]
    if len(results) < 2:
        why = "no distributions to compare" if not results else "needs at least two prompts"
        return [*found, *(Measurement(name, 0, why) for name in ("kl", "kl_tail", "flips")), _own_paths(evidence)]
    means = np.array([result.worst_path_kl for result in results], np.float64)
    identical = all(result.identical for result in results)
    values, owners = flat(list(results))
    changes = [flip for result in results for flip in result.flips]
    events, near, excused = _explain(evidence, changes)
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
            events=events,
            near_ties=near,
            excused=excused,
            identical=identical and not changes,
            text=f"near-tie up to {evidence.noise_band:.2g} nats",
        ),
        _own_paths(evidence),
    ]


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
        return Measurement("ratio", 0, "no oracle: a third side of the same model in float32")
    ra, rb = np.array(pairs).T
    if ra.mean() < 1e-9:
        return Measurement("ratio", 0, "A is as exact as the oracle, so there is nothing to compare B's distance with")
    text = f"mean KL from the oracle: A {ra.mean():.3g}, B {rb.mean():.3g}"
    return Measurement("ratio", len(pairs), statistic=bootstrap_ratio(rb, ra, seed=evidence.seed), text=text)


def _free_running(evidence: Evidence) -> list[Measurement]:
    results = [result for result in evidence.results if result.equal_answers is not None]
    names = ("forks", "lengths", "degenerate", "margin_score")
    if not results:
        return [*(Measurement(name, 0, "no greedy answers on both sides") for name in names), *_sampled(evidence)]
    texts_only = [r for r in results if r.equal_answers is False and r.fork is None]
    changes = [result.fork for result in results if result.fork is not None]
    events, near, excused = _explain(evidence, changes)
    equal = sum(result.equal_answers is True for result in results)
    forks = Measurement(
        "forks",
        len(results) if not texts_only else 0,
        f"{len(texts_only)} answers differ as texts, and without token ids a near-tie cannot be told from a fault",
        events=events,
        near_ties=near,
        excused=excused,
        identical=equal == len(results),
        text=f"{equal} of {len(results)} answers equal",
    )
    pairs = [(result, *_both(result)) for result in results]
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
        Measurement("degenerate", len(results), events=repeated[:_MAX_EVENTS], identical=equal == len(results)),
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


def _behaviour(evidence: Evidence) -> list[Measurement]:
    results = [result for result in evidence.results if result.equal_answers is not None]
    with_tools = [r for r in results if r.id in evidence.items and evidence.items[r.id].tools]
    excusable = {result.id for result in results if result.fork is not None and _excuse(evidence, result.fork) is not None}
    triggers, schemas, invalid_a, hits = list[str](), list[str](), 0, [0, 0, 0]
    excused_calls = 0
    for result in with_tools:
        one, two = _both(result)
        tools = {tool.name: tool.parameters for tool in evidence.items[result.id].tools}
        called = (bool(one.tool_calls), bool(two.tool_calls), bool(one.tool_calls and two.tool_calls))
        hits = [hit + more for hit, more in zip(hits, called, strict=True)]
        if called[0] != called[1]:
            if result.id in excusable:
                excused_calls += 1
            else:
                triggers.append(f"{result.id}: {'only A' if one.tool_calls else 'only B'} called a tool")
        bad_a, bad_b = _bad_call(one, tools), _bad_call(two, tools)
        invalid_a += bad_a is not None
        if bad_b and not bad_a:
            schemas.append(f"{result.id}: {bad_b}")
    f1 = 2 * hits[2] / (hits[0] + hits[1]) if hits[0] + hits[1] else 1.0
    why = "no answers with tools on both sides, or the suite is not at hand"
    same = all(result.equal_answers for result in results)
    excused = {"excused": excused_calls} if evidence.precision_band > evidence.noise_band else {"near_ties": excused_calls}
    calls = Measurement(
        "calls", len(with_tools), why, events=tuple(triggers), identical=same, text=f"F1 {f1:.3f}", **excused  # type: ignore[arg-type]
    )
    valid = Measurement(
        "schemas", len(with_tools), why, events=tuple(schemas), identical=same, text=f"{invalid_a} of A's calls break theirs"
    )
    return [calls, valid, _stops(results, excusable), _task(evidence, results)]


def _stops(results: Sequence[PromptResult], excusable: set[str]) -> Measurement:
    changed = [(r.id, *_both(r)) for r in results if _both(r)[0].finish != _both(r)[1].finish]
    events = tuple(f"{name}: {one.finish} and {two.finish}" for name, one, two in changed if name not in excusable)
    near = sum(name in excusable for name, *_ in changed)
    return Measurement("stops", len(results), "no answers", events=events[:_MAX_EVENTS], near_ties=near, identical=not changed)


def _task(evidence: Evidence, results: Sequence[PromptResult]) -> Measurement:
    only_a = only_b = trials = right = 0
    for result in results:
        check = evidence.items[result.id].check if result.id in evidence.items else None
        if check is not None:
            one, two = (check.passes(answer.text) for answer in _both(result))
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


def _drill(evidence: Evidence) -> list[Measurement]:
    return layer_measurements(evidence.a, evidence.b, evidence.rules)


_LEVELS: Mapping[int, Callable[[Evidence], list[Measurement]]] = {
    0: _identity,
    1: _tokens,
    2: _exact,
    3: _implementation,
    4: _production,
    5: _free_running,
    6: _behaviour,
    7: _drill,
}


def _excuse(evidence: Evidence, change: Change) -> str | None:
    """What explains a change: `noise`, `precision` or nothing."""
    if change.margin is None:
        return None
    if change.margin <= evidence.noise_band:
        return "noise"
    return "precision" if change.margin <= evidence.precision_band else None


def _explain(evidence: Evidence, changes: Sequence[Change]) -> tuple[tuple[str, ...], int, int]:
    """Unexplained changes as lines, and how many are near-ties and how many the precision excuses."""
    excuses = [_excuse(evidence, change) for change in changes]
    lines = [_line(change) for change, excuse in zip(changes, excuses, strict=True) if excuse is None]
    more = [f"and {len(lines) - _MAX_EVENTS} more"] if len(lines) > _MAX_EVENTS else []
    return tuple(lines[:_MAX_EVENTS] + more), excuses.count("noise"), excuses.count("precision")


def _line(change: Change) -> str:
    margin = "of unknown margin" if change.margin is None else f"margin {change.margin:.3g} nats"
    where = f"{change.prompt}, {change.path} position {change.position}"
    return f"{where}: token {change.token_a} became {change.token_b}, {margin}"


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


def _paths(results: Sequence[PromptResult]) -> list[str]:
    return list(dict.fromkeys(path for result in results for path in result.kl))


def _distance(results: Sequence[PromptResult]) -> str:
    values = [result.distance for result in results if result.distance is not None]
    return f"{float(np.sqrt(np.mean(values))):.3g}" if values else ""


def _both(result: PromptResult) -> tuple[Answer, Answer]:
    one, two = result.answers
    assert one is not None
    assert two is not None
    return one, two


def _length(answer: Answer) -> float:
    return float(len(answer.tokens) if answer.tokens is not None else answer.num_tokens or len(answer.text))


def _repeats(text: str, *, times: int = 6) -> bool:
    """Whether a text ends in one piece said over and over."""
    return any(len(text) >= n * times and text.endswith(text[-n:] * times) and text[-n:].strip() for n in range(1, 65))


def _bad_call(answer: Answer, tools: Mapping[str, Mapping[str, object]]) -> str | None:
    for name, arguments in answer.tool_calls:
        if name not in tools:
            return f"calls {name!r}, which was not offered"
        wrong = fault(arguments, tools[name])
        if wrong:
            return wrong
    return None


def _dtype(pack: Pack) -> str:
    return pack.identity.dtype or "an unknown precision"
