"""The engine's thread: any thread may call, every request ends once, and a failure ends what it must and nothing more."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path

import pytest
import transformers

from parity.core.errors import ContextExceeded, EngineError, RequestError, UsageError
from parity.core.request import Output, Request, SamplingParams
from parity.engine.service import EngineService
from tests.models import tiny
from tests.models.test_dense import SIZES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen2")
    tiny.save(transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**SIZES), path)
    return path


class Inbox:
    """Collects outputs and waits for the finish."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.done = threading.Event()

    def __call__(self, output: Output) -> None:
        assert not self.done.is_set(), "an output after the finish"
        self.outputs.append(output)
        if output.finish is not None:
            self.done.set()

    def finish(self, timeout_s: float = 30.0) -> str:
        assert self.done.wait(timeout_s), "the request never ended"
        finish = self.outputs[-1].finish
        assert finish is not None
        return finish.reason

    @property
    def tokens(self) -> list[int]:
        return [token for output in self.outputs for token in output.tokens]


def test_many_threads_get_what_each_gets_alone(folder: Path) -> None:
    prompts = [tiny.prompt(5 + n, 160, n) for n in range(12)]
    expected = [tiny.generated(tiny.finish(tiny.open_engine(folder), [tiny.greedy("a", p, 8)])["a"]) for p in prompts]
    service = EngineService(tiny.open_engine(folder))
    inboxes = [Inbox() for _ in prompts]
    threads = [
        threading.Thread(target=service.submit, args=(tiny.greedy(str(n), prompt, 8), inboxes[n]))
        for n, prompt in enumerate(prompts)
    ]
    for thread in threads:
        thread.start()
    assert [inbox.finish() for inbox in inboxes] == ["length"] * len(prompts)
    assert [inbox.tokens for inbox in inboxes] == expected
    for thread in threads:
        thread.join()
    service.close()
    assert service.stats().num_pages_used == 0


def test_refusals_reach_the_caller(folder: Path) -> None:
    service = EngineService(tiny.open_engine(folder, max_model_len=16))
    with pytest.raises(ContextExceeded, match="17 tokens"):
        service.submit(tiny.greedy("long", tiny.prompt(17, 160), 4), Inbox())
    with pytest.raises(RequestError, match="160 is not in the vocabulary"):
        service.submit(tiny.greedy("foreign", [5, 160], 4), Inbox())
    with pytest.raises(RequestError, match="empty"):
        service.submit(tiny.greedy("empty", [], 4), Inbox())
    biased = SamplingParams(logit_bias={5: 1.0, 160: 1.0})
    with pytest.raises(RequestError, match="logit_bias names token 160, which is not in the vocabulary of 160"):
        service.submit(Request("biased", (5,), biased), Inbox())
    service.close()
    with pytest.raises(EngineError, match="stopped"):
        service.submit(tiny.greedy("late", [5], 4), Inbox())


def test_requests_given_together_start_together_or_not_at_all(folder: Path) -> None:
    service = EngineService(tiny.open_engine(folder))
    outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
    with pytest.raises(RequestError, match="empty"):
        service.submit_all([tiny.greedy("good", [5, 6], 4), tiny.greedy("bad", [], 4)], outputs.put)
    service.submit_all([tiny.greedy(name, [5, number], 4) for number, name in enumerate("abc")], outputs.put)
    found = [outputs.get(timeout=30) for _ in range(12)]
    service.close()
    assert [output.request_id for output in found] == [*"abc"] * 4
    assert outputs.empty()


def test_abort_deadline_and_close_each_end_a_request(folder: Path) -> None:
    service = EngineService(tiny.open_engine(folder, num_pages=64))
    aborted, late, closed = Inbox(), Inbox(), Inbox()
    service.submit(tiny.greedy("aborted", [5, 6], 200), aborted)
    service.submit(tiny.greedy("late", [5, 7], 200, deadline_s=time.monotonic() + 0.05), late)
    service.abort("aborted")
    service.abort("unknown")
    assert aborted.finish() == "abort"
    assert late.finish() == "timeout"
    service.submit(tiny.greedy("closed", [5, 8], 200), closed)
    service.close()
    assert closed.finish() == "abort"


def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny.open_engine(folder)
    start, failing = engine.runner.start, threading.Event()

    def fragile(*step: object) -> object:
        if failing.is_set():
            raise RuntimeError("a kernel broke")
        return start(*step)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.runner, "start", fragile)
    service = EngineService(engine)
    failing.set()
    broken = Inbox()
    service.submit(tiny.greedy("broken", [5, 6], 8), broken)
    assert broken.finish() == "error"
    assert "a kernel broke" in str(broken.outputs[-1].finish)
    failing.clear()
    fine = Inbox()
    service.submit(tiny.greedy("fine", [5, 6], 8), fine)
    assert fine.finish() == "length"
    service.close()
    engine.scheduler.check()


def test_a_receiver_that_fails_loses_its_own_request_only(folder: Path) -> None:
    service = EngineService(tiny.open_engine(folder))

    def broken(output: Output) -> None:
        raise ValueError("the client is gone")

    fine = Inbox()
    service.submit(tiny.greedy("broken", [5, 6], 100), broken)
    service.submit(tiny.greedy("fine", [5, 6], 8), fine)
    assert fine.finish() == "length"
    service.close()


def test_a_seed_is_drawn_where_none_is_given(folder: Path) -> None:
    service = EngineService(tiny.open_engine(folder, num_pages=256))
    inboxes = [Inbox() for _ in range(6)]
    for n, inbox in enumerate(inboxes):
        service.submit(Request(str(n), (5, 6), SamplingParams(temperature=2.0, max_tokens=12, ignore_eos=True)), inbox)
    answers = {tuple(inbox.tokens) for inbox in inboxes if inbox.finish()}
    assert len(answers) > 1
    service.close()


def test_an_id_is_in_use_until_its_last_output_is_delivered(folder: Path) -> None:
    service = EngineService(tiny.open_engine(folder))
    first, second = Inbox(), Inbox()
    service.submit(tiny.greedy("same", [5, 6], 200), first)
    held, free = threading.Event(), threading.Event()
    threading.Thread(target=service.call, args=(lambda: (held.set(), free.wait()),), daemon=True).start()
    assert held.wait(30)
    service.abort("same")  # taken between the same two steps as the request that follows
    threading.Timer(0.2, free.set).start()
    with pytest.raises(RequestError, match="'same' has not ended yet"):
        service.submit(tiny.greedy("same", [5, 7], 8), second)
    assert first.finish() == "abort"
    service.submit(tiny.greedy("same", [5, 7], 8), second)
    assert second.finish() == "length"
    service.close()


def test_an_adapter_is_refused(folder: Path) -> None:
    service = EngineService(tiny.open_engine(folder))
    with pytest.raises(RequestError, match="no adapter 'law'"):
        service.submit(tiny.greedy("a", [5, 6], 4, adapter="law"), Inbox())
    service.close()


def test_logits_come_with_log_probabilities_of_the_prompt(folder: Path) -> None:
    engine = tiny.open_engine(folder, max_num_batched_tokens=8, max_num_seqs=2)
    params, tokens = SamplingParams(max_tokens=0, prompt_logprobs=2), tuple(tiny.prompt(21, 160))
    ended = tiny.finish(engine, [Request(want, tokens, params, want=want, cache=False) for want in ("logits", "tokens")])
    both, alone = ([entry for output in ended[want] for entry in output.prompt_logprobs or ()] for want in ("logits", "tokens"))
    assert len(both) == 20
    assert [entry.token for entry in both] == list(tokens[1:])
    assert [entry.logprob for entry in both] == pytest.approx([entry.logprob for entry in alone], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_num_batched_tokens": 7}, r"max_num_batched_tokens \(7\) is below max_num_seqs \(8\)"),
        ({"memory_fraction": 1.5}, "memory_fraction must be above 0 and at most 1, not 1.5"),
        ({"memory_fraction": 0.0}, "memory_fraction must be above 0"),
        ({"memory_fraction": float("nan")}, "memory_fraction must be above 0"),
        ({"memory_fraction": "0.5"}, "memory_fraction must be above 0 and at most 1, not '0.5'"),
        ({"max_model_len": 0}, "max_model_len must be a whole number of at least 1, not 0"),
        ({"max_model_len": -1}, "max_model_len must be a whole number of at least 1, not -1"),
        ({"page_size": 0}, "page_size must be a whole number of at least 1, not 0"),
        ({"page_size": -2}, "page_size must be a whole number of at least 1, not -2"),
        ({"max_num_seqs": 0}, "max_num_seqs must be a whole number of at least 1, not 0"),
        ({"max_num_seqs": 2.5}, "max_num_seqs must be a whole number of at least 1, not 2.5"),
        ({"num_snapshots": -1}, "num_snapshots must be a whole number of at least 0, not -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder: Path, options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        tiny.open_engine(folder, **options)
