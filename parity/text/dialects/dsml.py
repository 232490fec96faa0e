"""DSML, the markup of DeepSeek V3.2, V4 and V4.1."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..argument_types import ANY, STRING
from ..reader import Reader, Reading
from .base import CallFormat, Calls
from .parameters import ObjectWriter, plain_text, read_value

_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class DsmlCalls(CallFormat):
    """`<｜DSML｜invoke name="f">` with a `<｜DSML｜parameter name="x" string="true|false">` for each argument.

    Args:
        invoke, parameter: the tags' names; V4.1 writes each with a leading space.
        empty_line: whether a call without arguments has an empty line where they would stand.
    """

    invoke: str = "invoke"
    parameter: str = "parameter"
    mark: str = "｜DSML｜"
    empty_line: bool = True
    ends_thinking: bool = True

    @property
    def marks(self) -> tuple[str, ...]:
        """See `CallFormat.marks`."""
        return (*super().marks, self.mark)

    @property
    def openers(self) -> tuple[str, ...]:
        """The outer tag, or a call's where a model left the outer out."""
        return (self.tool_begin, self._invoke)

    @property
    def _invoke(self) -> str:
        return f"<{self.mark}{self.invoke} "

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """See `CallFormat.write`."""
        tag = self.mark + self.parameter
        lines = [
            f'<{tag} name="{key}" string="{_flag(value)}">{plain_text(value)}</{tag}>\n' for key, value in arguments.items()
        ]
        body = "".join(lines) or ("\n" if self.empty_line else "")
        return f'<{self.mark}{self.invoke} name="{name}">\n{body}</{self.mark}{self.invoke}>'

    def read(self, reader: Reader, calls: Calls, opener: str) -> Reading[None]:
        """See `CallFormat.read`."""
        go_on = True
        if opener == self._invoke:
            go_on = yield from self._call(reader, calls)
        skipped = "" if opener == self._invoke else opener
        while go_on:
            skipped += yield from reader.spaces()
            mark = yield from reader.accept(self._invoke, self.tool_end)
            if mark is None:
                calls.text(skipped)
            if mark != self._invoke:
                return
            go_on = yield from self._call(reader, calls)
            skipped = ""

    def _call(self, reader: Reader, calls: Calls) -> Reading[bool]:
        """Reads one call from behind its tag's name on; whether others may follow."""
        head, mark = yield from reader.text_until((">\n", ">"))
        name = dict(_ATTRIBUTE.findall(head)).get("name")
        if mark is None or not name:
            calls.text(self._invoke + head + (mark or ""))
            return False
        calls.start(name)
        writer = ObjectWriter(calls, name)
        begin, end = f"<{self.mark}{self.parameter} ", f"</{self.mark}{self.parameter}>"
        call_end = f"</{self.mark}{self.invoke}>"
        while True:
            between, mark = yield from reader.text_until((begin, call_end, self.tool_end))
            if between.strip():
                writer.fail(f"unexpected text in the call: {between.strip():.60}")
            if mark != begin:
                break
            mark = yield from self._parameter(reader, writer, (end, call_end, self.tool_end))
            if mark != end:
                writer.fail("the answer ended inside the call" if mark is None else "an argument was not ended")
                break
        if mark is None:
            writer.fail("the answer ended inside the call")
        elif mark != call_end:
            writer.fail("the call was ended inside its tags")
        writer.end()
        return mark == call_end

    def _parameter(self, reader: Reader, writer: ObjectWriter, ends: tuple[str, ...]) -> Reading[str | None]:
        head, mark = yield from reader.text_until((">",))
        attributes = dict(_ATTRIBUTE.findall(head))
        if mark is None or "name" not in attributes:
            writer.fail("a parameter has no name")
            return mark if mark is None else (yield from reader.until(ends, lambda text: None))
        key = attributes["name"]
        given = {"true": STRING, "false": ANY - STRING}.get(attributes.get("string", ""))
        writer.key(key)
        return (yield from read_value(reader, writer, given or writer.types(key), ends, trim=False))


def _flag(value: Any) -> str:
    return "true" if isinstance(value, str) else "false"


DSML_V32 = DsmlCalls("<｜DSML｜function_calls>", "</｜DSML｜function_calls>")
DSML_V4 = DsmlCalls("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>", empty_line=False)
DSML_V41 = DsmlCalls("<｜DSML｜ calls>", "</｜DSML｜ calls>", invoke=" invoke", parameter=" parameter")
