"""Steps started before the tokens of the one before have come: the same tokens, nothing lost, on a device that lags."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parity.core.batch import UNKNOWN, Plan, Result
from parity.core.request import Request
from parity.core.service import ModelInfo
from parity.engine import engine as engine_module
from parity.engine.engine import Engine
from parity.engine.limits import SchedulerConfig
from parity.engine.runner import Started

from .scripted import Harness, ScriptedRunner
from .test_scheduler_random import act, random_config, random_request


class Lagging:
    """A runner on a device that does nothing until it is waited for, and then what it was given, in that order."""

    runs_ahead = True

    def __init__(self, runner: ScriptedRunner) -> None:
        self.runner = runner
        self.given: deque[tuple[Plan, Started | None, list[Result]]] = deque()
        self.done: dict[int, list[Result]] = {}
        self.disturb: Callable[[Plan, list[Result]], list[Result]] = lambda plan, results: results
        self.num_ahead = self.num_in_vain = 0

    def start(self, plan: Plan, before: Started | None = None) -> Started:
        assert bool(plan.follows) == (before is not None)
        self.num_ahead += before is not None
        results: list[Result] = []
        self.given.append((plan, before, results))
        unused: Any = None
        return Started(plan, unused, unused, lambda tokens: results)

    def finish(self, started: Started) -> list[Result]:
        results = started.results([])
        while not results:
            plan, before, place = self.given.popleft()
            place += self.runner.run(self._known(plan, before))
        return self.disturb(started.plan, list(results))

    def _known(self, plan: Plan, before: Started | None) -> Plan:
        if before is None:
            return plan
        brought = [result.token for result in before.results([])]
        chunks = []
        for chunk, row in zip(plan.chunks, plan.follows, strict=True):
            assert chunk.tokens == (UNKNOWN,)
            assert before.plan.chunks[row].request is chunk.request
            token = brought[row]
            assert token is not None
            chunks.append(replace(chunk, tokens=(token,)))
        return Plan(tuple(chunks))


class AheadHarness(Harness):
    """The harness, over the engine itself and a runner that lags. Time stands still unless a step is made."""

    def __init__(self, config: SchedulerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(config)
        self.overdue: set[str] = set()
        self.lagging = Lagging(self.runner)
        self.engine = Engine(_info(config), lambda: (self.scheduler, self.lagging))  # type: ignore[arg-type, return-value]
        monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    def step(
        self,
        *,
        spoil: Callable[[Plan, list[Result]], list[Result]] | None = None,
        between: Callable[[], None] | None = None,
        fail: bool = False,
    ) -> Plan:
        """As the harness's; a deadline may be seen a step later."""
        self.now_s += 1.0
        expired, self.overdue = (
            self.overdue,
            {name for name, request in self.live.items() if (request.deadline_s or np.inf) <= self.now_s},
        )
        taken = Plan(())

        def disturb(plan: Plan, results: list[Result]) -> list[Result]:
            nonlocal taken
            taken = plan
            self.lagging.num_in_vain += sum(chunk.request.id not in self.live for chunk in plan.chunks)
            if spoil is not None:
                results = spoil(plan, results)
            if between is not None:
                between()
            if fail:
                raise RuntimeError("boom")
            return results

        self.lagging.disturb = disturb
        outputs = self.engine.step()
        ahead = self.engine._ahead
        self.scheduler.check(None if ahead is None else ahead.plan)
        for output in outputs:
            self._take(output)
        assert not expired & set(self.live), "a deadline was missed"
        assert self.scheduler.has_work == bool(self.live)
        return taken

    def drain(self, max_steps: int = 5000) -> None:
        super().drain(max_steps)
        while self.engine.has_work:
            assert not self.engine.step()
        self.scheduler.check()


def _info(config: SchedulerConfig) -> ModelInfo:
    return ModelInfo(
        name="scripted",
        architecture="scripted",
        max_model_len=config.max_model_len,
        vocab_size=50,
        stack="none",
        dtype="none",
        num_pages=config.num_pages,
        page_size=config.page_size,
    )


def plain_request(rng: random.Random, name: str, harness: Harness) -> Request:
    """Mostly one that no token has to be waited for."""
    request = random_request(rng, name, harness)
    if rng.random() < 0.9:
        request = replace(request, params=request.params.replace(logprobs=None, presence_penalty=0.0), want="tokens")
    return request


@pytest.mark.parametrize("seed", range(2))
def test_random_steps_mix_up_and_lose_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Aborts, failures, deadlines, preemption, cached beginnings, slots and snapshots, while a step is under way."""
    monkeypatch.setattr("tests.engine.test_scheduler_random.random_request", plain_request)
    caplog.set_level(100)
    rng, names = random.Random(seed), count()
    num_steps = num_ahead = num_in_vain = num_preemptions = num_cached = 0
    while num_steps < 10_000:
        harness = AheadHarness(random_config(rng), monkeypatch)
        rate = rng.choice([0.05, 0.1, 0.2, 0.5])
        for _ in range(rng.randint(20, 400)):
            action = "add" if rng.random() < rate else "step"
            if rng.random() < 0.03:
                action = rng.choice(["abort", "abort between"] * 3 + ["spoil", "fail"])
            act(harness, rng, action, names)
        harness.drain()
        stats = harness.scheduler.stats()
        num_steps += stats.num_steps
        num_ahead += harness.lagging.num_ahead
        num_in_vain += harness.lagging.num_in_vain
        num_preemptions += stats.num_preemptions
        num_cached += stats.num_cached_tokens
    assert num_ahead > num_steps / 3, "most steps were waited for"
    assert min(num_in_vain, num_preemptions, num_cached) > 50, "the rare paths were not taken"
