"""Two records of one prompt, number by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..packs import Pack
from ..record import Int32s, Path, Positions, Record
from ..statistics.divergence import Float64s, Top, coarse_kl, head_deltas, margins, squared_distance
from .answers import along_answers, fork_of
from .results import ANSWER, Change, Forced, PromptResult, Where


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
    # Not the same prompt: what follows it says nothing of the model.
    other_prompt = tokens_equal is False or (tokens_equal is None and None not in counts and counts[0] != counts[1])
    fork, equal_answers = fork_of(a.id, a.answer, b.answer)
    answers, samples = (a.answer, b.answer), (a.samples, b.samples)
    if other_prompt:
        return PromptResult(a.id, tokens_equal, counts, identical=False, answers=answers, samples=samples)
    serving = _forced(a.paths, b.paths, along_answers(a.answer, b.answer))
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


def _first(record: Record) -> Top | None:
    """The distribution of the first token after the prompt."""
    one_shot = record.paths.get("one_shot")
    if one_shot is None or record.num_tokens is None or not len(one_shot.at) or one_shot.at[-1] != record.num_tokens - 1:
        return None
    return one_shot.top[-1:]
