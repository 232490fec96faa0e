"""Reading a text that is still being written: a cursor that waits, without threads, for what it needs to decide."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from .stream import partial_suffix

T = TypeVar("T")
Reading: TypeAlias = Generator[None, None, T]
"""A step of a parser: each `yield` waits for more text; the result does not depend on how the text was cut."""


_SPACES = re.compile(r"[ \t\r\n]*")
_CHUNK = 1 << 16


class Reader:
    """What has come and was not read yet. After `close`, nothing waits any more."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether no more text will come."""
        return self._closed

    def feed(self, text: str) -> None:
        """More text has come."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def close(self) -> None:
        """No more will come."""
        self._closed = True

    def until(self, marks: tuple[str, ...], sink: Callable[[str], None]) -> Reading[str | None]:
        """Passes text to `sink` up to the first of the marks and returns it, read; None if the text ends before one.

        The first is the one that begins first; of several that begin together, the longest.
        """
        while True:
            held = 0 if self._closed else max((self._partial(mark) for mark in marks), default=0)
            certain = len(self._text) - held
            found = min(
                ((at, -len(mark), mark) for mark in marks if (at := self._text.find(mark, self._at)) >= 0), default=None
            )
            # A mark that may begin before or at the one found, and is longer, is waited for.
            if found is not None and (held == 0 or found[0] < certain):
                self._pass(found[0], sink)
                return self.take(len(found[2]))
            self._pass(certain if found is None else min(found[0], certain), sink)
            if self._closed:
                return None
            yield

    def text_until(self, marks: tuple[str, ...]) -> Reading[tuple[str, str | None]]:
        """The text up to the first of the marks, and the mark; see `until`."""
        parts: list[str] = []
        mark = yield from self.until(marks, parts.append)
        return "".join(parts), mark

    def accept(self, *marks: str) -> Reading[str | None]:
        """Reads the mark that comes next, if one of them does; none may begin with another."""
        while True:
            for mark in marks:
                if self._text.startswith(mark, self._at):
                    return self.take(len(mark))
            if self._closed or not any(self._may_begin(mark) for mark in marks):
                return None
            yield

    def spaces(self) -> Reading[str]:
        """Reads white space."""
        parts: list[str] = []
        while True:
            found = _SPACES.match(self._text, self._at)
            parts.append(self.take(len(found.group()) if found else 0))
            if self._at < len(self._text) or self._closed:
                return "".join(parts)
            yield

    def some(self) -> Reading[str]:
        """Text that is there, unread, at least one character; empty at the end."""
        while self._at == len(self._text) and not self._closed:
            yield
        return self._text[self._at : self._at + _CHUNK]

    def take(self, count: int) -> str:
        """Reads characters that are known to be there."""
        self._at += count
        return self._text[self._at - count : self._at]

    def _pass(self, end: int, sink: Callable[[str], None]) -> None:
        if end > self._at:
            sink(self.take(end - self._at))

    def _partial(self, mark: str) -> int:
        return partial_suffix(self._text[max(self._at, len(self._text) - len(mark)) :], mark)

    def _may_begin(self, mark: str) -> bool:
        return mark.startswith(self._text[self._at : self._at + len(mark)])
