"""The grammar of tool calls in a model's dialect, found out from how the dialect writes a call.

A dialect writes arguments either as one JSON object or parameter by parameter. Written with known names and values, a call
shows which text is fixed and where the names and values go.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any

from ..core.chat import Tool
from ..core.errors import RequestError
from ..engine.grammar import json_schema_grammar
from ..text.dialects import CallFormat
from .forms import Grammar

_LOG = logging.getLogger(__name__)
_KEYS, _VALUES = ("firstkey", "secondkey"), ("firstvalue", "secondvalue")
_NOTES = frozenset({"type", "description", "title", "default", "examples", "enum", "const", "$defs", "definitions"})
_ANY_KEY = "/[A-Za-z_][A-Za-z0-9_]*/"


def calls_rule(grammar: Grammar, form: CallFormat, tools: Sequence[Tool], *, opened: bool, parallel: bool) -> str:
    """Adds the rules of one or more calls; with `opened`, what `form.tool_begin` spells has been said already."""
    bodies = [_tool_rule(grammar, form, index, tool) for index, tool in enumerate(tools)]
    grammar.rules["call"] = " | ".join(bodies)
    if form.call_begin:
        begin = "" if opened else grammar.literal(form.tool_begin)
        more = "(SPACE? call)*" if parallel else ""
        grammar.rules["calls"] = f"{begin} SPACE? call {more} SPACE? {grammar.literal(form.tool_end)}"
        return "calls"
    begin = grammar.literal(form.tool_begin)
    more = f"(SPACE? {begin} call)*" if parallel else ""
    grammar.rules["calls"] = f"{'' if opened else begin} call {more}"
    return "calls"


def honoured_schema(tool: Tool) -> Mapping[str, Any]:
    """The schema that a tool's arguments are held to: without what cannot be honoured, where the tool is not strict.

    Raises:
        RequestError: the tool is strict and its schema cannot be honoured; the text names the keyword.
    """
    schema: dict[str, Any] = {"type": "object", **tool.parameters}
    problem = _problem(schema)
    if problem is None:
        return schema
    if tool.strict:
        raise RequestError(f"the schema of the tool {tool.name!r} cannot be honoured: {problem}", field="tools")
    schema["x-guidance"] = {"lenient": True}
    if _problem(schema) is None:
        _say_once(f"calls of the tool {tool.name!r} are held to its schema but for this: {problem}")
        return schema
    _say_once(f"calls of the tool {tool.name!r} are held to any JSON object: {problem}")
    return {"type": "object"}


def _problem(schema: Mapping[str, Any]) -> str | None:
    """Why a schema cannot be honoured."""
    from llguidance import LLMatcher

    is_error, messages = LLMatcher.validate_grammar_with_warnings(json_schema_grammar(schema))
    return messages[0] if is_error else None


@lru_cache(maxsize=1024)
def _say_once(text: str) -> None:
    _LOG.warning(text)


def _tool_rule(grammar: Grammar, form: CallFormat, index: int, tool: Tool) -> str:
    """The rule of a call to one tool, behind `tool_begin` where there is no inner mark."""
    name = f"tool_{index}"
    schema = honoured_schema(tool)
    before, braces, after = _written(form, tool.name, {}).partition("{}")
    if braces:
        arguments = grammar.schema(f"{name}_arguments", schema)
        grammar.rules[name] = f"{_head(grammar, form, tool, before)} {arguments} {grammar.literal(after)}"
    else:
        _Parameters(grammar, form, name, tool, schema).add()
    return name


def _written(form: CallFormat, name: str, arguments: Mapping[str, Any]) -> str:
    text = form.write(name, arguments)
    return text if form.call_begin else text.removeprefix(form.tool_begin)


def _head(grammar: Grammar, form: CallFormat, tool: Tool, before: str) -> str:
    """What precedes the arguments; where calls are numbered, any number will do."""
    if not getattr(form, "numbered", False):
        return grammar.literal(before)
    head, _, rest = before.partition(f"{tool.name}:0")
    return f"{grammar.literal(head + tool.name + ':')} /[0-9]+/ {grammar.literal(rest)}"


@dataclass(frozen=True)
class _Seams:
    """The fixed texts of a call with parameters.

    Args:
        head: up to the first name.
        middle: between a name and its value.
        between: from a value to the next name.
        tail: behind the last value.
    """

    head: str
    middle: str
    between: str
    tail: str

    @property
    def close(self) -> str:
        """What follows any value."""
        pairs = zip(self.between, self.tail, strict=False)
        return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class _Parameters:
    """The rules of a call whose arguments are written one by one, in the schema's order."""

    def __init__(self, grammar: Grammar, form: CallFormat, name: str, tool: Tool, schema: Mapping[str, Any]) -> None:
        self._grammar, self._form, self._name, self._tool, self._schema = grammar, form, name, tool, schema
        self._properties: Mapping[str, Any] = schema.get("properties") or {}
        self._required = frozenset(schema.get("required") or ())
        self._text = self._seams(_VALUES)
        self._json = self._seams((1234567, 7654321))

    def add(self) -> None:
        """Adds the rules."""
        keys = list(self._properties)
        empty = self._grammar.literal(_written(self._form, self._tool.name, {}))
        if not keys:
            self._add_free(empty)
            return
        for index in range(len(keys), -1, -1):
            self._add_rest(keys, index)
        firsts = [f"{self._item(keys, index, self._text.head)}" for index in self._reachable(keys, 0)]
        alternatives = ([] if self._required & set(keys) else [empty]) + firsts
        self._grammar.rules[self._name] = " | ".join(alternatives)

    def _add_free(self, empty: str) -> None:
        """A tool without named parameters takes none, or any texts."""
        rest, value = f"{self._name}_rest", self._grammar.until(f"{self._name}_value", self._text.close)
        between, tail = self._after(self._text)
        pair = f"{_ANY_KEY} {self._grammar.literal(self._text.middle)} {value} {rest}"
        self._grammar.rules[rest] = f"{self._grammar.literal(tail)} | {self._grammar.literal(between)} {pair}"
        self._grammar.rules[self._name] = f"{empty} | {self._grammar.literal(self._text.head)} {pair}"

    def _add_rest(self, keys: Sequence[str], index: int) -> None:
        """What may follow the values before `index`: the end, if nothing required is left, or the next names."""
        between, tail = self._after(self._text)
        ends = [] if self._required & set(keys[index:]) else [self._grammar.literal(tail)]
        nexts = [self._item(keys, following, between) for following in self._reachable(keys, index)]
        self._grammar.rules[f"{self._name}_rest_{index}"] = " | ".join(ends + nexts)

    def _reachable(self, keys: Sequence[str], index: int) -> range:
        """The indices that may come next: up to the first that is required."""
        stop = next((at for at in range(index, len(keys)) if keys[at] in self._required), len(keys) - 1)
        return range(index, stop + 1)

    def _item(self, keys: Sequence[str], index: int, before: str) -> str:
        """A name, its value and what follows."""
        key, literal = keys[index], self._grammar.literal
        schema = self._properties[key]
        middle = self._text.middle if _is_text(schema) else self._json.middle
        value = self._value(index, schema)
        return f"{literal(before + key + middle)} {value} {self._name}_rest_{index + 1}"

    def _value(self, index: int, schema: Any) -> str:
        """The rule of a value and the text that closes it."""
        name, close = f"{self._name}_value_{index}", self._text.close
        if name in self._grammar.rules:
            return name
        if not _is_text(schema):
            shared = {key: self._schema[key] for key in ("$defs", "definitions", "x-guidance") if key in self._schema}
            inner = {**shared, **schema} if isinstance(schema, Mapping) else {} if schema else {"not": {}}
            part = self._grammar.schema(f"{name}_json", inner)
            self._grammar.rules[name] = f"{part} {self._grammar.literal(close)}"
            return name
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if choices is not None:
            self._grammar.rules[name] = " | ".join(self._grammar.literal(f"{choice}{close}") for choice in choices)
            return name
        if beyond := sorted(set(schema) - _NOTES):
            self._refuse(beyond)
        return self._grammar.until(name, close)

    def _refuse(self, keywords: Sequence[str]) -> None:
        text = f"{', '.join(keywords)} of a text parameter of the tool {self._tool.name!r}"
        if self._tool.strict:
            raise RequestError(f"{text} cannot be honoured with this model's way of calling tools", field="tools")
        _say_once(f"{text} is not held to: this model writes such parameters as plain text")

    def _after(self, seams: _Seams) -> tuple[str, str]:
        """What follows the closing text: up to the next name, and to the end."""
        size = len(seams.close)
        return seams.between[size:], seams.tail[size:]

    def _seams(self, values: Sequence[Any]) -> _Seams:
        text = _written(self._form, self._tool.name, dict(zip(_KEYS, values, strict=True)))
        head, rest = text.split(_KEYS[0], 1)
        middle, rest = rest.split(str(values[0]), 1)
        between, rest = rest.split(_KEYS[1], 1)
        return _Seams(head, middle, between, rest.split(str(values[1]), 1)[1])


def _is_text(schema: Any) -> bool:
    """Whether a parameter is written as plain text."""
    if not isinstance(schema, Mapping):
        return False
    if "type" in schema:
        return bool(schema["type"] == "string")
    values = [schema["const"]] if "const" in schema else schema.get("enum", ())
    return bool(values) and all(isinstance(value, str) for value in values)
