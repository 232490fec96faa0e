"""A whole answer, gathered from its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.chat import Event, Finished, ReasoningDelta, TextDelta, ToolCall, ToolCallDelta, ToolCallEnd, ToolCallStart
from ..core.request import Finish, Output, TokenLogprobs, Usage
from .desk import Job
from .refusals import refusal_of_finish


@dataclass
class Answer:
    """One sample: its text, its thought, its calls and how it ended."""

    text_parts: list[str] = field(default_factory=list)
    reasoning_parts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    finish: Finish = field(default_factory=lambda: Finish("stop"))
    usage: Usage = field(default_factory=Usage)

    @property
    def text(self) -> str:
        """The answer's text."""
        return "".join(self.text_parts)

    @property
    def reasoning(self) -> str:
        """What the model thought."""
        return "".join(self.reasoning_parts)

    def add(self, event: Event) -> None:
        """Takes the next event."""
        match event:
            case TextDelta():
                self.text_parts.append(event.text)
                self.logprobs.extend(event.logprobs)
                self.tokens.extend(event.tokens)
            case ReasoningDelta():
                self.reasoning_parts.append(event.text)
            case ToolCallStart():
                self.calls.append(ToolCall(event.id, event.name, ""))
            case ToolCallDelta():
                pass
            case ToolCallEnd():
                started = self.calls[event.index]
                self.calls[event.index] = ToolCall(started.id, started.name, event.arguments)
            case Finished():
                self.finish, self.usage = event.finish, event.usage

    def note(self, output: Output) -> None:
        """Takes what an output has besides its events."""
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs


async def gather(job: Job) -> list[Answer]:
    """All answers, complete.

    Raises:
        Refusal: one ended without an answer: the deadline, an abort, or an engine failure.
    """
    answers = [Answer() for _ in job.streams]
    async for index, event, output in job.events():
        answers[index].add(event)
        answers[index].note(output)
    for answer in answers:
        if (refusal := refusal_of_finish(answer.finish)) is not None:
            raise refusal
    return answers


def total_usage(answers: Sequence[Answer], num_samples: int | None = None) -> Usage:
    """The counts of several answers, `num_samples` of each prompt (None: all of one): a prompt counts once."""
    step = num_samples or len(answers) or 1
    return Usage(
        num_prompt_tokens=sum(answer.usage.num_prompt_tokens for answer in answers[::step]),
        num_cached_tokens=sum(answer.usage.num_cached_tokens for answer in answers[::step]),
        num_generated_tokens=sum(answer.usage.num_generated_tokens for answer in answers),
    )
