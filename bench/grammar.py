"""What a grammar costs: the time of a decode step with every stream held to a JSON schema, over that of the same step without.

    python bench/grammar.py --streams 1 8

Masks are computed by workers while the model computes the next step, so that what a step pays is the wait for a mask that
is not ready yet, which is shown, and laying the mask over the logits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from parity import LLM, SamplingParams
from parity.core.request import Request
from parity.engine.grammar import Grammars, json_schema_grammar
from parity.serve.chat_words import ChatWords

SCHEMA = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 50,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "kind": {"enum": ["a", "b", "c"]}},
                "required": ["name", "age", "kind"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
    "additionalProperties": False,
}


class Waited:
    """A constraint that notes how long its masks were waited for."""

    def __init__(self, constraint: Any, waits_s: list[float]) -> None:
        self._constraint, self._waits_s = constraint, waits_s

    def mask(self) -> np.ndarray | None:
        start_s = time.perf_counter()
        found: np.ndarray | None = self._constraint.mask()
        self._waits_s.append(time.perf_counter() - start_s)
        return found

    def accept(self, token: int) -> None:
        self._constraint.accept(token)

    @property
    def done(self) -> bool:
        return bool(self._constraint.done)


def main() -> None:
    """Measures in turns and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with LLM(arguments.model, max_model_len=1024) as llm:
        grammars = grammars_of(llm)
        for streams in arguments.streams:
            waits_s: list[float] = []
            free: list[float] = []
            held: list[float] = []
            for _ in range(arguments.rounds):
                free += steps(llm, streams, arguments.tokens, lambda: None)
                held += steps(llm, streams, arguments.tokens, partial(held_to, grammars, waits_s))
            plain_ms, held_ms = (1000 * statistics.median(times_s) for times_s in (free, held))
            median_ms, last_ms = (1000 * float(np.quantile(waits_s, share)) for share in (0.5, 0.99))
            print(
                f"{streams:3} streams   step {plain_ms:.2f} ms free, {held_ms:.2f} ms held: {held_ms / plain_ms:.3f}; "
                f"a mask is waited for {median_ms:.3f} ms (p99 {last_ms:.3f})"
            )


def held_to(grammars: Callable[[], Any], waits_s: list[float]) -> Waited:
    """A fresh constraint whose waits are noted."""
    return Waited(grammars(), waits_s)


def grammars_of(llm: LLM) -> Callable[[], Any]:
    """Makes constraints for the schema over the model's vocabulary."""
    words, tokenizer = ChatWords(llm.chat_format, llm.info.vocab_size), llm.tokenizer
    eos = llm.info.eos_token_ids
    compiled = Grammars(
        [words.token_bytes(token) for token in range(words.vocab_size)],
        encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False, allow_special=False)),
        special=set(words.control_tokens.values()) | tokenizer.special_ids | eos,
        eos=eos,
    )
    grammar = json_schema_grammar(SCHEMA)
    return lambda: compiled.constraint(grammar)


def steps(llm: LLM, streams: int, num_tokens: int, constraint: Callable[[], Any]) -> list[float]:
    """The seconds of each decode step with so many streams."""
    prompt = tuple(llm.tokenizer.encode("People, as JSON:"))
    params = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)

    def run() -> list[float]:
        engine = llm._engine
        for number in range(streams):
            engine.add(Request(f"bench-{number}", prompt, params, constraint=constraint(), cache=False))
        engine.step()
        times_s = []
        while engine.has_work:
            start_s = time.perf_counter()
            engine.step()
            times_s.append(time.perf_counter() - start_s)
        return times_s

    found: list[float] = llm.service.call(run)
    return found


if __name__ == "__main__":
    main()
