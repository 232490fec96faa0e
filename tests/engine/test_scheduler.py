"""The scheduler, rule by rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from parity.core.batch import Plan, Result
from parity.core.errors import CapacityError, ContextExceeded, Overloaded, RequestError, UsageError
from parity.core.request import Finish, Request, SamplingParams
from parity.engine.limits import SchedulerConfig

from .scripted import EOS, Harness, alone, state_after

TEN = tuple(range(10, 20))


def harness(**changes: Any) -> Harness:
    values: dict[str, Any] = {
        "page_size": 4, "num_pages": 64, "max_model_len": 100, "max_num_seqs": 4, "max_num_batched_tokens": 64,
    }  # fmt: skip
    return Harness(SchedulerConfig(**values | {"eos_token_ids": frozenset({EOS})} | changes))


def request(name: str, tokens: tuple[int, ...] = TEN, *, max_tokens: int | None = 5, **changes: Any) -> Request:
    of_params = {key: changes.pop(key) for key in list(changes) if key in SamplingParams.__dataclass_fields__}
    params = SamplingParams(max_tokens=max_tokens, **{"ignore_eos": True, **of_params})
    return Request(name, tokens, params, **changes)


def lengths(plan: Plan) -> dict[str, int]:
    return {chunk.request.id: len(chunk.tokens) for chunk in plan.chunks}


def finish(engine: Harness, name: str) -> Finish:
    found = engine.ended[name].finish
    assert found is not None
    return found


# Batching


def test_a_prompt_is_computed_at_once_and_then_a_token_a_step() -> None:
    engine = harness()
    engine.add(request("a", max_tokens=3))
    assert [lengths(engine.step()) for _ in range(3)] == [{"a": 10}, {"a": 1}, {"a": 1}]
    assert engine.tokens("a") == alone(request("a", max_tokens=3), 100)[0]
    assert not engine.step()


def test_decodes_come_first_and_prompts_fill_what_is_left() -> None:
    engine = harness(max_num_batched_tokens=8, prefix_caching=False)
    engine.add(request("a", TEN[:8]))
    engine.step()
    engine.add(request("b"))
    engine.add(request("c"))
    plans = [engine.step() for _ in range(3)]
    assert [lengths(plan) for plan in plans] == [{"a": 1, "b": 7}, {"a": 1, "b": 3, "c": 4}, {"a": 1, "b": 1, "c": 6}]
    assert [chunk.sample for chunk in plans[0].chunks] == [True, False]
    assert [chunk.rows for chunk in plans[0].chunks] == ["last", "none"]
    engine.drain()


def test_no_more_run_than_seats_and_the_first_come_is_first_served() -> None:
    engine = harness(max_num_seqs=2)
    for name in "abc":
        engine.add(request(name))
    assert list(lengths(engine.step())) == ["a", "b"]
    engine.scheduler.abort("a")
    assert list(lengths(engine.step())) == ["b", "c"]
    engine.drain()


def test_chunked_and_batched_equal_whole_and_alone() -> None:
    requests = [request(str(index), TEN[: 5 + index], max_tokens=20) for index in range(4)]
    whole = [harness(max_num_seqs=1).run(one)[0] for one in requests]
    assert harness(max_num_batched_tokens=4).run(*requests) == whole


# Ends


def test_the_end_token_ends_and_is_named() -> None:
    one = next(
        found
        for sample in range(200)
        if EOS in alone(found := request("a", max_tokens=90, sample=sample), 100)[0][3:]
    )  # fmt: skip
    generated = alone(one, 100)[0]
    stopping = Request("a", TEN, one.params.replace(ignore_eos=False), sample=one.sample)
    engine = harness()
    assert engine.run(stopping)[0] == generated[: generated.index(EOS) + 1]
    assert finish(engine, "a") == Finish("stop", stop=EOS)
    assert len(harness().run(one)[0]) == 90


def test_stop_tokens_end_but_not_before_min_tokens() -> None:
    third = alone(request("a"), 100)[0][2]
    engine = harness()
    engine.run(request("a", stop_token_ids=(third,)), request("b", stop_token_ids=(third,), min_tokens=3))
    assert len(engine.tokens("a")) == 3
    assert finish(engine, "a") == Finish("stop", stop=third)
    assert len(engine.tokens("b")) == 5
    assert finish(engine, "b") == Finish("length")


def test_the_context_and_the_pages_end_an_answer() -> None:
    for changes in ({"max_model_len": 17}, {"num_pages": 17, "page_size": 1}):
        engine = harness(**changes)
        assert len(engine.run(request("a", max_tokens=None))[0]) == 7
        assert finish(engine, "a") == Finish("length")


def test_no_tokens_wanted() -> None:
    engine = harness()
    engine.run(request("a", max_tokens=0), request("b", want="logits"), request("c", want="embedding"))
    assert [finish(engine, name).reason for name in "abc"] == ["length", "stop", "stop"]
    array = engine.ended["b"].array
    assert array is not None
    assert array.shape == (10, 1)
    assert engine.ended["c"].array is not None


def test_a_prompt_that_fills_the_context_can_be_scored_but_not_answered() -> None:
    engine = harness(max_model_len=10)
    engine.run(request("a", want="logits"), request("b", max_tokens=0))
    with pytest.raises(ContextExceeded):
        engine.add(request("c"))


def test_abort_waiting_running_and_unknown() -> None:
    engine = harness(max_num_seqs=1)
    engine.add(request("a"))
    engine.add(request("b"))
    engine.step()
    for name in ("a", "b", "c"):
        engine.scheduler.abort(name)
    assert engine.scheduler.has_work
    engine.step()
    assert [finish(engine, name).reason for name in "ab"] == ["abort", "abort"]
    assert len(engine.tokens("a")) == 1
    engine.drain(1)


def test_abort_and_reuse_of_the_id_between_plan_and_commit() -> None:
    engine = harness()
    engine.add(request("a"))

    def replace() -> None:
        engine.scheduler.abort("a")
        engine.scheduler.add(request("a"))

    plan = engine.scheduler.plan(0.0)
    results = engine.runner.run(plan)
    replace()
    outputs = engine.scheduler.commit(plan, results, 0.0)
    assert [output.finish for output in outputs] == [Finish("abort")]
    assert engine.scheduler.waiting[0].num_generated == 0
    engine.scheduler.check()


def test_deadlines_end_waiting_and_running_requests() -> None:
    engine = harness(max_num_seqs=1)
    engine.add(request("a", max_tokens=80, deadline_s=3.5))
    engine.add(request("b", deadline_s=2.5))
    engine.add(request("c", deadline_s=1000.0))
    engine.drain()
    assert [finish(engine, name).reason for name in "abc"] == ["timeout", "timeout", "length"]
    assert [engine.ended[name].usage.num_generated_tokens for name in "abc"] == [3, 0, 5]


def test_a_result_with_an_error_ends_its_request_only() -> None:
    engine = harness()
    engine.add(request("a"))
    engine.add(request("b"))
    engine.step(spoil=lambda plan, results: [Result(error="not a number"), results[1]])
    engine.drain()
    assert finish(engine, "a") == Finish("error", message="not a number")
    assert finish(engine, "b") == Finish("length")


def test_a_failed_step_ends_those_in_it_only() -> None:
    engine = harness(max_num_seqs=1)
    engine.add(request("a"))
    engine.add(request("b"))
    engine.step(fail=True)
    assert finish(engine, "a") == Finish("error", message="boom")
    engine.drain()
    assert finish(engine, "b") == Finish("length")


def test_a_result_without_its_token_is_an_error() -> None:
    engine = harness()
    engine.add(request("a"))
    engine.step(spoil=lambda plan, results: [Result()])
    assert finish(engine, "a").reason == "error"


class Counting:
    """A constraint that is done after some tokens, or fails."""

    def __init__(self, num_tokens: int, accept: Callable[[int], None] = lambda token: None) -> None:
        self.left, self._accept = num_tokens, accept

    def mask(self) -> None:
        return None

    def accept(self, token: int) -> None:
        self._accept(token)
        self.left -= 1

    @property
    def done(self) -> bool:
        return self.left == 0


def test_a_constraint_is_fed_each_token_and_ends_the_answer() -> None:
    fed: list[int] = []
    engine = harness()
    tokens = engine.run(request("a", constraint=Counting(3, fed.append)))[0]
    assert fed == tokens == alone(request("a"), 100)[0][:3]
    assert finish(engine, "a") == Finish("stop")


def test_a_constraint_that_fails_ends_its_request_only() -> None:
    def refuse(token: int) -> None:
        raise ValueError("not in the grammar")

    engine = harness()
    engine.run(request("a", constraint=Counting(3, refuse)), request("b"))
    assert finish(engine, "a").reason == "error"
    assert "not in the grammar" in str(finish(engine, "a").message)
    assert finish(engine, "b") == Finish("length")


# Refusals


def test_bad_requests_are_refused_by_name() -> None:
    engine = harness(max_num_waiting=2, num_pages=5)
    refusals: list[tuple[type[Exception], str, Request]] = [
        (RequestError, "empty", request("x", ())),
        (RequestError, "n must be 1", request("x", n=2)),
        (RequestError, "without prompt_logprobs", request("x", want="embedding", prompt_logprobs=0)),
        (ContextExceeded, "100 tokens > 99; the maximum context length is 100", request("x", TEN * 10)),
        (CapacityError, "holds 20 in all", request("x", TEN * 2)),
    ]
    for kind, text, bad in refusals:
        with pytest.raises(kind, match=text):
            engine.add(bad)
    engine.add(request("a"))
    with pytest.raises(RequestError, match="'a' is already running"):
        engine.add(request("a"))
    engine.add(request("b"))
    with pytest.raises(Overloaded, match="2 requests are waiting"):
        engine.add(request("c"))
    engine.drain()
    assert set(engine.ended) == {"a", "b"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_pages": 0}, "num_pages must be at least 1"),
        ({"page_size": -1}, "page_size must be at least 1"),
        ({"has_slots": True}, "num_slots must be at least 1"),
        ({"max_num_seqs": 65}, "every running request needs one token"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        harness(**changes)


# Reuse


def test_a_repeated_prompt_is_taken_from_the_cache_but_for_its_last_page() -> None:
    engine = harness()
    cold = engine.run(request("a", TEN[:8]))
    warm = engine.run(request("b", TEN[:8]))
    assert warm == cold
    assert engine.ended["a"].usage.num_cached_tokens == 0
    assert engine.ended["b"].usage.num_cached_tokens == 4
    stats = engine.scheduler.stats()
    assert (stats.num_prompt_tokens, stats.num_cached_tokens, stats.num_generated_tokens) == (16, 4, 10)
    assert stats.num_step_tokens == 16 - 4 + 10 - 2  # of an answer the last token is never read
    assert stats.steps_by_tokens == (8, 2, *[0] * 12)  # two prompts, of eight and four tokens, and single tokens


def test_the_next_turn_finds_the_answer_but_not_its_last_token() -> None:
    engine = harness()
    answer = engine.run(request("a", TEN[:8], max_tokens=8))[0]
    engine.run(request("b", (*TEN[:8], *answer, 1, 2)))
    assert engine.ended["b"].usage.num_cached_tokens == 12


def test_no_reuse_across_adapters_or_against_the_callers_will() -> None:
    engine = harness()
    engine.run(request("a"))
    for index, changes in enumerate(({"adapter": "x"}, {"cache": False}, {"prompt_logprobs": 0}, {"want": "logits"})):
        engine.run(request(str(index), **changes))  # type: ignore[arg-type]
        assert engine.ended[str(index)].usage.num_cached_tokens == 0
    engine.run(request("b"))
    assert engine.ended["b"].usage.num_cached_tokens == 8


def test_what_may_not_be_cached_is_not() -> None:
    for engine, one in ((harness(), request("a", cache=False)), (harness(prefix_caching=False), request("a"))):
        engine.run(one)
        assert len(engine.scheduler.cache) == 0


def test_the_same_prompt_at_once_ends_in_one_copy() -> None:
    engine = harness()
    engine.add(request("a"))
    engine.add(request("b", sample=1))
    engine.step()
    first, second = engine.scheduler.running
    assert first.pages[:2] == second.pages[:2]
    assert first.pages[2] != second.pages[2]
    engine.drain()


# Per-request state

SLOTS = {"has_slots": True, "num_slots": 4, "num_snapshots": 8, "snapshot_every": 2}


def test_snapshots_are_saved_at_the_last_boundary_of_the_prompt_and_restored() -> None:
    engine = harness(**SLOTS)
    engine.add(request("a", max_tokens=2))
    first, second = engine.step().chunks[0], engine.step().chunks[0]
    assert (first.length, first.save is not None, first.sample) == (8, True, False)
    assert (second.length, second.save, second.sample) == (10, None, True)
    engine.drain()
    engine.add(request("b", max_tokens=2))
    warm = engine.step().chunks[0]
    assert (warm.start, warm.restore) == (8, first.save)
    engine.drain()


def test_snapshots_keep_their_distance() -> None:
    engine = harness(**SLOTS, max_num_batched_tokens=5)
    engine.add(request("a", TEN * 3))
    ends = [(chunk.length, chunk.save is not None) for _ in range(8) for chunk in engine.step().chunks]
    assert ends == [(4, False), (8, True), (12, False), (16, True), (20, False), (24, True), (28, True), (30, False)]
    engine.drain()


def test_a_restored_snapshot_counts_for_the_distance() -> None:
    engine = harness(**SLOTS, max_num_batched_tokens=4)
    engine.run(request("a"))
    engine.add(request("b", TEN * 3))
    ends = [(chunk.start, chunk.length, chunk.save is not None) for _ in range(2) for chunk in engine.step().chunks]
    assert ends == [(8, 12, False), (12, 16, True)]
    engine.drain()


def test_a_younger_answer_does_not_wait_for_an_older_prompt() -> None:
    engine = harness(**SLOTS, max_num_batched_tokens=5)
    engine.add(request("a", TEN * 3))
    engine.add(request("b", (1,)))
    plans = [engine.step() for _ in range(2)]
    assert [list(lengths(plan).items()) for plan in plans] == [[("a", 4), ("b", 1)], [("b", 1), ("a", 4)]]
    engine.drain()


def test_without_a_snapshot_nothing_is_reused() -> None:
    engine = harness(**SLOTS | {"num_snapshots": 0})
    assert engine.run(request("a")) == engine.run(request("b"))
    assert engine.ended["b"].usage.num_cached_tokens == 0


def test_a_failed_step_gives_its_snapshots_back() -> None:
    for trouble in ({"fail": True}, {"spoil": lambda plan, results: [Result(error="x")]}):
        engine = harness(**SLOTS)
        engine.add(request("a"))
        assert engine.step(**trouble).chunks[0].save is not None  # type: ignore[arg-type]
        engine.scheduler.snapshots.check()
        assert len(engine.scheduler.snapshots) == 0


def test_slots_bound_the_running() -> None:
    engine = harness(**SLOTS | {"num_slots": 2})
    for name in "abc":
        engine.add(request(name))
    engine.step()
    assert engine.scheduler.stats().num_running == 2
    engine.drain()


# Preemption


@pytest.mark.parametrize("changes", [{}, {"prefix_caching": False}, SLOTS])
def test_preempted_equals_not(changes: dict[str, Any]) -> None:
    requests = [request(str(index), TEN[index : index + 4], max_tokens=40) for index in range(4)]
    roomy, tight = harness(**changes), harness(**changes, num_pages=20)
    assert tight.run(*requests) == roomy.run(*requests)
    assert roomy.scheduler.stats().num_preemptions == 0
    assert tight.scheduler.stats().num_preemptions > 0


def test_the_latest_is_preempted_and_is_first_to_return() -> None:
    engine = harness(num_pages=8, page_size=4, max_num_seqs=2)
    for name in "abc":
        engine.add(request(name, TEN[:4], max_tokens=24, sample=ord(name)))
    while not engine.scheduler.stats().num_preemptions:
        engine.step()
    assert [sequence.request.id for sequence in engine.scheduler.running] == ["a"]
    assert [sequence.request.id for sequence in engine.scheduler.waiting] == ["b", "c"]
    assert engine.scheduler.waiting[0].num_generated > 0
    engine.drain()
    assert list(engine.ended) == ["a", "b", "c"]


def test_none_is_admitted_into_the_room_that_others_are_about_to_need() -> None:
    engine = harness(num_pages=4)
    engine.add(request("a", TEN[:9], max_tokens=4))
    engine.add(request("b", TEN[:3]))
    assert list(lengths(engine.step())) == ["a"]
    engine.drain()
    assert engine.scheduler.stats().num_preemptions == 0


def test_prompt_rows_are_reported_once_across_preemptions() -> None:
    for changes in ({"prompt_logprobs": 0}, {"want": "logits"}):
        engine = harness(num_pages=10, max_num_batched_tokens=4)
        engine.add(request("a", TEN[:3], max_tokens=30))
        engine.step()
        engine.add(request("b", tuple(range(30)), **changes))  # type: ignore[arg-type]
        engine.drain()
        assert engine.scheduler.stats().num_preemptions > 0
        assert engine.runner.num_computed["b"] > 30
        assert finish(engine, "b").reason in ("stop", "length")


def test_rewinding_gives_back_the_pages_past_the_end() -> None:
    engine = harness()
    engine.add(request("a", max_tokens=20))
    for _ in range(4):
        engine.step()
    sequence = engine.scheduler.running[0]
    assert (sequence.num_computed, len(sequence.pages), len(sequence.chain)) == (13, 4, 3)
    last = sequence.pages[3]
    assert sequence.rewind(12, 4) == [last]
    engine.scheduler.cache.release([last])
    engine.scheduler.check()
    engine.drain()


def test_penalties_are_given_the_answer_so_far() -> None:
    engine = harness()
    engine.add(request("a", presence_penalty=1.0))
    engine.step()
    assert engine.step().chunks[0].generated == tuple(engine.tokens("a")[:1])
    engine.drain()


def test_the_scripted_runner_sees_another_requests_state() -> None:
    """The tests above mean something only if the runner would notice."""
    engine = harness()
    engine.add(request("a"))
    engine.step()
    page = engine.scheduler.running[0].pages[0]
    engine.runner.pages[page][1] = state_after(request("b", TEN[1:]), [3])[-1]
    with pytest.raises(AssertionError, match="reads another's state at 1"):
        engine.step()
