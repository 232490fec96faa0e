"""The default model in float32: what is asked of it, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from parity import LLM, SamplingParams
from parity.core.chat import Message
from parity.core.errors import RequestError


@pytest.fixture(scope="module")
def llm(default_model: Path) -> Iterator[LLM]:
    with LLM(default_model, stack="cpu:reference:float32", num_pages=256) as model:
        yield model


def test_scores_and_logits_tell_the_same(llm: LLM) -> None:
    tokens = list(llm.encode("A journey of a thousand miles"))
    logits = torch.from_numpy(llm.logits(tokens)).log_softmax(-1)
    for position, entry in enumerate(llm.score(tokens, top=3)):
        assert entry.token == tokens[position + 1]
        assert entry.logprob == pytest.approx(float(logits[position, entry.token]), abs=1e-4)
        assert entry.top[0][0] == int(logits[position].argmax())


def test_a_chat_answers_a_question(llm: LLM) -> None:
    answer = llm.chat("What is the capital of Italy? Answer in one word.", llm.params(temperature=0.0, max_tokens=8))
    assert "Rome" in answer.text
    assert answer.finish.reason == "stop"


def test_what_is_no_prompt_is_refused(llm: LLM) -> None:
    with pytest.raises(RequestError, match="raw=True"):
        llm.stream([1, 2, 3])
    with pytest.raises(RequestError, match="a conversation is for"):
        llm.stream([Message("user", "x")], raw=True)
    with pytest.raises(RequestError, match="a token id stands among them"):
        llm.generate(["x", 5])  # type: ignore[list-item]  # which is the point
    assert llm.generate([]) == []


def test_a_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=40, stop=(" Paris",))
    (answer,) = llm.generate("The capital of France is", params)
    assert answer.finish.stop == " Paris"
    assert answer.text == ""
