"""Calls as JSON objects between tags: Qwen2.5 and Qwen3, after Nous Hermes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..json_scan import JsonScanner
from ..reader import Reader, Reading
from .base import CallFormat, Calls, argument_error

_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True)
class HermesCalls(CallFormat):
    """`<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>`, once for each call."""

    tool_begin: str = "<tool_call>"
    tool_end: str = "</tool_call>"

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """See `CallFormat.write`."""
        body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        return f"{self.tool_begin}\n{body}\n{self.tool_end}"

    def read(self, reader: Reader, calls: Calls, opener: str) -> Reading[None]:
        """See `CallFormat.read`. What is no call, up to where that shows, is text."""
        call = _Call(reader, calls, opener)
        whole = yield from call.read()
        if not call.started:
            calls.text(call.raw)
            return
        if not whole:
            mark = yield from reader.until((self.tool_end,), calls.arguments)
            calls.end(early=mark is None)
            return
        calls.end()
        # One brace too many and a missing end tag are common, and harmless.
        yield from reader.spaces()
        while (yield from reader.accept("}")):
            yield from reader.spaces()
        yield from reader.accept(self.tool_end)

    def read_bare(self, reader: Reader, calls: Calls) -> Reading[None]:
        """See `CallFormat.read_bare`. Qwen2.5-Coder leaves the tags out, and may put a fence in their place."""
        space = yield from reader.spaces()
        fence = yield from reader.accept("```json\n", "```\n")
        call = _Call(reader, calls, space + (fence or ""), is_bare=True)
        while True:
            whole = yield from call.read()
            if not call.started:
                calls.text(call.raw)
                return
            calls.end(early=not whole and reader.closed)
            space = yield from reader.spaces()
            if fence and (yield from reader.accept("```")):
                return
            call = _Call(reader, calls, space, is_bare=True)


class _Call:
    """One object, read key by key. `raw` is all that was read, for the case that it is no call.

    Without tags only what cannot mean anything else is one: the name of a tool and then its arguments, an object, nothing
    before or between. Strict tools are left out: what stands outside of tags is not held to their schemas.
    """

    def __init__(self, reader: Reader, calls: Calls, opener: str, *, is_bare: bool = False) -> None:
        self._reader = reader
        self._calls = calls
        self._is_bare = is_bare
        self._name = ""
        self._early: list[str] = []
        self.raw = opener
        self.started = False

    def read(self) -> Reading[bool]:
        """Whether the object was whole."""
        if not (yield from self._character("{")):
            return False
        while True:
            key = yield from self._value(None)
            if key is None or not key.startswith('"') or not (yield from self._character(":")):
                return False
            whole = yield from self._entry(key[1:-1])
            if not whole:
                return False
            if (yield from self._character("}")):
                return self.started
            if not (yield from self._character(",")):
                return False

    def _entry(self, key: str) -> Reading[bool]:
        if key == "name":
            name = yield from self._value(None)
            decoded = _decoded(name)
            if self._is_bare and not self.started:
                tool = self._calls.tools.get(decoded or "")
                self._name = tool.name if tool and not tool.strict else ""
                return bool(self._name)
            self._start(decoded or "")
            return decoded is not None
        if key not in _ARGUMENTS:
            return not self._is_bare and (yield from self._value(None)) is not None
        yield from self._space()
        first = (yield from self._reader.some())[:1]
        quoted = first == '"'
        if self._is_bare and not (self._name and (quoted or first == "{")):
            return False
        if not (self._is_bare and quoted):
            self._start(self._name)
        if quoted or not self.started:
            value = yield from self._value(None)
            text = _decoded(value) if quoted else value
            if self._is_bare:
                if text is None or argument_error(text) is not None:
                    return False
                self._start(self._name)
            if self.started:
                self._calls.arguments(text or "")
            else:
                self._early.append(text or "")
            return text is not None
        return (yield from self._value(self._calls.arguments)) is not None

    def _start(self, name: str) -> None:
        if self.started or not name:
            return
        self.started = True
        self._calls.start(name)
        for text in self._early:
            self._calls.arguments(text)

    def _value(self, sink: Callable[[str], None] | None) -> Reading[str | None]:
        """Reads a JSON value, piece by piece into `sink`; None if it is broken."""
        yield from self._space()
        scanner = JsonScanner()
        parts: list[str] = []
        while not scanner.done:
            text = yield from self._reader.some()
            if not text:
                scanner.finish()
                break
            count, piece = scanner.feed(text)
            self.raw += self._reader.take(count)
            parts.append(piece)
            if sink is not None:
                sink(piece)
        return None if scanner.broken else "".join(parts)

    def _character(self, wanted: str) -> Reading[bool]:
        yield from self._space()
        found = yield from self._reader.accept(wanted)
        self.raw += found or ""
        return found is not None

    def _space(self) -> Reading[None]:
        self.raw += yield from self._reader.spaces()


def _decoded(value: str | None) -> str | None:
    """The text that a JSON string stands for; None if it is none."""
    try:
        text = json.loads(value or "")
    except ValueError:
        return None
    return text if isinstance(text, str) else None
