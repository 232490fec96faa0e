"""Calls whose arguments are written one by one between tags; their JSON object is put together as they come."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from parity.core.chat import Tool

from ..argument_types import STRING, json_text, property_types
from ..reader import Reader, Reading
from .base import Calls

_NO_TOOL = Tool("")


def plain_text(value: Any) -> str:
    """A value as it stands between tags: a string as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class ObjectWriter:
    """Writes a JSON object, key by key."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls = calls
        self._parameters = calls.tools.get(name, _NO_TOOL).parameters
        self._names: set[str] = set()
        self._problem: str | None = None

    def types(self, key: str) -> frozenset[str]:
        """The types that the tool's schema gives an argument."""
        return property_types(self._parameters, key)

    def key(self, key: str) -> None:
        """An argument begins."""
        if key in self._names:
            self._problem = f"the argument {key!r} is there twice"
        self._calls.arguments(("{" if not self._names else ", ") + json.dumps(key, ensure_ascii=False) + ": ")
        self._names.add(key)

    def value(self, text: str) -> None:
        """The argument's JSON text, or a part of it."""
        self._calls.arguments(text)

    def fail(self, problem: str) -> None:
        """Something is wrong with the call; the first problem is kept."""
        self._problem = self._problem or problem

    def end(self) -> None:
        """The object is complete."""
        self._calls.arguments("}" if self._names else "{}")
        self._calls.end(self._problem)


class StringWriter:
    """Writes a JSON string, piece by piece, without line breaks that stand at its very beginning and end.

    Args:
        write: takes the JSON text.
        trim: whether one line break at each side belongs to the tags and not to the string.
    """

    def __init__(self, write: Callable[[str], None], *, trim: bool) -> None:
        self._write = write
        self._trim = trim
        self._held = ""
        self._begun = False
        write('"')

    def push(self, text: str) -> None:
        """More of the string."""
        if self._trim and not self._begun:
            text = text.removeprefix("\n")
        self._begun = True
        text = self._held + text
        self._held = "\n" if self._trim and text.endswith("\n") else ""
        self._write(json.dumps(text[: len(text) - len(self._held)], ensure_ascii=False)[1:-1])

    def end(self) -> None:
        """The string is complete."""
        self._write('"')


def read_value(
    reader: Reader, writer: ObjectWriter, types: frozenset[str], ends: tuple[str, ...], *, trim: bool
) -> Reading[str | None]:
    """Reads an argument's text up to one of `ends`, which it returns, and writes it as JSON of one of the types."""
    if types == STRING:
        string = StringWriter(writer.value, trim=trim)
        mark = yield from reader.until(ends, string.push)
        string.end()
        return mark
    text, mark = yield from reader.text_until(ends)
    if trim:
        text = text.removeprefix("\n").removesuffix("\n")
    writer.value(json_text(text, types))
    return mark
