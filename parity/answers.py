"""What comes of a request in this process: the finished answer, and its events on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .core.chat import Event, Finished, TextDelta, ToolCall
from .core.errors import EngineError
from .core.request import Finish, Output, TokenLogprobs, Usage
from .text.stream import TextStream
from .text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds on the monotonic clock: from submission to the first token, and to the end."""

    first_token_s: float = 0.0
    total_s: float = 0.0

    def tokens_per_second(self, num_tokens: int) -> float:
        """The rate of decoding: tokens after the first over the time after the first."""
        elapsed = self.total_s - self.first_token_s
        return (num_tokens - 1) / elapsed if num_tokens > 1 and elapsed > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished sample.

    Args:
        text: what was generated, without a stop string; for a chat, the content without reasoning and tool calls.
        tokens: the generated token ids, an end token included.
        finish: why it ended.
        prompt_tokens: the prompt's token ids.
        usage: token counts.
        timings: seconds.
        logprobs: one entry for each token, if asked for.
        prompt_logprobs: one entry for each prompt token but the first, if asked for.
        reasoning: a chat model's thinking.
        tool_calls: the calls it made.
    """

    text: str
    tokens: tuple[int, ...]
    finish: Finish
    prompt_tokens: tuple[int, ...]
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(slots=True)
class Progress:
    """What has come of one request so far."""

    prompt: tuple[int, ...]
    started_s: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    arrays: list[npt.NDArray[np.float32]] = field(default_factory=list)
    first_s: float | None = None
    output: Output | None = None

    def take(self, output: Output) -> None:
        """Adds what a step brought."""
        if output.tokens and self.first_s is None:
            self.first_s = time.monotonic()
        self.tokens.extend(output.tokens)
        self.logprobs.extend(output.logprobs)
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs
        if output.array is not None:
            self.arrays.append(output.array)
        self.output = output

    def answer(self, text: str, stop: str | None, **more: Any) -> Answer:
        """What has come, as finished: `text` in words, `stop` the stop string that ended it."""
        assert self.output is not None
        now = time.monotonic()
        finish = Finish("stop", stop=stop) if stop is not None else self.output.finish
        assert finish is not None
        return Answer(
            text=text,
            tokens=tuple(self.tokens),
            finish=finish,
            prompt_tokens=self.prompt,
            usage=self.output.usage,
            timings=Timings((self.first_s or now) - self.started_s, now - self.started_s),
            logprobs=tuple(self.logprobs),
            prompt_logprobs=self.prompt_logprobs,
            **more,
        )


class RawEvents:
    """The events of a continued prompt: plain text, cut at stop strings."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._text = TextStream(tokenizer, stop)

    def push(self, output: Output) -> list[Event]:
        """The events of one output; after `Finished` there are no more."""
        text, finish = self._text.push(output.tokens), output.finish
        if self._text.stopped is not None:
            finish = Finish("stop", stop=self._text.stopped)
        elif finish is not None:
            text += self._text.flush()
        events: list[Event] = [TextDelta(text, output.tokens, output.logprobs)] if text or output.tokens else []
        return [*events, Finished(finish, output.usage)] if finish is not None else events


class AnswerStream(Iterator[Event]):
    """The events of one request as its outputs come; `close` ends it."""

    def __init__(self, items: Generator[tuple[int, Progress], None, None], push: Callable[[Output], Iterable[Event]]) -> None:
        self._items = items
        self._events = self._produce(push)
        self.stop: str | None = None
        self.progress: Progress

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Ends the request if it still runs."""
        self._events.close()

    def _produce(self, push: Callable[[Output], Iterable[Event]]) -> Generator[Event, None, None]:
        try:
            for _, progress in self._items:
                self.progress = progress
                assert progress.output is not None
                for event in push(progress.output):
                    if isinstance(event, Finished):
                        self.stop = event.finish.stop if isinstance(event.finish.stop, str) else None
                        yield event
                        return
                    yield event
        finally:
            self._items.close()


def raise_errors(answer: Answer) -> None:
    """Raises EngineError if that is how the answer ended."""
    if answer.finish.reason == "error":
        raise EngineError(answer.finish.message or "the engine failed")
