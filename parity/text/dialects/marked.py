"""Calls whose parts are divided by tokens of their own: DeepSeek V3, R1 and V3.1, Kimi K2. The arguments are JSON as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..reader import Reader, Reading
from .base import CallFormat, Calls


@dataclass(frozen=True)
class MarkedCalls(CallFormat):
    """`tool_begin (call_begin head separator arguments call_end)* tool_end`.

    Args:
        separator: between the head, which names the tool, and the arguments.
        head: what precedes the name in a head.
        fence: what the arguments are wrapped in besides, before and after.
        numbered: the head is also the call's id and ends in a colon and a number.
    """

    separator: str = ""
    head: str = ""
    fence: tuple[str, str] = ("", "")
    numbered: bool = False
    ends_thinking: bool = True

    @property
    def openers(self) -> tuple[str, ...]:
        """The outer mark, or the inner one where a model left the outer out."""
        return (self.tool_begin, self.call_begin)

    @property
    def marks(self) -> tuple[str, ...]:
        """See `CallFormat.marks`."""
        return (*super().marks, self.separator, self.head)

    def write(self, name: str, arguments: Mapping[str, Any], index: int = 0) -> str:
        """See `CallFormat.write`; `index` counts the calls where they are numbered."""
        head = f"{self.head}{name}:{index}" if self.numbered else f"{self.head}{name}"
        before, after = self.fence
        body = json.dumps(arguments, ensure_ascii=False)
        return f"{self.call_begin}{head}{self.separator}{before}{body}{after}{self.call_end}"

    def read(self, reader: Reader, calls: Calls, opener: str) -> Reading[None]:
        """See `CallFormat.read`."""
        if opener == self.call_begin:
            mark = yield from self._call(reader, calls)
        else:
            mark = yield from self._next(reader, calls, opener)
        while mark != self.tool_end and mark is not None:
            mark = yield from self._next(reader, calls, "")

    def _next(self, reader: Reader, calls: Calls, skipped: str) -> Reading[str | None]:
        """Reads a call or the end of all; None where neither comes: what was skipped on the way is text then."""
        skipped += yield from reader.spaces()
        mark = yield from reader.accept(self.call_begin, self.tool_end)
        if mark == self.call_begin:
            return (yield from self._call(reader, calls))
        if mark is None:
            calls.text(skipped)
        return mark

    def _call(self, reader: Reader, calls: Calls) -> Reading[str | None]:
        head, mark = yield from reader.text_until((self.separator, self.call_end, self.tool_end))
        name = _name(head, self)
        if mark != self.separator or not name:
            calls.text(self.call_begin + head + (mark or ""))
            return None
        calls.start(name, head.strip() if self.numbered and re.search(r":\d+\s*$", head) else None)
        yield from reader.spaces()
        before, after = self.fence
        if before:
            yield from reader.accept(before)
        ends = (after + self.call_end, after.lstrip() + self.call_end, self.call_end, self.tool_end)
        mark = yield from reader.until(tuple(dict.fromkeys(ends)), calls.arguments)
        calls.end(early=mark is None)
        return mark


def _name(head: str, form: MarkedCalls) -> str:
    name = head.strip().removeprefix(form.head)
    return re.sub(r":\d+$", "", name) if form.numbered else name


DEEPSEEK_V3 = MarkedCalls(
    tool_begin="<｜tool▁calls▁begin｜>",
    tool_end="<｜tool▁calls▁end｜>",
    call_begin="<｜tool▁call▁begin｜>",
    call_end="<｜tool▁call▁end｜>",
    separator="\n",
    head="function<｜tool▁sep｜>",
    fence=("```json\n", "\n```"),
)
DEEPSEEK_V31 = MarkedCalls(
    tool_begin="<｜tool▁calls▁begin｜>",
    tool_end="<｜tool▁calls▁end｜>",
    call_begin="<｜tool▁call▁begin｜>",
    call_end="<｜tool▁call▁end｜>",
    separator="<｜tool▁sep｜>",
)
KIMI_K2 = MarkedCalls(
    tool_begin="<|tool_calls_section_begin|>",
    tool_end="<|tool_calls_section_end|>",
    call_begin="<|tool_call_begin|>",
    call_end="<|tool_call_end|>",
    separator="<|tool_call_argument_begin|>",
    head="functions.",
    numbered=True,
)
