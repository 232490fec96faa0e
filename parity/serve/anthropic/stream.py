"""A streamed message: blocks open and close in order, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ...core.chat import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ..refusals import error_body, refusal_of_finish
from ..sse import named
from .types import (
    BlockDelta,
    BlockOut,
    BlockStart,
    BlockStop,
    InputDeltaOut,
    MessageDelta,
    MessageDeltaBody,
    MessageOut,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDeltaOut,
    TextDeltaOut,
    TextOut,
    ThinkingDeltaOut,
    ThinkingOut,
    ToolUseOut,
)
from .writing import signature, stop_reason, stop_sequence, usage_out

Kind = Literal["text", "thinking", "tool_use"]


class MessageWriter:
    """Writes events as Anthropic's. White space alone opens no text block: it is held until text follows."""

    def __init__(self, shows_thought: bool) -> None:
        self._shows_thought = shows_thought
        self._index = -1
        self._open: Kind | None = None
        self._held = ""
        self._thought: list[str] = []
        self._has_calls = False

    def start(self, message: MessageOut) -> Iterator[bytes]:
        """The first events."""
        yield named("message_start", MessageStart(message))
        yield named("ping", Ping())

    def write(self, event: Event) -> Iterator[bytes]:
        """The lines of the next event."""
        match event:
            case TextDelta():
                yield from self._text(event.text)
            case ReasoningDelta() if event.text and self._shows_thought:
                if self._open != "thinking":
                    yield from self._begin("thinking", ThinkingOut("", ""))
                self._thought.append(event.text)
                yield self._delta(ThinkingDeltaOut(event.text))
            case ToolCallStart():
                self._has_calls = True
                yield from self._begin("tool_use", ToolUseOut(event.id, event.name, {}))
            case ToolCallDelta() if event.arguments:
                yield self._delta(InputDeltaOut(event.arguments))
            case ToolCallEnd():
                yield from self._close()
            case Finished():
                yield from self._finish(event)

    def _text(self, text: str) -> Iterator[bytes]:
        if self._open != "text":
            text = self._held + text
            if not text.strip():
                self._held = text
                return
            self._held = ""
            yield from self._begin("text", TextOut(""))
        if text:
            yield self._delta(TextDeltaOut(text))

    def _finish(self, event: Finished) -> Iterator[bytes]:
        if (refusal := refusal_of_finish(event.finish)) is not None:
            yield named("error", error_body(refusal, "/v1/messages"))
            return
        yield from self._close()
        body = MessageDeltaBody(stop_reason(event.finish, self._has_calls), stop_sequence(event.finish))
        yield named("message_delta", MessageDelta(body, usage_out(event.usage)))
        yield named("message_stop", MessageStop())

    def _begin(self, kind: Kind, block: BlockOut) -> Iterator[bytes]:
        yield from self._close()
        self._open = kind
        self._index += 1
        self._held = ""
        yield named("content_block_start", BlockStart(self._index, block))

    def _close(self) -> Iterator[bytes]:
        if self._open is None:
            return
        if self._open == "thinking":
            yield self._delta(SignatureDeltaOut(signature("".join(self._thought))))
            self._thought.clear()
        self._open = None
        yield named("content_block_stop", BlockStop(self._index))

    def _delta(self, delta: TextDeltaOut | ThinkingDeltaOut | SignatureDeltaOut | InputDeltaOut) -> bytes:
        return named("content_block_delta", BlockDelta(self._index, delta))
