"""Tool calls under a grammar: whatever is chosen within it, the dialect reads a call that is valid against its schema."""

from __future__ import annotations

import json
import random
import re

import jsonschema_rs
import numpy as np
import pytest

from parity.core.chat import ReasoningDelta, TextDelta, Tool, ToolCallEnd, ToolCallStart
from parity.core.errors import RequestError
from parity.engine.grammar import Grammars
from parity.serve.calls import calls_rule, honoured_schema
from parity.serve.forms import Grammar
from parity.text.dialects import Dialect, Thinking
from parity.text.dialects.registry import CALLS
from parity.text.router import Router

EOS = 256
DIALECTS = sorted(set(CALLS) - {"qwen3_xml"})  # which is another name of qwen3_coder


class Babbler:
    """Chooses at random within a grammar, with a leaning towards what ends things."""

    def __init__(self, form, seed):
        self.marks = sorted({mark for mark in form.marks if mark.strip()} | {"<think>", "</think>"})
        self.tokens = {mark: 257 + index for index, mark in enumerate(self.marks)}
        self.vocabulary = [bytes([byte]) for byte in range(256)] + [b"<eos>"] + [mark.encode() for mark in self.marks]
        special = range(256, len(self.vocabulary))
        self.grammars = Grammars(self.vocabulary, encode=lambda text: list(text.encode()), special=special, eos=[EOS])
        self.random = random.Random(seed)

    def grammar(self):
        return Grammar(self.tokens, self.marks)

    def babble(self, grammar, max_tokens=3000):
        text = grammar.text()
        constraint = self.grammars.constraint(text)
        literals = [json.loads(found) for rule in grammar.rules.values() for found in re.findall(r'"(?:[^"\\]|\\.)*"', rule)]
        closers = [literal.encode() for literal in literals if literal.strip()] + [b'"', b"}", b"]", b"0", b":"]
        chosen = []
        plan = []
        while not constraint.done:
            assert len(chosen) < max_tokens, "the grammar found no end"
            allowed = np.flatnonzero(np.unpackbits(constraint.mask().view(np.uint8), bitorder="little"))
            if EOS in allowed and self.random.random() < 0.7:
                break
            if not plan or plan[0] not in allowed:
                plan = list(self.random.choice(closers)) if self.random.random() < 0.6 else []
            if not plan or plan[0] not in allowed:
                structure = [token for token in allowed if token > EOS]
                plain = [token for token in allowed if token != EOS and 32 <= token < 127] or [t for t in allowed if t != EOS]
                plan = [int(self.random.choice(structure if structure and self.random.random() < 0.5 else plain))]
            token = int(plan.pop(0))
            constraint.accept(token)
            chosen.append(token)
        return b"".join(self.vocabulary[token] for token in chosen).decode("utf-8", "replace")


def random_schema(rng, depth=0):
    kind = rng.choice(
        ["string", "integer", "number", "boolean", "enum", "array", "object"] if depth < 2 else ["string", "integer"]
    )
    if kind == "enum":
        return {"enum": rng.sample(["red", "green", "blue", "two words"], 2)}
    if kind == "array":
        return {"type": "array", "items": random_schema(rng, depth + 1), "maxItems": 3}
    if kind == "object":
        return random_object(rng, depth + 1)
    return {"type": kind}


def random_object(rng, depth=0):
    names = rng.sample(["a", "city", "how_many", "x-y", "days", "unit"], rng.randint(0 if depth else 1, 4))
    required = [name for name in names if rng.random() < 0.5]
    properties = {name: random_schema(rng, depth) for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("seed", range(30))
def test_a_constrained_call_is_valid(name, seed):
    form = CALLS[name]
    rng = random.Random(seed)
    tools = [Tool(f"tool_{index}", "", random_object(rng), strict=True) for index in range(rng.randint(1, 3))]
    babbler = Babbler(form, seed)
    grammar = babbler.grammar()
    grammar.rules["start"] = calls_rule(grammar, form, tools, opened=False, parallel=seed % 2 == 0)
    text = babbler.babble(grammar)
    events = read(form, tools, text)
    starts = [event for event in events if isinstance(event, ToolCallStart)]
    ends = [event for event in events if isinstance(event, ToolCallEnd)]
    assert starts, text
    assert len(starts) == len(ends)
    assert len(starts) == 1 or seed % 2 == 0
    for start, end in zip(starts, ends, strict=True):
        assert end.error is None, text
        schema = next(tool.parameters for tool in tools if tool.name == start.name)
        jsonschema_rs.validate(schema, json.loads(end.arguments, parse_float=finite))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)).strip() == ""


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("seed", range(6))
def test_free_text_may_come_before_calls_and_instead_of_them(name, seed):
    form = CALLS[name]
    tools = [Tool("look", "", random_object(random.Random(seed)))]
    babbler = Babbler(form, seed)
    grammar = babbler.grammar()
    calls = calls_rule(grammar, form, tools, opened=True, parallel=True)
    thought = grammar.until("thought", "</think>") if seed % 2 else ""
    grammar.rules["start"] = f"{thought} ({grammar.until('begin', form.tool_begin)} {calls})* TEXT"
    events = read(form, tools, babbler.babble(grammar), in_reasoning=bool(thought))
    assert all(event.error is None for event in events if isinstance(event, ToolCallEnd))
    if not thought:
        assert not any(isinstance(event, ReasoningDelta) for event in events)


def finite(text):
    """JSON's numbers have no bound, Python's have."""
    return max(-1e300, min(1e300, float(text)))


def read(form, tools, text, in_reasoning=False):
    thinking = Thinking("<think>", "</think>") if in_reasoning else None
    router = Router(Dialect("test", calls=form, thinking=thinking), tools, in_reasoning=in_reasoning)
    return [*router.push(text), *router.finish()]


def test_a_strict_schema_that_cannot_be_honoured_is_refused_by_keyword():
    tool = Tool("look", "", {"properties": {"a": {"not": {"type": "string"}}}}, strict=True)
    grammar = Grammar({})
    with pytest.raises(RequestError, match=r"'look' cannot be honoured: .*not"):
        calls_rule(grammar, CALLS["hermes"], [tool], opened=False, parallel=True)


def test_a_schema_that_is_not_strict_is_honoured_as_far_as_it_goes_and_that_is_said(caplog):
    parameters = {
        "properties": {"a": {"enum": ["x"], "not": {"type": "null"}}},
        "required": ["a"],
        "additionalProperties": False,
    }
    tool = Tool("find", "", parameters)
    babbler = Babbler(CALLS["hermes"], 1)
    grammar = babbler.grammar()
    grammar.rules["start"] = calls_rule(grammar, CALLS["hermes"], [tool], opened=False, parallel=False)
    honoured_schema(tool)
    assert caplog.text.count("'find'") == 1
    assert "not" in caplog.text
    (end,) = [event for event in read(CALLS["hermes"], [tool], babbler.babble(grammar)) if isinstance(event, ToolCallEnd)]
    assert json.loads(end.arguments) == {"a": "x"}


def test_a_schema_that_makes_no_sense_leaves_any_object(caplog):
    tool = Tool("broken", "", {"properties": {"a": {"type": "nonsense"}}})
    assert honoured_schema(tool) == {"type": "object"}
    assert "'broken' are held to any JSON object" in caplog.text


def test_schemas_as_agents_send_them():
    parameters = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "url": {"type": "string", "format": "uri"},
            "limit": {"type": "number", "exclusiveMinimum": 0},
            "edits": {"type": "array", "items": {"type": "object", "properties": {"old": {"type": "string", "minLength": 1}}}},
        },
        "required": ["url"],
        "additionalProperties": False,
    }
    assert "x-guidance" not in honoured_schema(Tool("fetch", "", parameters, strict=True))
