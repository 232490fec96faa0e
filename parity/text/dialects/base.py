"""What a dialect is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from parity.core.chat import Event, Tool, ToolCallDelta, ToolCallEnd, ToolCallStart

from ..json_scan import strict_json
from ..reader import Reader, Reading
from ..tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Thinking:
    """The marks around a model's thinking."""

    begin: str
    end: str


@dataclass(frozen=True)
class CallFormat(ABC):
    """How tool calls are written.

    Args:
        tool_begin, tool_end: the marks around all calls of an answer, or around each where there is no outer pair.
        call_begin, call_end: the marks around one call inside them; empty where there is no inner pair.
        ends_thinking: any opener ends the thinking that was not ended; so where the marks are tokens of their own.
    """

    tool_begin: str
    tool_end: str
    call_begin: str = ""
    call_end: str = ""
    ends_thinking: bool = False

    @property
    def openers(self) -> tuple[str, ...]:
        """The texts at which calls begin."""
        return (self.tool_begin,)

    @property
    def thinking_ends(self) -> tuple[str, ...]:
        """The openers at which a call ends the thinking that was not ended."""
        return self.openers if self.ends_thinking else ()

    @property
    def marks(self) -> tuple[str, ...]:
        """All texts that are structure, for the tokenizers in which they are special tokens."""
        return tuple(mark for mark in (self.tool_begin, self.tool_end, self.call_begin, self.call_end) if mark)

    @abstractmethod
    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """One call as a model writes it, the outer marks left out where there are inner ones."""

    @abstractmethod
    def read(self, reader: Reader, calls: Calls, opener: str) -> Reading[None]:
        """Reads calls from behind `opener` on, and returns behind the last one."""

    def read_bare(self, reader: Reader, calls: Calls) -> Reading[None]:
        """Reads calls without their marks, where the answer's text begins with any; most dialects know none."""
        yield from ()


@dataclass(frozen=True)
class Dialect:
    """How a model's answer is divided into thinking, text and calls.

    Args:
        name: vLLM's name for it where there is one.
        thinking: the marks around thinking, if it thinks.
        calls: how tools are called, if they can be.
        structure: marks that are neither text nor any of the above, and are left out.
    """

    name: str
    thinking: Thinking | None = None
    calls: CallFormat | None = None
    structure: tuple[str, ...] = field(default=())

    @property
    def marks(self) -> tuple[str, ...]:
        """All texts that are structure."""
        thinking = (self.thinking.begin, self.thinking.end) if self.thinking else ()
        return (*thinking, *(self.calls.marks if self.calls else ()), *self.structure)

    def keep_tokens(self, tokenizer: Tokenizer, *, tools: bool = True) -> frozenset[int]:
        """The special tokens of a tokenizer that belong to the dialect's marks: a `TextStream` must not leave them out.

        Without `tools`, those of calls are not among them.
        """
        marks = self.marks if tools else replace(self, calls=None).marks
        return frozenset(token for text, token in tokenizer.special_tokens.items() if any(text in mark for mark in marks))


class Calls:
    """Takes down the calls of one answer as events.

    Args:
        emit: takes each event.
        text: takes what turned out to be no call.
        tools: what may be called.
        new_id: an id for a call whose dialect has none, by its index.
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        text: Callable[[str], None],
        tools: Mapping[str, Tool],
        new_id: Callable[[int], str],
    ) -> None:
        self.text = text
        self.tools = tools
        self._emit = emit
        self._new_id = new_id
        self._index = -1
        self._name = ""
        self._parts: list[str] = []

    def start(self, name: str, id: str | None = None) -> None:
        """A call begins."""
        self._index += 1
        self._name = name
        self._parts = []
        self._emit(ToolCallStart(self._index, id or self._new_id(self._index), name))

    def arguments(self, text: str) -> None:
        """More of the arguments' JSON text."""
        if text:
            self._parts.append(text)
            self._emit(ToolCallDelta(self._index, text))

    def end(self, error: str | None = None, *, early: bool = False) -> None:
        """The call is complete, or broken off; `early`: by the end of the answer, which is no error in whole arguments."""
        if not self._parts and error is None and not early:
            self.arguments("{}")
        text = "".join(self._parts)
        problem = error or argument_error(text)
        if early and problem is not None:
            problem = "the answer ended inside the call"
        if problem is None and self.tools and self._name not in self.tools:
            problem = f"no tool named {self._name!r} was offered"
        self._emit(ToolCallEnd(self._index, text, problem))


def argument_error(text: str) -> str | None:
    """What is wrong with the JSON text of arguments, if anything."""
    try:
        value = strict_json(text)
    except RecursionError:
        return "the arguments are nested too deeply"
    except ValueError as error:
        return f"the arguments are not JSON: {error}"
    return None if isinstance(value, dict) else f"the arguments are {text:.40} and not a JSON object"
