"""Divides an answer, as it comes, into thinking, text and tool calls."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from parity.core.chat import Event, ReasoningDelta, TextDelta, Tool, ToolCallEnd, ToolCallStart

from .dialects.base import Calls, Dialect
from .reader import Reader, Reading


def random_id(index: int) -> str:
    """An id for a call, unlike any other."""
    return f"call_{uuid.uuid4().hex[:24]}"


class Router:
    """Turns text into events. However the text is cut, the events are the same but for where deltas are cut.

    White space between the parts of an answer is dropped, as the templates put it back. What looks like a call and is none
    is text; what begins as a call and goes wrong is a call that ends with an error. Nothing raises, and nothing is lost.

    Args:
        dialect: how the model writes.
        tools: what it may call; with none, calls are text.
        in_reasoning: the prompt has opened the thinking.
        new_id: gives a call an id by its index, where the dialect has none.
    """

    def __init__(
        self,
        dialect: Dialect,
        tools: Sequence[Tool] = (),
        *,
        in_reasoning: bool = False,
        new_id: Callable[[int], str] = random_id,
    ) -> None:
        self._dialect = dialect
        self._events: list[Event] = []
        self._reader = Reader()
        self._text = _Part(lambda text: self._events.append(TextDelta(text)), trim=False)
        self._format = dialect.calls if tools else None
        self._calls = Calls(self._emit_call, self._text.push, {tool.name: tool for tool in tools}, new_id)
        self._reading = self._read(in_reasoning)
        self._finished = False

    def push(self, text: str) -> list[Event]:
        """The events that more text brings."""
        if text and not self._finished:
            self._reader.feed(text)
            self._advance()
        return self._drain()

    def finish(self) -> list[Event]:
        """The events that the end of the text brings."""
        if not self._finished:
            self._reader.close()
            self._advance()
            self._finished = True
        return self._drain()

    def _advance(self) -> None:
        next(self._reading, None)

    def _drain(self) -> list[Event]:
        events = self._events.copy()
        self._events.clear()
        return events

    def _read(self, in_reasoning: bool) -> Reading[None]:
        form = self._format
        if in_reasoning or (yield from self._opens_thinking()):
            yield from self._think()
        if form:
            yield from form.read_bare(self._reader, self._calls)
        openers = form.openers if form else ()
        while True:
            mark = yield from self._reader.until((*openers, *self._dialect.structure), self._text.push)
            if mark is None:
                break
            if mark in openers:
                yield from self._call(mark)
        self._text.flush()

    def _opens_thinking(self) -> Reading[bool]:
        """Whether the answer begins with the mark of thinking; elsewhere the mark is text."""
        thinking = self._dialect.thinking
        if thinking is None:
            return False
        space = ""
        while True:
            space += yield from self._reader.spaces()
            mark = yield from self._reader.accept(thinking.begin, *self._dialect.structure)
            if mark is None:
                self._text.push(space)
            if mark is None or mark == thinking.begin:
                return mark is not None

    def _think(self) -> Reading[None]:
        """Reads thinking, and the call that ended it in place of its own mark."""
        thinking, form = self._dialect.thinking, self._format
        ends = (thinking.end,) if thinking else ()
        openers = form.thinking_ends if form else ()
        part = _Part(lambda text: self._events.append(ReasoningDelta(text)), trim=True)
        if thinking:  # some models write the mark again that the prompt ended in
            space = yield from self._reader.spaces()
            if not (yield from self._reader.accept(thinking.begin)):
                part.push(space)
        mark = yield from self._reader.until((*ends, *openers), part.push)
        if mark is None:
            part.flush()
        self._text.trim_next()
        if mark is not None and mark in openers:
            yield from self._call(mark)

    def _call(self, opener: str) -> Reading[None]:
        assert self._format is not None
        yield from self._format.read(self._reader, self._calls, opener)

    def _emit_call(self, event: Event) -> None:
        if isinstance(event, ToolCallStart):
            self._text.drop_space()
        elif isinstance(event, ToolCallEnd):
            self._text.trim_next()
        self._events.append(event)


class _Part:
    """A part of the answer. White space at its end is held back until more follows, and dropped at its beginning if asked."""

    def __init__(self, emit: Callable[[str], None], *, trim: bool) -> None:
        self._emit = emit
        self._trim = trim
        self._space: list[str] = []

    def trim_next(self) -> None:
        """White space that follows now separates parts, and is dropped."""
        self._trim = True

    def push(self, text: str) -> None:
        """More text."""
        if self._trim:
            text = text.lstrip("\n")
            self._trim = not text
        body = text.rstrip()
        if body:
            self._emit("".join(self._space) + body)
            self._space.clear()
        if len(body) < len(text):
            self._space.append(text[len(body) :])

    def drop_space(self) -> None:
        """A part of another kind follows: the space between is dropped."""
        self._space.clear()

    def flush(self) -> None:
        """The answer ends: the space is part of it."""
        space = "".join(self._space)
        self._space.clear()
        if space:
            self._emit(space)
