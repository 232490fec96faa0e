"""Calls as tags: Qwen3-Coder, Qwen3.5 and later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..reader import Reader, Reading
from .base import CallFormat, Calls
from .parameters import ObjectWriter, plain_text, read_value

_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
# What ends a parameter whose own end was left out.
_NEXT, _LAST = f"\n{_PARAMETER}", f"{_FUNCTION_END}\n</tool_call>"


@dataclass(frozen=True)
class QwenXmlCalls(CallFormat):
    """`<tool_call>\\n<function=NAME>\\n<parameter=KEY>\\nVALUE\\n</parameter>\\n</function>\\n</tool_call>`.

    Models leave out the outer tag, and a parameter's end; and they call in the middle of their thinking.
    """

    tool_begin: str = "<tool_call>"
    tool_end: str = "</tool_call>"

    @property
    def openers(self) -> tuple[str, ...]:
        """The outer tag, or the inner one where a model left the outer out."""
        return (self.tool_begin, _FUNCTION)

    @property
    def thinking_ends(self) -> tuple[str, ...]:
        """Both tags: one alone is likelier thought about than meant."""
        return (f"{self.tool_begin}\n{_FUNCTION}", self.tool_begin + _FUNCTION)

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """See `CallFormat.write`."""
        parts = [f"{_PARAMETER}{key}>\n{plain_text(value)}\n{_PARAMETER_END}\n" for key, value in arguments.items()]
        return f"{self.tool_begin}\n{_FUNCTION}{name}>\n{''.join(parts)}{_FUNCTION_END}\n{self.tool_end}"

    def read(self, reader: Reader, calls: Calls, opener: str) -> Reading[None]:
        """See `CallFormat.read`."""
        raw = opener
        if not opener.endswith(_FUNCTION):
            raw += yield from reader.spaces()
            raw += (yield from reader.accept(_FUNCTION)) or ""
            if not raw.endswith(_FUNCTION):
                calls.text(raw)
                return
        name, mark = yield from reader.text_until((">", "<"))
        if mark != ">" or not name.strip() or (opener == _FUNCTION and name.strip() not in calls.tools):
            calls.text(raw + name + (mark or ""))
            return
        calls.start(name.strip())
        yield from self._parameters(reader, calls, name.strip())

    def _parameters(self, reader: Reader, calls: Calls, name: str) -> Reading[None]:
        writer = ObjectWriter(calls, name)
        mark: str | None = _PARAMETER_END
        while mark in (_PARAMETER_END, _NEXT):
            if mark == _PARAMETER_END:
                between, mark = yield from reader.text_until((_PARAMETER, _FUNCTION_END, self.tool_end))
                if between.strip():
                    writer.fail(f"unexpected text in the call: {between.strip():.60}")
                if mark != _PARAMETER:
                    break
            key, mark = yield from reader.text_until((">", "<"))
            if mark != ">":
                writer.fail("a parameter's name is not ended")
            writer.key(key.strip())
            ends = (_PARAMETER_END, _NEXT, _LAST, self.tool_end)
            mark = yield from read_value(reader, writer, writer.types(key.strip()), ends, trim=True)
        if mark == _FUNCTION_END:
            yield from reader.spaces()
            yield from reader.accept(self.tool_end)
        if mark is None:
            writer.fail("the answer ended inside the call")
        elif mark == self.tool_end:
            writer.fail("the call was ended inside its tags")
        writer.end()
