"""Random requests, aborts, deadlines and failures: state is never mixed, nothing is lost, everyone ends."""

from __future__ import annotations

import random
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from parity.core.batch import Plan, Result
from parity.core.errors import CapacityError, Overloaded, RequestError
from parity.core.request import Request, SamplingParams
from parity.engine.limits import SchedulerConfig

from .scripted import EOS, Harness


def random_config(rng: random.Random) -> SchedulerConfig:
    max_num_seqs = rng.randint(1, 8)
    page_size = rng.choice([1, 2, 2, 4, 4, 8])
    return SchedulerConfig(
        page_size=page_size,
        num_pages=rng.randint(40, 120) // page_size,
        max_model_len=rng.randint(16, 90),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + rng.choice([0, 1, 3, 10, 40]),
        max_num_waiting=rng.randint(3, 12),
        eos_token_ids=frozenset({EOS}),
        prefix_caching=rng.random() < 0.9,
        has_slots=rng.random() < 0.6,
        num_slots=rng.randint(1, 8),
        num_snapshots=rng.randint(0, 8),
        snapshot_every=rng.randint(1, 3),
    )


def random_request(rng: random.Random, name: str, harness: Harness) -> Request:
    stem = [rng.choice([1, 2]) for _ in range(rng.choice([0, 0, 0, 2]))] + [1] * 40
    prompt = stem[: rng.randint(1, 12)] + [rng.randint(1, 3) for _ in range(rng.randint(0, 6))]
    if harness.ended and rng.random() < 0.4:  # a next turn, or the same again
        earlier = harness.runner.truth[rng.choice(list(harness.ended)[-6:])]
        prompt = earlier[: rng.randint(1, 50)] + prompt[: rng.randint(0, 2)]
    min_tokens = rng.choice([0, 0, 0, 4])
    return Request(
        id=name,
        tokens=tuple(prompt),
        params=SamplingParams(
            max_tokens=rng.choice([None, None, None, 0, 1, 20, 40]) if min_tokens == 0 else 12,
            min_tokens=min_tokens,
            ignore_eos=rng.random() < 0.8,
            stop_token_ids=rng.choice([(), (), (), (11, 12)]),
            logprobs=rng.choice([None, 0]),
            prompt_logprobs=rng.choice([None] * 7 + [1]),
            presence_penalty=rng.choice([0.0, 1.0]),
        ),
        sample=rng.randint(0, 2),
        deadline_s=harness.now_s + rng.randint(0, 30) if rng.random() < 0.08 else None,
        want=rng.choice(["tokens"] * 12 + ["logits", "embedding"]),
        adapter=rng.choice([None] * 5 + ["a"]),
        cache=rng.random() < 0.9,
    )


def spoil_one(rng: random.Random, plan: Plan, results: list[Result]) -> list[Result]:
    if results:
        results[rng.randrange(len(results))] = Result(error="not a number in the logits")
    return results


def act(harness: Harness, rng: random.Random, action: str, names: count[int]) -> None:
    def abort_one() -> None:
        harness.scheduler.abort(rng.choice([*harness.live, "unknown"]))

    if action == "add":
        request = random_request(rng, str(next(names)), harness)
        try:
            harness.add(request)
        except (RequestError, CapacityError, Overloaded):
            assert request.id not in harness.live
    elif action == "abort":
        abort_one()
    elif action == "abort between":
        harness.step(between=abort_one)
    elif action == "spoil":
        harness.step(spoil=lambda plan, results: spoil_one(rng, plan, results))
    else:
        harness.step(fail=action == "fail")


@pytest.mark.parametrize("seed", range(4))
def test_random_steps_mix_up_and_lose_nothing(seed: int) -> None:
    rng, names = random.Random(seed), count()
    num_steps = num_preemptions = num_cached = num_restored = 0
    while num_steps < 15_000:
        harness = Harness(random_config(rng))
        rate = rng.choice([0.2, 0.5, 0.7])
        for _ in range(rng.randint(20, 600)):
            action = "add" if rng.random() < rate else "step"
            if rng.random() < 0.03:
                action = rng.choice(["abort", "abort between"] * 3 + ["spoil", "fail"])
            act(harness, rng, action, names)
        harness.drain()
        stats = harness.scheduler.stats()
        num_steps += stats.num_steps
        num_preemptions += stats.num_preemptions
        num_cached += stats.num_cached_tokens
        num_restored += stats.num_cached_tokens if harness.config.has_slots else 0
    assert num_preemptions > 100, "the rare paths were not taken"
    assert num_cached > 1000
    assert num_restored > 300


class Machine(RuleBasedStateMachine):
    """The same actions, chosen (and on failure shortened) by hypothesis."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.rng, self.names = random.Random(seed), count()
        self.harness = Harness(random_config(self.rng))

    @rule(action=st.sampled_from(["add", "step"]), times=st.integers(1, 6))
    def go(self, action: str, times: int) -> None:
        for _ in range(times):
            act(self.harness, self.rng, action, self.names)

    @precondition(lambda self: self.harness.live)
    @rule(action=st.sampled_from(["abort", "abort between", "spoil", "fail"]))
    def disturb(self, action: str) -> None:
        act(self.harness, self.rng, action, self.names)

    def teardown(self) -> None:
        if hasattr(self, "harness"):
            self.harness.drain()


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
