"""The default model on the cpu stack: a request gets the same tokens and log-probabilities whatever runs beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.core.request import Output, Request, SamplingParams
from parity.engine.engine import Engine
from parity.engine.load import EngineConfig, load_model, make_engine
from parity.hub import open_checkpoint
from parity.stacks.cpu.native import missing
from parity.stacks.registry import open_stack

if missing() is not None:
    pytest.skip(f"the cpu stack's kernels: {missing()}", allow_module_level=True)

Open = Callable[..., Engine]


@pytest.fixture(scope="module")
def open_engine(default_model: Path) -> Open:
    """Engines over one copy of the weights."""
    stack, _ = open_stack("cpu")
    checkpoint = open_checkpoint(default_model)
    model = load_model(checkpoint, stack, torch.float32)
    settings: dict[str, object] = {"page_size": 16, "num_pages": 64, "max_num_seqs": 4, "enable_prefix_caching": False}

    def opened(head_rows: int = stack.head_rows, **options: object) -> Engine:
        config = EngineConfig(**(settings | {"max_model_len": 128} | options))  # type: ignore[arg-type]
        return make_engine(model, checkpoint, replace(stack, head_rows=head_rows), torch.float32, "default", config)

    return opened


def request(name: str, length: int, count: int = 10) -> Request:
    """Random tokens, sampled: one rounding more or less would soon choose another token."""
    tokens = np.random.default_rng(length).integers(1000, 100_000, length)
    params = SamplingParams(temperature=1.2, top_p=0.95, seed=5, max_tokens=count, ignore_eos=True, logprobs=2)
    return Request(name, tuple(int(token) for token in tokens), params)


def answers(engine: Engine, requests: list[Request]) -> dict[str, list[object]]:
    """Tokens and log-probabilities of each request."""
    for one in requests:
        engine.add(one)
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    assert all(output.finish is None or output.finish.reason == "length" for output in outputs)
    return {one.id: [(o.tokens, o.logprobs) for o in outputs if o.request_id == one.id and o.tokens] for one in requests}


@pytest.fixture(scope="module")
def alone(open_engine: Open) -> list[object]:
    """What the request gives by itself, with nothing recorded."""
    return answers(open_engine(enforce_eager=True), [request("it", 30)])["it"]


OTHERS = [request("a", 5, 20), request("b", 20, 3), request("c", 11, 12)]
"""They come and go while it runs."""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"max_num_seqs": 1}, id="recorded"),
        pytest.param({}, id="beside others"),
        pytest.param({"max_num_batched_tokens": 7}, id="in chunks"),
        pytest.param({"max_num_batched_tokens": 16, "num_pages": 6}, id="preempted"),
        pytest.param({"enable_prefix_caching": True}, id="from the prefix cache"),
    ],
)
def test_what_runs_beside_it_changes_nothing(options: dict[str, object], open_engine: Open, alone: list[object]) -> None:
    engine = open_engine(**options)
    beside = [] if options.get("max_num_seqs") == 1 else OTHERS
    if options.get("enable_prefix_caching"):
        answers(engine, [request("before", 30, 1)])
    # The latest to come is preempted first.
    found = answers(engine, [*beside, request("it", 30)])
    assert found["it"] == alone
    assert engine.runner.recorded
    assert (engine.stats().num_preemptions > 0) == ("num_pages" in options)
    assert (engine.stats().num_cached_tokens > 0) == bool(options.get("enable_prefix_caching"))


def test_logits_of_some_rows_after_the_others_change_nothing(open_engine: Open, alone: list[object]) -> None:
    assert answers(open_engine(enforce_eager=True, head_rows=3), [*OTHERS, request("it", 30)])["it"] == alone
