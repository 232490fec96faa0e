"""The default model's real weights against transformers reading the same file dequantised to float32."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from parity import LLM, SamplingParams
from parity.core.chat import Message, Tool
from parity.core.errors import RequestError

pytestmark = pytest.mark.timeout(600)  # float32 weights of a real model, twice

TEXT = """The history of computing is longer than the history of computers. Before there were machines that could follow
instructions, people kept tables: of tides, of logarithms, of the positions of the planets.

def checksum(data: bytes) -> int:
    total = 0
    for byte in data:
        total = (total * 31 + byte) % 65521
    return total

Il était une fois, dans un petit village, une horloge qui retardait. 三人行，必有我师焉。"""

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time",
    "SELECT name, age FROM",
    "import numpy as np\n\n",
    "The three laws of thermodynamics are",
    "// Returns the larger of two numbers\nint",
    "1, 1, 2, 3, 5, 8,",
    "Dear Sir or Madam,",
    "Die Hauptstadt von Deutschland",
    "今天天气",
    "<html>\n<head>",
    "Q: What is 17 * 3?\nA:",
    "class Stack:\n    def __init__(self):",
    "In 1969, the first",
    "for i in range(10):",
    "La recette du gâteau :",
    '{"name": "Ada", "age":',
    "# Makefile\nall:",
    "The meaning of life",
]


@pytest.fixture(scope="module", autouse=True)
def _all_threads() -> Iterator[None]:
    """A real model is worth all cores; tests of tiny ones leave torch with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference(default_model: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(
        default_model.parent,
        gguf_file=default_model.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.float32,
    ).eval()


@pytest.fixture(scope="module")
def llm(default_model: Path) -> Iterator[LLM]:
    with LLM(default_model, stack="cpu:reference:float32", num_pages=256) as model:
        yield model


@torch.inference_mode()
def logits_of(model: transformers.PreTrainedModel, tokens: list[int]) -> np.ndarray:
    return model(torch.tensor([tokens])).logits[0].numpy()


def test_logits_agree_with_transformers(llm: LLM, reference: transformers.PreTrainedModel) -> None:
    tokens = list(llm.encode(TEXT))
    assert np.abs(llm.logits(tokens) - logits_of(reference, tokens)).max() < 1e-3


def test_greedy_is_transformers_greedy(llm: LLM, reference: transformers.PreTrainedModel) -> None:
    """Each token of ours is the reference's best after the same beginning, which is greedy by induction; where it is not,
    the two best stand within 1e-3."""
    answers = llm.generate(PROMPTS, SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True))
    near_ties = 0
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ours = list(answer.tokens)
        assert len(ours) == 64
        tokens = [*answer.prompt_tokens, *ours]
        rows = logits_of(reference, tokens)[len(answer.prompt_tokens) - 1 : -1]
        for row, token in zip(rows, ours, strict=True):
            if token != row.argmax():
                near_ties += 1
                assert row.max() - row[token] < 1e-3, (prompt, token)
    assert near_ties <= 2


def test_scores_and_logits_tell_the_same(llm: LLM) -> None:
    tokens = list(llm.encode("A journey of a thousand miles"))
    logits = torch.from_numpy(llm.logits(tokens)).log_softmax(-1)
    for position, entry in enumerate(llm.score(tokens, top=3)):
        assert entry.token == tokens[position + 1]
        assert entry.logprob == pytest.approx(float(logits[position, entry.token]), abs=1e-4)
        assert entry.top[0][0] == int(logits[position].argmax())


def test_the_chat_template_is_transformers(llm: LLM, default_model: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(default_model.parent, gguf_file=default_model.name)
    tool = {"name": "weather", "description": "The weather.", "parameters": {"type": "object", "properties": {}}}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it raining in Łódź?"}]
    turns = [Message(role=m["role"], content=m["content"]) for m in messages]  # type: ignore[arg-type]
    for ours, theirs in (([], None), ([Tool(**tool)], [{"type": "function", "function": tool}])):
        expected = tokenizer.apply_chat_template(messages, tools=theirs, tokenize=False, add_generation_prompt=True)
        prompt = llm.chat_format.prompt(turns, ours)
        assert prompt.text == expected
        assert list(prompt.tokens) == tokenizer(expected, add_special_tokens=False)["input_ids"]


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
