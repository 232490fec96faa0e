"""XTML, the markup of Kimi K3: the whole answer is in channels, and tags are made of tokens that user text never holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any

from ..argument_types import ANY, STRING, kinds
from ..reader import Reader, Reading
from .base import CallFormat, Calls
from .parameters import ObjectWriter, plain_text, read_value

OPEN, CLOSE, SEP, END = "<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')


def opening(tag: str, **attributes: object) -> str:
    """An opening tag."""
    parts = [f' {key}="{str(value).replace("&", "&amp;").replace(chr(34), "&quot;")}"' for key, value in attributes.items()]
    return f"{OPEN}{tag}{''.join(parts)}{SEP}"


def closing(tag: str) -> str:
    """A closing tag."""
    return f"{CLOSE}{tag}{SEP}"


def type_name(value: Any) -> str:
    """XTML's name for a value's type: JSON's, with one for all numbers."""
    names = kinds(value)
    return "number" if "number" in names else next(iter(names))


@dataclass(frozen=True)
class XtmlCalls(CallFormat):
    """A `tools` channel with a `call` for each call and an `argument` for each argument, or all as one `json`."""

    tool_begin: str = opening("tools")
    tool_end: str = closing("tools")
    call_begin: str = f"{OPEN}call "
    call_end: str = closing("call")
    ends_thinking: bool = True

    @property
    def marks(self) -> tuple[str, ...]:
        """See `CallFormat.marks`."""
        return (OPEN, CLOSE, SEP)

    def write(self, name: str, arguments: Mapping[str, Any], index: int = 1) -> str:
        """See `CallFormat.write`; `index` counts the calls from 1."""
        parts = [
            opening("argument", key=key, type=type_name(value)) + plain_text(value) + closing("argument")
            for key, value in arguments.items()
        ]
        return opening("call", tool=name, index=index) + "".join(parts) + self.call_end

    def read(self, reader: Reader, calls: Calls, opener: str) -> Reading[None]:
        """See `CallFormat.read`."""
        skipped = opener
        while True:
            skipped += yield from reader.spaces()
            mark = yield from reader.accept(self.call_begin, self.tool_end)
            if mark is None:
                calls.text(skipped if skipped.strip() else "")
            if mark != self.call_begin:
                return
            head, mark = yield from reader.text_until((SEP,))
            name = _attributes(head).get("tool")
            if mark is None or not name:
                calls.text(self.call_begin + head + (mark or ""))
                return
            calls.start(name)
            yield from self._arguments(reader, calls, name)
            skipped = ""

    def _arguments(self, reader: Reader, calls: Calls, name: str) -> Reading[None]:
        writer = ObjectWriter(calls, name)
        argument, block = f"{OPEN}argument ", f"{OPEN}json "
        while True:
            between, mark = yield from reader.text_until((argument, block, self.call_end))
            if between.strip():
                writer.fail(f"unexpected text in the call: {between.strip():.60}")
            if mark not in (argument, block):
                break
            head, mark_of_head = yield from reader.text_until((SEP,))
            if mark_of_head is None:
                mark = None
                break
            if mark == block:
                yield from reader.until((closing("json"),), calls.arguments)
                ended = yield from reader.until((self.call_end,), lambda text: None)
                calls.end(early=ended is None)
                return
            attributes = _attributes(head)
            writer.key(attributes.get("key", ""))
            types = STRING if attributes.get("type") == "string" else ANY - STRING
            mark = yield from read_value(reader, writer, types, (closing("argument"), self.call_end), trim=False)
            if mark != closing("argument"):
                break
        if mark is None:
            writer.fail("the answer ended inside the call")
        writer.end()


def _attributes(head: str) -> dict[str, str]:
    return {key: unescape(value) for key, value in _ATTRIBUTE.findall(head)}
