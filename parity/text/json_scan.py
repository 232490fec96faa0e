"""JSON as models write it: its values, and where one ends that is still being written."""

from __future__ import annotations

import json
import re
from typing import Any

_STRUCTURE = re.compile(r'["{}\[\]<]')
_IN_STRING = re.compile(r'["\\\x00-\x1f]')
_SCALAR_END = re.compile(r"[\s,}\]<]")


def strict_json(text: str) -> Any:
    """The value of a JSON text. NaN and Infinity, which Python reads and others do not, are none.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_no_number)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


class JsonScanner:
    """Takes one JSON value from the head of a text that comes in pieces.

    Line breaks and other control characters inside strings, which JSON forbids and models write, are escaped on the way.
    A `<` outside a string ends a value that JSON would not end there: `broken` is then set.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._scalar = False
        self.done = False
        self.broken = False

    def feed(self, text: str) -> tuple[int, str]:
        """How many characters of a text belong to the value, and those, repaired."""
        parts: list[str] = []
        at = 0
        while at < len(text) and not self.done:
            if self._escaped:
                parts.append(text[at])
                self._escaped = False
                at += 1
            elif self._in_string:
                at = self._string(text, at, parts)
            elif self._scalar or (self._depth == 0 and text[at] not in '"{['):
                at = self._literal(text, at, parts)
            else:
                at = self._outside(text, at, parts)
        return at, "".join(parts)

    def finish(self) -> None:
        """The text has ended: a number or a word is whole, anything else is broken."""
        if not self.done:
            self.broken = not self._scalar
            self.done = True

    def _string(self, text: str, at: int, parts: list[str]) -> int:
        found = _IN_STRING.search(text, at)
        end = found.start() if found else len(text)
        parts.append(text[at:end])
        if found is None:
            return end
        character = found.group()
        if character == '"':
            self._in_string = False
            self.done = self._depth == 0
        self._escaped = character == "\\"
        parts.append(character if character in '"\\' else json.dumps(character)[1:-1])
        return end + 1

    def _literal(self, text: str, at: int, parts: list[str]) -> int:
        found = _SCALAR_END.search(text, at)
        end = found.start() if found else len(text)
        parts.append(text[at:end])
        self._scalar = self._scalar or end > at
        if found is not None:
            self.done = True
            self.broken = not self._scalar
        return end

    def _outside(self, text: str, at: int, parts: list[str]) -> int:
        found = _STRUCTURE.search(text, at)
        end = found.start() if found else len(text)
        parts.append(text[at:end])
        if found is None:
            return end
        character = found.group()
        if character == "<":
            self.done = self.broken = True
            return end
        parts.append(character)
        if character == '"':
            self._in_string = True
        else:
            self._depth += 1 if character in "{[" else -1
            self.done = self._depth == 0
        return end + 1
