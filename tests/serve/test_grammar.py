"""Constraints: masks, ends and budgets."""

from __future__ import annotations

import contextlib
import json
import random
import threading

import jsonschema_rs
import numpy as np
import pytest

from parity.core.errors import RequestError
from parity.engine.grammar import MAX_DIGITS, ForcedEnd, Grammars, json_schema_grammar, lark_grammar, regex_grammar

from .conftest import PATIENCE_S
from .scripted import EOS, VOCAB_SIZE, grammars


def allowed(constraint):
    mask = constraint.mask()
    if mask is None:
        return None
    assert (mask.dtype, mask.shape) == (np.uint32, (VOCAB_SIZE // 32,))
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())


def test_a_mask_holds_exactly_what_may_follow():
    constraint = grammars().constraint(regex_grammar("a[bc]?d"))
    assert allowed(constraint) == {ord("a")}
    constraint.accept(ord("a"))
    assert allowed(constraint) == {ord("b"), ord("c"), ord("d")}
    constraint.accept(ord("d"))
    assert constraint.done


def test_the_end_is_allowed_where_the_grammar_is_satisfied():
    constraint = grammars().constraint(regex_grammar("ab?"))
    constraint.accept(ord("a"))
    assert allowed(constraint) == {ord("b"), EOS}
    assert not constraint.done
    constraint.accept(EOS)
    assert constraint.done


def test_control_tokens_never_spell_text():
    constraint = grammars().constraint(regex_grammar(r"(.|\n)*"))
    assert allowed(constraint) & set(range(256, VOCAB_SIZE)) == {EOS}


def test_constraints_of_one_grammar_do_not_touch_each_other():
    known = grammars()
    one, other = (known.constraint(lark_grammar('start: "ab"')) for _ in range(2))
    one.accept(ord("a"))
    assert allowed(one) == {ord("b")}
    assert allowed(other) == {ord("a")}


def test_a_token_that_is_not_allowed_is_an_error():
    constraint = grammars().constraint(regex_grammar("a"))
    with pytest.raises(RequestError, match="the grammar stopped"):
        constraint.accept(ord("b"))


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"not": {}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "nonsense"}, "nonsense"),
        ({"$ref": "http://elsewhere/schema"}, "elsewhere"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
    ],
)
def test_what_cannot_be_honoured_is_named(schema, word):
    with pytest.raises(RequestError, match=word) as caught:
        grammars().constraint(json_schema_grammar(schema), field="response_format")
    assert caught.value.field == "response_format"


def test_a_grammar_that_is_too_large_is_refused():
    with pytest.raises(RequestError, match="at most"):
        grammars().constraint(regex_grammar("a" * 1_000_000))


def test_a_schema_bomb_is_refused_or_soon_done():
    schema = {"type": "string", "pattern": "((((a{1,100}){1,100}){1,100}){1,100})"}

    def mask():
        with contextlib.suppress(RequestError):
            grammars().constraint(json_schema_grammar(schema)).mask()

    masking = threading.Thread(target=mask, daemon=True)
    masking.start()
    masking.join(PATIENCE_S)
    assert not masking.is_alive()


@pytest.mark.parametrize("seed", range(100))
def test_any_walk_through_a_schema_is_valid(seed):
    rng = random.Random(seed)
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "kind": {"enum": ["a", "b", 3, None]},
            "size": {"type": "integer", "minimum": 5, "maximum": 300},
            "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
            "inner": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/inner"}]},
        },
        "required": ["name", "size", "tags", "inner"],
        "additionalProperties": False,
        "$defs": {"inner": {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"]}},
    }
    constraint = grammars().constraint(json_schema_grammar(schema))
    text = b""
    while not constraint.done:
        choices = sorted(allowed(constraint) - {EOS})
        ends = [token for token in choices if token in b'"}]'] if choices else []
        token = rng.choice(ends) if ends and rng.random() < 0.4 else rng.choice(choices)
        constraint.accept(token)
        text += bytes([token])
    jsonschema_rs.validate(schema, json.loads(text.decode("utf-8")))


def test_white_space_has_an_end():
    constraint = grammars().constraint(json_schema_grammar({"type": "object"}))
    constraint.accept(ord("{"))
    for _ in range(24):
        constraint.accept(ord(" "))
    assert ord(" ") not in allowed(constraint)


def follow(constraint, text):
    """Goes along a text as far as it is allowed."""
    for at, byte in enumerate(text.encode()):
        if byte not in allowed(constraint):
            return at
        constraint.accept(byte)
    return len(text)


@pytest.mark.parametrize("begin", ["1", "-1", "0.", "3e", "3E-", "1.5e+"])
def test_a_number_has_an_end(begin):
    constraint = grammars().constraint(json_schema_grammar({"type": "number"}))
    at = follow(constraint, begin + "0" * 100)
    assert at - len(begin) + begin[-1].isdigit() == MAX_DIGITS
    assert EOS in allowed(constraint)


@pytest.mark.parametrize("schema", [{"type": "integer"}, {"type": "integer", "minimum": 5}, {"minimum": 0}, {}])
def test_an_integer_holds_128_bits_and_has_an_end(schema):
    constraint = grammars().constraint(json_schema_grammar({"type": "array", "items": schema}))
    largest = 2**128 - 1
    assert follow(constraint, f"[{largest}") == 1 + MAX_DIGITS
    assert allowed(constraint) & set(b"0123456789") == set()
    assert follow(constraint, f",{largest},7]") == 1 + MAX_DIGITS + 3
    assert constraint.done


@pytest.mark.parametrize("schema", [{"type": "string"}, {"type": "string", "pattern": "^[0-9]+$"}, {}])
def test_digits_of_a_string_have_no_end(schema):
    constraint = grammars().constraint(json_schema_grammar(schema))
    text = '"' + "0" * 100 + '"'
    assert follow(constraint, text) == len(text)


def test_digits_that_must_follow_may():
    constraint = grammars().constraint(json_schema_grammar({"type": "string", "pattern": "^[0-9]{60}x$"}))
    text = '"' + "1" * 60 + 'x"'
    assert follow(constraint, text) == len(text)


def test_a_pattern_is_not_bounded():
    constraint = grammars().constraint(regex_grammar("[0-9]+"))
    assert follow(constraint, "0" * 100) == 100


def test_a_budget_forces_the_end_of_a_thought_and_then_what_follows():
    after = grammars().constraint(regex_grammar("y"))
    budget = ForcedEnd(2, (10, 11), VOCAB_SIZE, after)
    assert allowed(budget) is None
    budget.accept(1)
    budget.accept(2)
    assert allowed(budget) == {10}
    budget.accept(10)
    assert allowed(budget) == {11}
    budget.accept(11)
    assert allowed(budget) == {ord("y")}
    budget.accept(ord("y"))
    assert budget.done


def test_a_thought_that_ends_by_itself_is_left_alone():
    budget = ForcedEnd(100, (10, 11), VOCAB_SIZE)
    for token in (1, 10, 11):
        assert allowed(budget) is None
        budget.accept(token)
    budget.accept(5)
    assert allowed(budget) is None
    assert not budget.done


def test_a_vocabulary_without_an_end_has_no_grammars():
    with pytest.raises(ValueError, match="ends an answer"):
        Grammars([b"a"], encode=lambda text: [], special=[], eos=[])
