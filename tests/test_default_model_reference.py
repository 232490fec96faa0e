"""The default model's real weights against transformers reading the same file dequantised to float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from parity import LLM, SamplingParams
from parity.answers import Answer
from parity.core.chat import Message, Tool
from parity.core.heap import give_back
from parity.text.chat import Chat

pytestmark = pytest.mark.timeout(600)  # a real model in float32, and then the same again

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
NUM_TOKENS = 64
ROWS = 256
"""Logits that are held at a time."""


@dataclass
class Ours:
    """What Parity says: of `TEXT` the tokens and logits [tokens, vocabulary], and greedy answers to `PROMPTS`."""

    chat: Chat
    tokens: list[int]
    logits: np.ndarray
    answers: Sequence[Answer]


@pytest.fixture(scope="module")
def ours(default_model: Path) -> Ours:
    """Asked first, so that the weights are gone when the reference's are read: each copy takes 2 GB."""
    with LLM(default_model, stack="cpu:reference:float32", num_pages=256) as llm:
        tokens = list(llm.encode(TEXT))
        answers = llm.generate(PROMPTS, SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True))
        return Ours(llm.chat_format, tokens, llm.logits(tokens), answers)


@pytest.fixture(scope="module", autouse=True)
def _read_once() -> Iterator[None]:
    """The library parses 300,000 strings of the file whenever its config, its weights or its tokenizer are asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", cache(gguf.GGUFReader))
        yield


@pytest.fixture(scope="module")
def reference(default_model: Path, ours: Ours) -> Iterator[transformers.PreTrainedModel]:
    give_back()
    yield transformers.AutoModelForCausalLM.from_pretrained(
        default_model.parent,
        gguf_file=default_model.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.float32,
    ).eval()
    give_back()


@torch.inference_mode()
def hidden(model: transformers.PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Sequence[torch.Tensor]:
    """The states that the head reads, [tokens, hidden] of each sequence: of all at once, filled up at their ends, which
    nothing before them sees."""
    longest = max(map(len, sequences))
    states = model.model(torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in sequences]))[0]
    return [rows[: len(tokens)] for rows, tokens in zip(states, sequences, strict=True)]


@torch.inference_mode()
def test_logits_agree_with_transformers(ours: Ours, reference: transformers.PreTrainedModel) -> None:
    theirs = reference(torch.tensor([ours.tokens])).logits[0].numpy()
    assert np.abs(ours.logits - theirs).max() < 1e-3


@torch.inference_mode()
def test_greedy_is_transformers_greedy(ours: Ours, reference: transformers.PreTrainedModel) -> None:
    """Each token of ours is the reference's best after the same beginning, which is greedy by induction; where it is not,
    the two best stand within 1e-3."""
    assert [len(answer.tokens) for answer in ours.answers] == [NUM_TOKENS] * len(PROMPTS)
    states = hidden(reference, [[*answer.prompt_tokens, *answer.tokens] for answer in ours.answers])
    before = torch.cat([rows[-NUM_TOKENS - 1 : -1] for rows in states])
    chosen = torch.tensor([token for answer in ours.answers for token in answer.tokens])
    near_ties = 0
    for rows, tokens in zip(before.split(ROWS), chosen.split(ROWS), strict=True):
        logits = reference.lm_head(rows)
        best, wanted = logits.max(-1)
        near_ties += int((tokens != wanted).sum())
        assert (best - logits.gather(1, tokens[:, None])[:, 0]).max() < 1e-3
    assert near_ties <= 2


def test_the_chat_template_is_transformers(ours: Ours, default_model: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(default_model.parent, gguf_file=default_model.name)
    tool = {"name": "weather", "description": "The weather.", "parameters": {"type": "object", "properties": {}}}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it raining in Łódź?"}]
    turns = [Message(role=m["role"], content=m["content"]) for m in messages]  # type: ignore[arg-type]
    for given, theirs in (([], None), ([Tool(**tool)], [{"type": "function", "function": tool}])):
        expected = tokenizer.apply_chat_template(messages, tools=theirs, tokenize=False, add_generation_prompt=True)
        prompt = ours.chat.prompt(turns, given)
        assert prompt.text == expected
        assert list(prompt.tokens) == tokenizer(expected, add_special_tokens=False)["input_ids"]
