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


@dataclass(frozen=True)
class QwenXmlCalls(CallFormat):
    """`<tool_call>\\n<function=NAME>\\n<parameter=KEY>\\nVALUE\\n</parameter>\\n</function>\\n</tool_call>`."""

    tool_begin: str = "<tool_call>"
    tool_end: str = "</tool_call>"

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """See `CallFormat.write`."""
        parts = [f"{_PARAMETER}{key}>\n{plain_text(value)}\n{_PARAMETER_END}\n" for key, value in arguments.items()]
        return f"{self.tool_begin}\n{_FUNCTION}{name}>\n{''.join(parts)}{_FUNCTION_END}\n{self.tool_end}"

    def read(self, reader: Reader, calls: Calls, opener: str) -> Reading[None]:
        """See `CallFormat.read`."""
        raw = opener + (yield from reader.spaces())
        if not (yield from reader.accept(_FUNCTION)):
            calls.text(raw)
            return
        name, mark = yield from reader.text_until((">", "<"))
        if mark != ">" or not name.strip():
            calls.text(raw + _FUNCTION + name + (mark or ""))
            return
        calls.start(name.strip())
        yield from self._parameters(reader, calls, name.strip())

    def _parameters(self, reader: Reader, calls: Calls, name: str) -> Reading[None]:
        writer = ObjectWriter(calls, name)
        while True:
            between, mark = yield from reader.text_until((_PARAMETER, _FUNCTION_END, self.tool_end))
            if between.strip():
                writer.fail(f"unexpected text in the call: {between.strip():.60}")
            if mark == _FUNCTION_END:
                yield from reader.spaces()
                yield from reader.accept(self.tool_end)
            if mark != _PARAMETER:
                break
            key, mark = yield from reader.text_until((">", "<"))
            if mark != ">":
                writer.fail("a parameter's name is not ended")
            writer.key(key.strip())
            mark = yield from read_value(reader, writer, writer.types(key.strip()), (_PARAMETER_END, self.tool_end), trim=True)
            if mark != _PARAMETER_END:
                break
        if mark is None:
            writer.fail("the answer ended inside the call")
        elif mark == self.tool_end:
            writer.fail("the call was ended inside its tags")
        writer.end()
