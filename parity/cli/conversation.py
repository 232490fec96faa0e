"""A conversation: its turns, the answer streamed as it comes, and what it cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.chat import Finished, Message, ReasoningDelta, TextDelta, ToolCallEnd, ToolCallStart
from ..core.errors import EngineError
from ..core.request import Finish, SamplingParams, Usage
from .terminal import printable, say, write

if TYPE_CHECKING:
    from ..answers import AnswerStream
    from ..llm import LLM

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


@dataclass(slots=True)
class Turn:
    """One answer: what was said, why it ended, and when. `finish` None: it was stopped from outside."""

    text: str = ""
    reasoning: str = ""
    finish: Finish | None = None
    usage: Usage = field(default_factory=Usage)
    started_s: float = 0.0
    first_s: float | None = None
    ended_s: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """The rate of decoding, after the first token."""
        elapsed = self.ended_s - (self.first_s or self.ended_s)
        return (self.usage.num_generated_tokens - 1) / elapsed if self.usage.num_generated_tokens > 1 and elapsed > 0 else 0.0

    def summary(self) -> str:
        """One line for the end of a turn."""
        if self.finish is None:
            return "stopped"
        usage = self.usage
        cached = f", {usage.num_cached_tokens} of them cached" if usage.num_cached_tokens else ""
        parts = [f"{usage.num_generated_tokens} tokens"]
        if self.tokens_per_second:
            parts.append(f"{self.tokens_per_second:.1f} tokens/s")
        if self.first_s is not None:
            parts.append(f"first after {self.first_s - self.started_s:.2f} s")
        parts.append(f"prompt {usage.num_prompt_tokens} tokens{cached}")
        if self.finish.reason == "length":
            parts.append("cut off at the length limit")
        return " | ".join(parts)


class Conversation:
    """The turns so far with one model.

    Args:
        llm: the model; the caller closes it.
        params: for every answer.
        system: the system message, if any.
        template: more for the chat template.
    """

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None, template: Mapping[str, Any]) -> None:
        self.llm = llm
        self.params = params
        self.system = system
        self.template = dict(template)
        self.messages: list[Message] = []
        self.turns: list[Turn] = []

    def once(self, prompt: str) -> int:
        """Answers one prompt; Ctrl-C ends it as it ends any program.

        Raises:
            ParityError: the prompt cannot be answered.
        """
        turn = Turn()
        self._stream([Message("user", prompt)], turn)
        write("\n")
        say(turn.summary())
        return 0

    def answer(self, prompt: str) -> Turn:
        """One more turn. Ctrl-C stops the answer, which then stands as far as it came.

        Raises:
            ParityError: the turn cannot be answered; the conversation is as before.
        """
        asked = Message("user", prompt)
        turn = Turn()
        try:
            self._stream([*self.messages, asked], turn)
        except KeyboardInterrupt:
            turn.ended_s = time.monotonic()
        if turn.text or turn.finish is not None:
            self.messages += [asked, Message("assistant", turn.text, reasoning=turn.reasoning or None)]
        self.turns.append(turn)
        return turn

    def clear(self) -> None:
        """Forgets the turns; the system message stays."""
        self.messages.clear()

    def _stream(self, messages: list[Message], turn: Turn) -> None:
        system = [Message("system", self.system)] if self.system else []
        play(self.llm.stream([*system, *messages], self.params, **self.template), turn)


def user_turn(prompt: str, system: str | None) -> list[Message]:
    """The messages of a first turn."""
    return [*([Message("system", system)] if system else []), Message("user", prompt)]


def play(events: AnswerStream, turn: Turn) -> None:
    """Shows an answer as it comes and keeps it in `turn`; whatever happens, the request has ended when this returns.

    Raises:
        EngineError: the answer ended in an error.
    """
    turn.started_s = time.monotonic()
    screen = _Screen()
    try:
        for event in events:
            if turn.first_s is None and not isinstance(event, Finished):
                turn.first_s = time.monotonic()
            match event:
                case TextDelta(text=text):
                    turn.text += text
                    screen.show(text)
                case ReasoningDelta(text=text):
                    turn.reasoning += text
                    screen.think(text)
                case ToolCallStart(name=name):
                    screen.show(f"\n[calls {name}: ")
                case ToolCallEnd(arguments=arguments):
                    screen.show(f"{arguments}]")
                case Finished(finish=finish, usage=usage):
                    turn.finish, turn.usage = finish, usage
                    turn.ended_s = time.monotonic()
    finally:
        screen.close()
        events.close()
    if turn.finish is not None and turn.finish.reason == "error":
        raise EngineError(turn.finish.message or "the engine failed")


class _Screen:
    """Where an answer goes: reasoning is dim on a terminal, and left out of pipes and files."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._thinking = False

    def show(self, text: str) -> None:
        if self._thinking:
            text = f"\n\n{text.lstrip()}"
            self.close()
        write(printable(text) if self._terminal else text)

    def think(self, text: str) -> None:
        if not self._terminal:
            return
        if not self._thinking:
            self._thinking = True
            self._style(_DIM)
        write(printable(text))

    def close(self) -> None:
        if self._thinking:
            self._thinking = False
            self._style(_PLAIN)

    def _style(self, code: str) -> None:
        from .terminal import output

        if output().color_system is not None:
            write(code)
