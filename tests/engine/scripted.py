"""A runner without a model, whose state tells who wrote it, and a harness that knows what every request must get.

The state of a position is a hash of all tokens up to it (and of the adapter), as in a real model it depends on all of
them. The runner keeps it in pages, slots and snapshots just where the plan says, and verifies before and after each
step that what the plan lets a sequence read is the state of that very sequence.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from parity.core.batch import Chunk, Plan, Result
from parity.core.request import Output, Request, TokenLogprobs
from parity.engine.limits import SchedulerConfig
from parity.engine.scheduler import Scheduler

VOCABULARY = 50
EOS = 7


def state_after(request: Request, tokens: list[int]) -> list[int]:
    """The state after each token; entry 0 is the state before the first."""
    states = [hash((0, *map(ord, request.adapter or "")))]
    for token in tokens:
        states.append(hash((states[-1], token)))
    return states


def next_token(request: Request, state: int) -> int:
    return hash((state, request.sample)) % VOCABULARY


def alone(request: Request, limit: int) -> tuple[list[int], str]:
    """The tokens and the finish reason of a request, from the rules alone; `limit` is most tokens in all."""
    params, tokens = request.params, list(request.tokens)
    if request.want != "tokens":
        return [], "stop"
    room = limit - len(tokens) if params.max_tokens is None else min(params.max_tokens, limit - len(tokens))
    state = state_after(request, tokens)[-1]
    generated: list[int] = []
    while len(generated) < room:
        token = next_token(request, state)
        state = hash((state, token))
        generated.append(token)
        stops = token in params.stop_token_ids or (token == EOS and not params.ignore_eos)
        if stops and len(generated) > params.min_tokens:
            return generated, "stop"
    return generated, "length"


class ScriptedRunner:
    """Runs plans. `num_computed` counts the tokens computed for each request id."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.pages = [[0] * config.page_size for _ in range(config.num_pages)]
        self.slots = [0] * max(config.num_slots, config.max_num_seqs)
        self.snapshots = [0] * config.num_snapshots
        self.truth: dict[str, list[int]] = {}
        self.states: dict[str, list[int]] = {}
        self.num_computed: dict[str, int] = {}

    def start(self, request: Request) -> None:
        self.truth[request.id] = list(request.tokens)
        self.states[request.id] = state_after(request, list(request.tokens))
        self.num_computed[request.id] = 0

    def run(self, plan: Plan) -> list[Result]:
        assert plan.num_tokens <= self.config.max_num_batched_tokens
        assert len(plan.chunks) <= self.config.max_num_seqs
        slots = [chunk.slot for chunk in plan.chunks]
        assert len(set(slots)) == len(slots)
        saves = [chunk.save for chunk in plan.chunks if chunk.save is not None]
        assert len(set(saves)) == len(saves)
        for chunk in plan.chunks:
            self._begin(chunk)
        for chunk in plan.chunks:
            self._verify(chunk, chunk.start)
        for chunk in plan.chunks:
            self._compute(chunk)
        for chunk in plan.chunks:
            self._verify(chunk, chunk.length)
            if chunk.save is not None:
                self.snapshots[chunk.save] = self.slots[chunk.slot]
        return [self._result(chunk) for chunk in plan.chunks]

    def _begin(self, chunk: Chunk) -> None:
        if chunk.restore is not None:
            assert self.config.has_slots
            self.slots[chunk.slot] = self.snapshots[chunk.restore]
        elif chunk.start == 0:
            self.slots[chunk.slot] = self.states[chunk.request.id][0]

    def _verify(self, chunk: Chunk, length: int) -> None:
        size, states = self.config.page_size, self.states[chunk.request.id]
        assert len(chunk.pages) * size >= chunk.length
        for position in range(length):
            found = self.pages[chunk.pages[position // size]][position % size]
            assert found == states[position + 1], f"{chunk.request.id} reads another's state at {position}"
        if self.config.has_slots:
            assert self.slots[chunk.slot] == states[length], f"{chunk.request.id} has another's slot"

    def _compute(self, chunk: Chunk) -> None:
        size, request = self.config.page_size, chunk.request
        truth, states = self.truth[request.id], self.states[request.id]
        assert chunk.tokens
        assert list(chunk.tokens) == truth[chunk.start : chunk.length]
        assert chunk.num_generated == len(truth) - len(request.tokens)
        for position in range(chunk.start, chunk.length):
            self.pages[chunk.pages[position // size]][position % size] = states[position + 1]
        self.slots[chunk.slot] = states[chunk.length]
        self.num_computed[request.id] += len(chunk.tokens)

    def _result(self, chunk: Chunk) -> Result:
        request, num_prompt = chunk.request, len(chunk.request.tokens)
        truth = self.truth[request.id]
        token, array = None, None
        prompt_logprobs: list[TokenLogprobs] = []
        if chunk.rows == "all":
            if request.params.prompt_logprobs is not None:
                rows = range(chunk.start, min(chunk.length, num_prompt - 1))
                prompt_logprobs = [TokenLogprobs(truth[row + 1], -float(row), 0) for row in rows]
            if request.want == "logits":
                array = np.arange(chunk.start, chunk.length, dtype=np.float32)[:, None]
        if request.want == "embedding" and chunk.length == num_prompt:
            assert chunk.rows == "last"
            array = np.ones(3, np.float32)
        if chunk.sample:
            assert chunk.length == len(truth)
            assert chunk.rows in ("last", "all")
            penalised = request.params.presence_penalty != 0
            assert list(chunk.generated) == (truth[num_prompt:] if penalised else [])
            token = next_token(request, self.states[request.id][chunk.length])
            truth.append(token)
            self.states[request.id].append(hash((self.states[request.id][-1], token)))
        logprob = TokenLogprobs(token, -1.0, 0) if token is not None and request.params.logprobs is not None else None
        return Result(token, logprob, tuple(prompt_logprobs), array)


class Harness:
    """A scheduler over a scripted runner. Collects outputs and checks each request's against what it must get alone."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.scheduler = Scheduler(config)
        self.runner = ScriptedRunner(config)
        self.now_s = 0.0
        self.live: dict[str, Request] = {}
        self.collected: dict[str, list[Output]] = {}
        self.ended: dict[str, Output] = {}

    def add(self, request: Request) -> None:
        self.scheduler.add(request)
        self.runner.start(request)
        self.live[request.id] = request
        self.collected[request.id] = []
        self.ended.pop(request.id, None)

    def step(
        self,
        *,
        spoil: Callable[[Plan, list[Result]], list[Result]] | None = None,
        between: Callable[[], None] | None = None,
        fail: bool = False,
    ) -> Plan:
        """One step. `spoil` may change the results, `between` runs before the commit, `fail` fails the step after it ran."""
        self.now_s += 1.0
        expired = {name for name, request in self.live.items() if (request.deadline_s or np.inf) <= self.now_s}
        plan = self.scheduler.plan(self.now_s)
        self._check_order(plan, expired)
        results = self.runner.run(plan)
        if spoil is not None:
            results = spoil(plan, results)
        if between is not None:
            between()
        outputs = self.scheduler.fail(plan, "boom") if fail else self.scheduler.commit(plan, results, self.now_s)
        self.scheduler.check()
        for output in outputs:
            self._take(output)
        assert not expired & set(self.live), "a deadline was missed"
        assert self.scheduler.has_work == bool(self.live)
        return plan

    def drain(self, max_steps: int = 5000) -> None:
        """Steps until all have ended, and checks that nothing is held then."""
        while self.live:
            max_steps -= 1
            assert max_steps, f"{sorted(self.live)} do not end"
            self.step()
        assert not self.scheduler.has_work
        assert self.scheduler.cache.num_available == self.config.num_pages
        stats = self.scheduler.stats()
        assert (stats.num_running, stats.num_waiting, stats.num_pages_used) == (0, 0, 0)

    def run(self, *requests: Request) -> list[list[int]]:
        """Adds, drains, and returns each request's tokens."""
        for request in requests:
            self.add(request)
        self.drain()
        return [self.tokens(request.id) for request in requests]

    def tokens(self, name: str) -> list[int]:
        return [token for output in self.collected[name] for token in output.tokens]

    def _check_order(self, plan: Plan, expired: set[str]) -> None:
        """The oldest request that lives is always worked on, and no younger one overtakes it into the running."""
        scheduler = self.scheduler
        order = [sequence.request.id for sequence in (*scheduler.running, *scheduler.waiting)]
        assert order == [name for name in self.live if name in set(order)], "the order of arrival is lost"
        if order:
            assert order[0] in {chunk.request.id for chunk in plan.chunks}, "the oldest request makes no progress"

    def _take(self, output: Output) -> None:
        name = output.request_id
        assert name in self.live, f"{name} has an output after its end"
        self.collected[name].append(output)
        if output.finish is not None:
            request = self.live.pop(name)
            self.ended[name] = output
            self._check_end(request, output)

    def _check_end(self, request: Request, last: Output) -> None:
        assert last.finish is not None
        outputs, params, num_prompt = self.collected[request.id], request.params, len(request.tokens)
        tokens = self.tokens(request.id)
        limit = min(self.config.max_model_len, self.config.num_pages * self.config.page_size)
        expected, reason = alone(request, limit)
        whole = last.finish.reason in ("stop", "length") and request.constraint is None
        assert tokens == (expected if whole else expected[: len(tokens)]), f"{request.id} got another's tokens"
        assert last.usage.num_generated_tokens == len(tokens)
        assert last.usage.num_prompt_tokens == num_prompt
        assert 0 <= last.usage.num_cached_tokens < num_prompt
        if whole:
            assert last.finish.reason == reason
        if params.logprobs is not None:
            assert [logprob.token for output in outputs for logprob in output.logprobs] == tokens
        given = [output.prompt_logprobs for output in outputs if output.prompt_logprobs is not None]
        assert len(given) == (params.prompt_logprobs is not None)
        if given and (whole or tokens):
            assert [(item.token, -item.logprob) for item in given[0]] == [
                (request.tokens[row + 1], row) for row in range(num_prompt - 1)
            ]
        arrays = [output.array for output in outputs if output.array is not None]
        if request.want == "logits":
            rows = np.concatenate(arrays)[:, 0].tolist() if arrays else []
            assert rows == list(range(num_prompt if whole else len(rows)))
        else:
            assert len(arrays) == (request.want == "embedding" and whole)
