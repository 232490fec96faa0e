"""A response as it grows: its items, and the events that tell of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from msgspec import UNSET

from ...core.chat import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ...core.request import Usage
from ..refusals import refusal_of_finish
from ..sse import named
from ..words import Words
from .chat_types import TokenLogprob
from .responses_types import (
    ErrorOut,
    FunctionCallOutItem,
    Incomplete,
    InputDetails,
    MessageOutItem,
    OutItem,
    OutputDetails,
    OutputText,
    ReasoningOutItem,
    ReasoningTextOut,
    ResponseOut,
    ResponseUsage,
)
from .writing import logprobs_out


class ResponseWriter:
    """Builds a response from events, and says each step as an event of the stream.

    Args:
        response: what is filled in.
        words: for the texts of tokens.
        logprobs: whether log-probabilities are reported.
        namespaces: the namespace and the name of each tool that has one, by its joined name.

    `num_thought` counts the tokens of thought; the caller knows them.
    """

    def __init__(self, response: ResponseOut, words: Words, logprobs: bool, namespaces: Mapping[str, tuple[str, str]]) -> None:
        self.response = response
        self._words = words
        self._wants_logprobs = logprobs
        self._namespaces = namespaces
        self._numbers = count()
        self._parts: list[str] = []
        self._item: OutItem | None = None
        self._token_logprobs: list[TokenLogprob] = []
        self.num_thought = 0

    def start(self) -> Iterator[bytes]:
        """The first events."""
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self.response)

    def write(self, event: Event) -> Iterator[bytes]:
        """The lines of the next event."""
        match event:
            case TextDelta():
                yield from self._text(event)
            case ReasoningDelta() if event.text:
                yield from self._thought(event.text)
            case ToolCallStart():
                namespace, name = self._namespaces.get(event.name, (UNSET, event.name))
                yield from self._open(FunctionCallOutItem(_id("fc"), event.id, name, "", "in_progress", namespace))
            case ToolCallDelta() if event.arguments:
                yield self._item_event("response.function_call_arguments.delta", delta=event.arguments)
            case ToolCallEnd():
                yield from self._close(arguments=event.arguments)
            case Finished():
                yield from self._finish(event)

    def _text(self, event: TextDelta) -> Iterator[bytes]:
        if not isinstance(self._item, MessageOutItem):
            if not event.text.strip() and (self._item is not None or self.response.output):
                return
            yield from self._open(MessageOutItem(_id("msg"), [], "in_progress"))
            yield self._item_event("response.content_part.added", content_index=0, part=OutputText(""))
        self._parts.append(event.text)
        logprobs = self._logprobs(event)
        self._token_logprobs.extend(logprobs)
        yield self._item_event("response.output_text.delta", content_index=0, delta=event.text, logprobs=logprobs)

    def _thought(self, text: str) -> Iterator[bytes]:
        if not isinstance(self._item, ReasoningOutItem):
            yield from self._open(ReasoningOutItem(_id("rs"), [], "in_progress"))
            yield self._item_event("response.content_part.added", content_index=0, part=ReasoningTextOut(""))
        self._parts.append(text)
        yield self._item_event("response.reasoning_text.delta", content_index=0, delta=text)

    def _open(self, item: OutItem) -> Iterator[bytes]:
        yield from self._close()
        self._item = item
        self._parts = []
        self._token_logprobs = []
        self.response.output.append(item)
        yield self._item_event("response.output_item.added", item=item)

    def _close(self, arguments: str | None = None) -> Iterator[bytes]:
        """Completes the open item."""
        text = "".join(self._parts)
        match self._item:
            case MessageOutItem() as item:
                part = OutputText(text, [], self._token_logprobs)
                item.content = [part]
                yield self._item_event("response.output_text.done", content_index=0, text=text, logprobs=self._token_logprobs)
                yield self._item_event("response.content_part.done", content_index=0, part=part)
            case ReasoningOutItem() as item:
                thought = ReasoningTextOut(text)
                item.content = [thought]
                yield self._item_event("response.reasoning_text.done", content_index=0, text=text)
                yield self._item_event("response.content_part.done", content_index=0, part=thought)
            case FunctionCallOutItem() as item:
                item.arguments = arguments or ""
                yield self._item_event("response.function_call_arguments.done", arguments=item.arguments, name=item.name)
            case None:
                return
        self._item.status = "completed"
        yield self._item_event("response.output_item.done", item=self._item)
        self._item = None

    def _finish(self, event: Finished) -> Iterator[bytes]:
        yield from self._close()
        response = self.response
        response.usage = usage_out(event.usage, self.num_thought)
        if (refusal := refusal_of_finish(event.finish)) is not None:
            response.status = "failed"
            response.error = ErrorOut(refusal.code or "server_error", refusal.message)
            yield self._event("response.failed", response=response)
        elif event.finish.reason == "length":
            response.status = "incomplete"
            response.incomplete_details = Incomplete("max_output_tokens")
            if response.output:
                response.output[-1].status = "incomplete"
            yield self._event("response.incomplete", response=response)
        else:
            response.status = "completed"
            yield self._event("response.completed", response=response)

    def _logprobs(self, event: TextDelta) -> list[TokenLogprob]:
        return logprobs_out(event.logprobs, self._words).content if self._wants_logprobs else []

    def _item_event(self, kind: str, **fields: Any) -> bytes:
        place: dict[str, Any] = {"output_index": len(self.response.output) - 1}
        if "item" not in fields and self._item is not None:
            place["item_id"] = self._item.id
        return self._event(kind, **place, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return named(kind, {"type": kind, "sequence_number": next(self._numbers), **fields})


def usage_out(usage: Usage, num_thought: int) -> ResponseUsage:
    """Token counts."""
    return ResponseUsage(
        usage.num_prompt_tokens,
        usage.num_generated_tokens,
        usage.num_prompt_tokens + usage.num_generated_tokens,
        InputDetails(usage.num_cached_tokens),
        OutputDetails(num_thought),
    )


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
