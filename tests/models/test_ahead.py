"""Steps started ahead on the real runner: the same tokens as in the plain order, recorded and not, greedy and sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from parity.core.batch import Plan
from parity.core.request import Output, Request, SamplingParams
from parity.engine.engine import Engine
from parity.engine.runner import Runner, Started
from parity.stacks.registry import open_stack

from . import test_dense, test_experts, tiny

DEVICE = type(open_stack("cpu:reference")[0].device)
MODELS = {"llama": ("Llama", test_dense.SIZES), "qwen3_next": test_experts.CASES["qwen3_next"]}


class Replayed:
    """A recording that computes the step again."""

    def __init__(self, run: Callable[[], Tensor], out: Tensor) -> None:
        self.run, self.out = run, out

    num_bytes = 0

    def replay(self) -> None:
        self.out.copy_(self.run())


def record(device: object, run: Callable[[], Tensor], beside: Replayed | None = None) -> tuple[Replayed, Tensor]:
    out = run()
    return Replayed(run, out), out


def copied(device: object, data: Tensor) -> Callable[[], Tensor]:
    """What stands there now, though what is computed later may write over it."""
    landed = data.clone()
    return lambda: landed


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Makes the host a device that runs on by itself; the plans that were started ahead."""
    plans: list[Plan] = []
    start = Runner.start

    def counted(self: Runner, plan: Plan, before: Started | None = None) -> Started:
        if plan.follows:
            plans.append(plan)
        return start(self, plan, before)

    monkeypatch.setattr(DEVICE, "asynchronous", True)
    monkeypatch.setattr(DEVICE, "fetch", copied)
    monkeypatch.setattr(DEVICE, "capture", record)
    monkeypatch.setattr(DEVICE, "recorded_rows", (1, 2, 4))
    monkeypatch.setattr(Runner, "start", counted)
    return plans


def requests() -> list[Request]:
    """Greedy and sampled ones of several lengths; some with what has to be waited for."""
    made = []
    for index in range(6):
        params = SamplingParams(
            temperature=0.8 * (index % 2),
            top_k=20,
            seed=index,
            max_tokens=4 + 9 * index,
            logprobs=1 if index == 3 else None,
            presence_penalty=0.5 if index == 4 else 0.0,
            stop_token_ids=tuple(range(0, 160, 40)) if index == 5 else (),
        )
        made.append(Request(str(index), tuple(tiny.prompt(5 + 6 * (index // 2), 160, index // 2)), params))
    return made


def greedy(name: str, *tokens: int) -> Request:
    return Request(name, tokens, SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True))


def tokens_of(outputs: list[Output]) -> list[int]:
    assert outputs[-1].finish is not None
    return [token for output in outputs for token in output.tokens]


def answers(engine: Engine) -> dict[str, list[int]]:
    """In two waves, the second of which begins like the first; one request is aborted under way."""
    outputs: dict[str, list[Output]] = {}
    for wave in (requests()[:3], requests()[2:]):
        for request in wave:
            engine.add(request)
        for step in range(400):
            if step == 9:
                engine.abort(wave[-1].id if wave[-1].id == "2" else "unknown")
            for output in engine.step():
                outputs.setdefault(output.request_id, []).append(output)
            if not engine.has_work:
                break
    engine.scheduler.check()
    assert engine.stats().num_pages_used == 0
    return {name: tokens_of(some) for name, some in outputs.items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_tokens_are_those_of_the_plain_order(name: str, tmp_path: Path, fed: list[Plan]) -> None:
    family, sizes = MODELS[name]
    tiny.save(getattr(transformers, f"{family}ForCausalLM"), getattr(transformers, f"{family}Config")(**sizes), tmp_path)
    settings = {"max_num_seqs": 3, "num_pages": 24, "page_size": 4, "stack": "cpu:reference"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DEVICE, "asynchronous", False)
        expected = answers(tiny.open_engine(tmp_path, **settings, enforce_eager=True))
    assert not fed
    for eager in (True, False):
        fed.clear()
        engine = tiny.open_engine(tmp_path, **settings, enforce_eager=eager)
        found = answers(engine)
        assert len(fed) > 20
        assert bool(engine.runner.recorded) != eager
        expected["2"] = found["2"] = expected["2"][: len(found["2"])]  # aborted, a step sooner or later
        assert found == expected


def test_what_is_sent_is_used_where_it_was_sent_to(tmp_path: Path, fed: list[Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes on with the host's numbers reads nonsense here; a step like the one before it sends none."""
    family, sizes = MODELS["llama"]
    tiny.save(getattr(transformers, f"{family}ForCausalLM"), getattr(transformers, f"{family}Config")(**sizes), tmp_path)
    settings = {"max_num_seqs": 3, "num_pages": 24, "page_size": 4, "stack": "cpu:reference"}
    expected, sent = answers(tiny.open_engine(tmp_path, **settings)), list[Tensor]()

    def send(device: object, data: Tensor) -> Tensor:
        sent.append(data.clone())
        data.fill_(77)
        return sent[-1]

    monkeypatch.setattr(DEVICE, "send", send)
    engine = tiny.open_engine(tmp_path, **settings)
    found = answers(engine)
    assert found == expected
    assert sent
    engine.add(greedy("one", 5, 6, 7))
    for _ in range(3):
        engine.step()
    sent.clear()
    for _ in range(4):
        engine.step()
    assert not sent


def test_a_batch_is_not_written_over_while_it_may_still_be_read(tmp_path: Path, fed: list[Plan]) -> None:
    family, sizes = MODELS["llama"]
    tiny.save(getattr(transformers, f"{family}ForCausalLM"), getattr(transformers, f"{family}Config")(**sizes), tmp_path)
    engine = tiny.open_engine(tmp_path, stack="cpu:reference")
    engine.add(greedy("one", 5, 6, 7))
    for _ in range(4):
        engine.step()
    inputs = engine.runner.recorded[1].inputs
    last, before = inputs._staged[1].array.clone(), inputs._staged[0].array.clone()
    assert not torch.equal(last, before)
    engine.step()
    assert torch.equal(inputs._staged[0].array, last)  # that step may not have begun; the one before it has ended
    assert not torch.equal(inputs._staged[1].array, before)


def test_a_row_without_a_token_ends_alone(tmp_path: Path, fed: list[Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its -1 goes into the step that was started ahead, which computes something and is thrown away."""
    family, sizes = MODELS["llama"]
    tiny.save(getattr(transformers, f"{family}ForCausalLM"), getattr(transformers, f"{family}Config")(**sizes), tmp_path)
    engine = tiny.open_engine(tmp_path, stack="cpu:reference")
    expected = tokens_of(tiny.finish(engine, [greedy("fine", 9, 8)])["fine"])
    sample, calls = engine.runner._sampler._ops.sample, 0

    def spoiling(logits: Tensor, *rest: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        tokens = sample(logits, *rest)
        if calls == 5:
            tokens[0] = -1
        return tokens

    engine.runner._sampler._ops = replace(engine.runner._sampler._ops, sample=spoiling)
    outputs = tiny.finish(engine, [greedy("bad", 5, 6, 7), greedy("fine", 9, 8)])
    assert outputs["bad"][-1].finish is not None
    assert outputs["bad"][-1].finish.reason == "error"
    assert len(tokens_of(outputs["bad"])) == 4
    assert tokens_of(outputs["fine"]) == expected
