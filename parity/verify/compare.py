"""Two packs, prompt by prompt: the numbers that the levels judge. Holds a few numbers a position, never two packs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .pack import Pack
from .record import Answer, Int32s, Path, Positions, Record
from .statistics.divergence import Float64s, Top, coarse_kl, head_deltas, margins, squared_distance

Where = Path | str
ANSWER = "answer"
"""Names the distributions along the greedy answer, up to where the answers part."""


@dataclass(frozen=True, slots=True)
class Change:
    """A position where the two sides' most likely tokens differ. `margin` is A's, in nats; None where A shows none."""

    prompt: str
    path: Where
    position: int
    token_a: int
    token_b: int
    margin: float | None


def worst_path(kl: Mapping[Where, Float64s]) -> float | None:
    """The mean KL of the path that is furthest apart."""
    return max((float(values.mean()) for values in kl.values() if len(values)), default=None)


@dataclass(frozen=True, slots=True, eq=False)
class Forced:
    """The two sides along given tokens, in one precision.

    Args:
        at, kl: by path, the positions and the coarse KL(A || B) there.
        within_b: by path, the KL of B against itself: one-shot against that path.
        distance: mean squared distance of the centred logits, from the sketches.
        identical: whether all that both sides show is bit-equal.
    """

    at: dict[Where, Int32s]
    kl: dict[Where, Float64s]
    within_b: dict[Path, Float64s]
    distance: float | None
    identical: bool

    @property
    def worst_path_kl(self) -> float | None:
        """The mean KL of the path that is furthest apart."""
        return worst_path(self.kl)


@dataclass(frozen=True, slots=True, eq=False)
class PromptResult:
    """What was seen on one prompt.

    Args:
        tokens_equal: None where a side does not show its ids.
        counts: prompt tokens counted by A and by B.
        at, kl: by path, the positions and the coarse KL(A || B) there.
        within_a, within_b: by path, the KL of a side against itself: one-shot against that path.
        distance: mean squared distance of the centred logits, from the sketches.
        noise: |change in log-probability| of A's head against itself on other paths.
        rounding: the same against itself in float32, on the same paths; empty where A serves in float32.
        float32: both sides in float32; None where one of them shows nothing in it.
        identical: whether all that both sides show is bit-equal.
        flips: the positions that changed.
        oracle: mean KL(R || A) and KL(R || B).
        answers: A's and B's.
        fork: where the greedy answers part; None if they do not, or cannot be compared.
        equal_answers: None where one of them is missing.
        samples: A's and B's; `first` is A's distribution of the first token.
    """

    id: str
    tokens_equal: bool | None
    counts: tuple[int | None, int | None]
    at: dict[Where, Int32s] = field(default_factory=dict)
    kl: dict[Where, Float64s] = field(default_factory=dict)
    within_a: dict[Path, Float64s] = field(default_factory=dict)
    within_b: dict[Path, Float64s] = field(default_factory=dict)
    distance: float | None = None
    noise: Float64s = field(default_factory=lambda: np.zeros(0))
    rounding: Float64s = field(default_factory=lambda: np.zeros(0))
    float32: Forced | None = None
    identical: bool = True
    flips: tuple[Change, ...] = ()
    oracle: tuple[float, float] | None = None
    answers: tuple[Answer | None, Answer | None] = (None, None)
    fork: Change | None = None
    equal_answers: bool | None = None
    samples: tuple[Int32s | None, Int32s | None] = (None, None)
    first: Top | None = None

    @property
    def worst_path_kl(self) -> float | None:
        """The mean KL of the path that is furthest apart."""
        return worst_path(self.kl)


def compare(a: Pack, b: Pack, oracle: Pack | None = None) -> Iterator[PromptResult]:
    """Results for the prompts that both packs have, in A's order."""
    float32 = (a.identity.dtype == "float32", b.identity.dtype == "float32")
    for prompt in a.summary.prompts:
        if prompt in b:
            reference = oracle.record(prompt) if oracle is not None and prompt in oracle else None
            yield compare_records(a.record(prompt), b.record(prompt), reference, float32)


def compare_records(
    a: Record, b: Record, oracle: Record | None = None, float32: tuple[bool, bool] = (False, False)
) -> PromptResult:
    """One prompt.

    Args:
        a, b: the two sides' records.
        oracle: a third side's; without one, A in float32 is the oracle, where it shows that.
        float32: whether A and B serve in float32, so that `paths` are in it.
    """
    tokens_equal = None if a.tokens is None or b.tokens is None else np.array_equal(a.tokens, b.tokens)
    counts = (a.num_tokens, b.num_tokens)
    fork, equal_answers = _fork(a.id, a.answer, b.answer)
    answers, samples = (a.answer, b.answer), (a.samples, b.samples)
    if tokens_equal is False:
        return PromptResult(a.id, False, counts, identical=False, answers=answers, samples=samples)
    serving = _forced(a.paths, b.paths, _along_answers(a.answer, b.answer))
    flips = [flip for path in a.paths if path in b.paths for flip in _flips(a.id, path, a.paths[path], b.paths[path])]
    exact_a, exact_b = (record.paths if own else record.in_float32 for record, own in zip((a, b), float32, strict=True))
    in_float32 = serving if all(float32) else _forced(exact_a, exact_b) if exact_a and exact_b else None
    return PromptResult(
        a.id,
        tokens_equal,
        counts,
        serving.at,
        serving.kl,
        _within(a.paths),
        serving.within_b,
        serving.distance,
        _noise(a),
        _rounding(a),
        in_float32,
        serving.identical and equal_answers is not False,
        tuple(flips),
        _from_oracle(a, b, oracle),
        answers,
        fork,
        equal_answers,
        samples,
        _first(a),
    )


def _forced(a: Mapping[Path, Positions], b: Mapping[Path, Positions], along: tuple[Top, Top] | None = None) -> Forced:
    at: dict[Where, Int32s] = {}
    kl: dict[Where, Float64s] = {}
    distances: list[float] = []
    identical = True
    for path in [path for path in a if path in b]:
        one, two = _shared(a[path], b[path])
        at[path], kl[path] = one.at, coarse_kl(one.top, two.top)
        identical &= _same_bits(one, two)
        if one.sketch is not None and two.sketch is not None and len(one.at):
            distances.append(float(squared_distance(one.sketch, two.sketch).mean()))
    if along is not None:
        kl[ANSWER], at[ANSWER] = coarse_kl(*along), np.arange(len(along[0]), dtype=np.int32)
    return Forced(at, kl, _within(b), float(np.mean(distances)) if distances else None, identical)


def rows(positions: Positions, at: Int32s) -> Positions:
    """Only the positions `at`, which must all be there."""
    chosen = np.searchsorted(positions.at, at)
    top = Top(positions.top.ids[chosen], positions.top.logprobs[chosen], positions.top.log_tail[chosen])
    lse = None if positions.lse is None else positions.lse[chosen]
    sketch = None if positions.sketch is None else positions.sketch[chosen]
    return Positions(at, top, lse, sketch)


def _shared(a: Positions, b: Positions) -> tuple[Positions, Positions]:
    at = np.intersect1d(a.at, b.at).astype(np.int32)
    return rows(a, at), rows(b, at)


def _same_bits(a: Positions, b: Positions) -> bool:
    return (
        np.array_equal(a.top.ids, b.top.ids)
        and np.array_equal(a.top.logprobs, b.top.logprobs)
        and (a.lse is None or b.lse is None or np.array_equal(a.lse, b.lse))
        and (a.sketch is None or b.sketch is None or np.array_equal(a.sketch, b.sketch))
    )


def _flips(prompt: str, path: Where, one: Positions, two: Positions) -> list[Change]:
    shared_a, shared_b = _shared(one, two)
    at, a, b = shared_a.at, shared_a.top, shared_b.top
    changed = np.flatnonzero(a.ids[:, 0] != b.ids[:, 0])
    gaps = margins(a, b.ids[:, 0])
    return [
        Change(prompt, path, int(at[i]), int(a.ids[i, 0]), int(b.ids[i, 0]), float(gaps[i]))
        for i in changed
        if a.ids[i, 0] >= 0 and b.ids[i, 0] >= 0 and _has_best(b, int(i))
    ]


def _has_best(top: Top, row: int) -> bool:
    """Whether the head really begins with the most likely token: a lone reported token need not be it."""
    used = top.ids[row] >= 0
    return bool(used.sum() > 1 or top.logprobs[row, 0] > np.log(0.5))


def _within(paths: Mapping[Path, Positions]) -> dict[Path, Float64s]:
    one_shot = paths.get("one_shot")
    if one_shot is None:
        return {}
    found: dict[Path, Float64s] = {}
    for path, positions in paths.items():
        if path != "one_shot":
            one, two = _shared(one_shot, positions)
            found[path] = coarse_kl(one.top, two.top)
    return found


def _noise(record: Record) -> Float64s:
    one_shot = record.paths.get("one_shot")
    if one_shot is None:
        return np.zeros(0)
    parts = [np.zeros(0)]
    for path, positions in record.paths.items():
        if path != "one_shot":
            one, two = _shared(one_shot, positions)
            parts.append(head_deltas(one.top, two.top))
    return np.concatenate(parts)


def _rounding(record: Record) -> Float64s:
    """What A's own rounding does to the log-probabilities of its head: from A alone, whatever B is."""
    parts = [np.zeros(0)]
    for path in [path for path in record.paths if path in record.in_float32]:
        one, two = _shared(record.paths[path], record.in_float32[path])
        parts.append(head_deltas(one.top, two.top))
    return np.concatenate(parts)


def _from_oracle(a: Record, b: Record, oracle: Record | None) -> tuple[float, float] | None:
    third = a if oracle is None else oracle
    if a.tokens is not None and third.tokens is not None and not np.array_equal(a.tokens, third.tokens):
        return None
    shots = [paths.get("one_shot") for paths in (a.in_float32 if oracle is None else oracle.paths, a.paths, b.paths)]
    if None in shots:
        return None
    known = [shot for shot in shots if shot is not None]
    at = np.intersect1d(np.intersect1d(known[0].at, known[1].at), known[2].at)
    if not len(at):
        return None
    r, one, two = (rows(shot, at.astype(np.int32)).top for shot in known)
    return float(coarse_kl(r, one).mean()), float(coarse_kl(r, two).mean())


def _fork(prompt: str, a: Answer | None, b: Answer | None) -> tuple[Change | None, bool | None]:
    """Where two greedy answers part, and whether they are equal."""
    if a is None or b is None or a.error or b.error:
        return None, None
    if a.tokens is None or b.tokens is None:
        return None, a.text == b.text
    if a.tokens == b.tokens or _same_but_for_the_end(a, b):
        return None, True
    place = common_prefix(a.tokens, b.tokens)
    token_a = a.tokens[place] if place < len(a.tokens) else -1
    token_b = b.tokens[place] if place < len(b.tokens) else -1
    margin = None
    if a.top is not None and token_b >= 0 and place < len(a.top):
        margin = float(margins(a.top[place : place + 1], np.array([token_b]))[0])
    return Change(prompt, ANSWER, place, token_a, token_b, margin), False


def _same_but_for_the_end(a: Answer, b: Answer) -> bool:
    """Both ended by themselves after the same tokens, and one side does not show the token that ends an answer."""
    assert a.tokens is not None
    assert b.tokens is not None
    longer, shorter = sorted((a.tokens, b.tokens), key=len, reverse=True)
    return a.finish == b.finish == "stop" and longer[:-1] == shorter


def common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many first tokens are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _along_answers(a: Answer | None, b: Answer | None) -> tuple[Top, Top] | None:
    """The distributions along the answers while their contexts are still the same, the fork included."""
    if a is None or b is None or a.tokens is None or b.tokens is None or a.top is None or b.top is None:
        return None
    count = min(common_prefix(a.tokens, b.tokens) + 1, len(a.top), len(b.top))
    return (a.top[:count], b.top[:count]) if count else None


def _first(record: Record) -> Top | None:
    """The distribution of the first token after the prompt."""
    one_shot = record.paths.get("one_shot")
    if one_shot is None or record.num_tokens is None or not len(one_shot.at) or one_shot.at[-1] != record.num_tokens - 1:
        return None
    return one_shot.top[-1:]


def flat(results: list[PromptResult]) -> tuple[Float64s, npt.NDArray[np.int64]]:
    """All positions' KL, each position's largest over its paths, and the prompt that each belongs to."""
    values, owners = [np.zeros(0)], [np.zeros(0, np.int64)]
    for index, result in enumerate(result for result in results if result.kl):
        joined = np.concatenate(list(result.kl.values()))
        values.append(joined)
        owners.append(np.full(len(joined), index))
    return np.concatenate(values), np.concatenate(owners)
