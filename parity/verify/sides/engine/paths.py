"""The ways through a local engine along a prompt: at once, in chunks, token by token, after a prefix hit, in company."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ....llm import LLM
from ...record import Int32s, Path, Plan, Positions
from ...sides.features import Reducer
from ...suites import Item
from .requests import Forced, Job, Requests, cut

STEP_TOKENS = 256
"""Most tokens in a step: bounds the logits held at a time."""


class Paths:
    """The distributions along prompts on one model in this process.

    Args:
        llm: the model, which takes `STEP_TOKENS` a step.
        requests: of the same model.
        plan: says how long chunks and continuations are, and what is kept.
        unreached: told by name what could not be had, and why.
    """

    def __init__(self, llm: LLM, requests: Requests, plan: Plan, unreached: dict[str, str]) -> None:
        self._llm, self._requests, self._plan, self._unreached = llm, requests, plan, unreached
        size = llm.info.vocab_size
        self._reducer = Reducer(size, top_k=plan.top_k, sketch_size=plan.sketch_size, seed=plan.seed)

    def capture(self, items: Sequence[Item], tokens: Sequence[Int32s]) -> Iterator[tuple[int, Mapping[Path, Positions]]]:
        """(which prompt, its paths): those that ask for every path are read alone first, the others share steps."""
        shared: dict[int, tuple[int, ...]] = {}
        alone: dict[int, tuple[int, ...]] = {}
        for place, (item, given) in enumerate(zip(items, tokens, strict=True)):
            ids = tuple(given.tolist())
            if not self._fits(ids):
                self._unreached[f"prompt {item.id}"] = f"{len(ids)} tokens do not fit the context"
                yield place, {}
            else:
                (alone if item.paths and len(ids) > 1 else shared)[place] = ids
        found = {place: self._alone(ids) for place, ids in alone.items()}
        prompts = list(alone.values())
        for (place, paths), stepwise, hit in zip(found.items(), self._stepwise(prompts), self._hits(prompts), strict=True):
            paths["stepwise"] = stepwise.positions
            if hit.num_cached:
                paths["prefix_hit"] = hit.positions
            else:
                short = f"prompts shorter than a page of {self._llm.info.page_size} tokens, such as {items[place].id}"
                self._unreached.setdefault("prefix_hit", f"{short}, leave nothing to hit")
            yield place, paths
        for places in bundles({place: len(ids) for place, ids in shared.items()}, STEP_TOKENS):
            for place, positions in zip(places, self._read([shared[place] for place in places]), strict=True):
                yield place, {"one_shot": positions}

    def _fits(self, ids: tuple[int, ...]) -> bool:
        return len(ids) < self._llm.info.max_model_len

    def _alone(self, ids: tuple[int, ...]) -> dict[Path, Positions]:
        """At once, which leaves what a prefix hit takes, and in chunks."""
        (one_shot,) = self._read([ids])
        (chunked,) = self._read([ids], chunk=self._plan.chunk_tokens)
        return {"one_shot": one_shot, "chunked": chunked}

    def _read(self, prompts: Sequence[tuple[int, ...]], chunk: int | None = None) -> list[Positions]:
        """Computed from the start, all together. What is read at once is kept: it serves prefix hits and answers."""
        pieces = self._llm.logit_pieces(prompts, chunk=chunk, keep=chunk is None)
        return [positions for _, positions in sorted(self._reducer.together(pieces), key=lambda pair: pair[0])]

    def _stepwise(self, prompts: Sequence[tuple[int, ...]]) -> list[Forced]:
        """The first by itself, so that steps of one row are seen; the others side by side."""
        jobs = [cut(ids, self._plan.stepwise_tokens) for ids in prompts]
        return [answer for some in (jobs[:1], jobs[1:]) for answer in self._requests.forced(some, cache=False)]

    def _hits(self, prompts: Sequence[tuple[int, ...]]) -> list[Forced]:
        """Side by side, each after what of it is kept."""
        return self._requests.forced([self._half(ids) for ids in prompts], cache=True)

    def _half(self, ids: tuple[int, ...]) -> Job:
        return cut(ids, max(1, self._plan.stepwise_tokens // 2))

    def mixed(self, items: Sequence[Item], tokens: Sequence[Int32s | None]) -> list[Positions | None]:
        """Each begins once the one before has: a step reads the end of one prompt, after what of it is kept in the prefix
        cache, and goes on with the others, token by token."""
        known = [
            tuple(ids.tolist()) if ids is not None and item.paths and len(ids) > 1 else ()
            for item, ids in zip(items, tokens, strict=True)
        ]
        jobs = [self._half(ids) for ids in known if ids and self._fits(ids)]
        if not jobs:
            return [None] * len(items)
        # A prompt alone would have no company: the first one's beginning comes along, and goes on until the last has begun.
        first = jobs[0].prompt
        half = max(1, len(first) // 2)
        companion = Job(first[:half], (first[half:] or first[-1:])[: len(jobs) + len(jobs[-1].continuation)])
        answers = iter(self._requests.forced([companion, *jobs], cache=True, in_turn=True)[1:])
        return [next(answers).positions if ids and self._fits(ids) else None for ids in known]


def bundles(sizes: Mapping[int, int], room: int) -> list[list[int]]:
    """Names, by size, in as few groups as fit into `room` if the longest go first; what does not fit is alone."""
    found: list[list[int]] = []
    left: list[int] = []
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        place = next((place for place, space in enumerate(left) if space >= sizes[name]), len(found))
        if place == len(found):
            found.append([])
            left.append(room)
        found[place].append(name)
        left[place] -= sizes[name]
    return found
