"""Requests run to their end on a local engine, some made to go on as given: what led to each token of the continuation."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ....core.errors import EngineError
from ....core.request import Output, Request, SamplingParams, TokenLogprobs
from ....llm import LLM
from ...record import Positions
from ...statistics.divergence import Top, rough_log_tail

_KEPT = 64
GREEDY = SamplingParams(temperature=0.0, logprobs=_KEPT)
"""The most likely token each time, with what a pack keeps of its distribution."""


class Job(NamedTuple):
    """A prompt and how it is made to go on."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


class Forced(NamedTuple):
    """What led to a forced continuation, and how many tokens of its prompt came from the prefix cache."""

    positions: Positions
    num_cached: int


def cut(ids: tuple[int, ...], count: int) -> Job:
    """The last `count` tokens, or as many as leave one before them, as a continuation of the rest."""
    place = max(1, len(ids) - count)
    return Job(ids[:place], ids[place:])


class Requests:
    """Runs requests on a model in this process.

    Args:
        llm: the model; nothing else runs on it meanwhile.
    """

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._ids = count()

    def request(self, tokens: tuple[int, ...], params: SamplingParams, **more: Any) -> Request:
        """A request under a name of its own; `more` is of `Request`."""
        return Request(f"verify-{next(self._ids)}", tokens, params, **more)

    def run(self, requests: Sequence[Request], *, in_turn: bool = False) -> list[list[Output]]:
        """Submits all, at once or each after the first output of the one before, and waits for all.

        Raises:
            EngineError: one ended with an error.
        """
        outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
        found: dict[str, list[Output]] = {request.id: [] for request in requests}
        waiting = list(requests)
        first = 1 if in_turn else len(waiting)
        if requests:
            self._llm.service.submit_all(waiting[:first], outputs.put)
        del waiting[:first]
        left = len(requests)
        while left:
            output = outputs.get()
            if waiting and not found[output.request_id]:
                self._llm.service.submit(waiting.pop(0), outputs.put)
            found[output.request_id].append(output)
            if output.finish is not None:
                left -= 1
                if output.finish.reason == "error":
                    raise EngineError(output.finish.message or "the engine failed")
        return list(found.values())

    def forced(self, jobs: Sequence[Job], *, cache: bool, in_turn: bool = False) -> list[Forced]:
        """Decodes given continuations token by token, all in one batch: the distributions that led to each.

        Args:
            jobs: what is given.
            cache: whether the prefix cache may be used.
            in_turn: each begins only once the one before has shown its first token.
        """
        requests = []
        for prompt, continuation in jobs:
            constraint = _Constraint(continuation, self._llm.info.vocab_size)
            params = GREEDY.replace(max_tokens=len(continuation), ignore_eos=True)
            requests.append(self.request(prompt, params, constraint=constraint, cache=cache))
        return [
            Forced(
                _positions(len(job.prompt) - 1, [entry for output in outputs for entry in output.logprobs]),
                outputs[-1].usage.num_cached_tokens,
            )
            for job, outputs in zip(jobs, self.run(requests, in_turn=in_turn), strict=True)
        ]


class _Constraint:
    """Allows one given token after the other."""

    def __init__(self, tokens: tuple[int, ...], vocab_size: int) -> None:
        self._tokens, self._place = tokens, 0
        self._words = -(-vocab_size // 32)

    def mask(self) -> npt.NDArray[np.uint32]:
        """Only the next token."""
        bits = np.zeros(self._words, np.uint32)
        token = self._tokens[min(self._place, len(self._tokens) - 1)]
        bits[token // 32] = np.uint32(1 << (token % 32))
        return bits

    def accept(self, token: int) -> None:
        """Moves on."""
        self._place += 1

    @property
    def done(self) -> bool:
        """Whether all were given."""
        return self._place >= len(self._tokens)


def _positions(first: int, entries: Sequence[TokenLogprobs]) -> Positions:
    return Positions(np.arange(first, first + len(entries), dtype=np.int32), top_of(entries))


def top_of(entries: Sequence[TokenLogprobs]) -> Top:
    """What requests report, as heads."""
    width = max(len(entry.top) for entry in entries)
    ids, logprobs = np.full((len(entries), width), -1, np.int32), np.full((len(entries), width), -100.0, np.float32)
    for row, entry in enumerate(entries):
        ids[row, : len(entry.top)] = [token for token, _ in entry.top]
        logprobs[row, : len(entry.top)] = [value for _, value in entry.top]
    return Top(ids, logprobs, rough_log_tail(logprobs, ids))
