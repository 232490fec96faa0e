"""What the server asks of the text side: prompts from conversations, and events from outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..core.chat import Event
from ..core.request import Output
from .asks import ChatAsk, TextAsk


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's tokens, whether the answer begins inside a thought, and tokens that end it besides the model's own."""

    tokens: tuple[int, ...]
    in_thought: bool = False
    ends: tuple[int, ...] = ()


class AnswerStream(Protocol):
    """Turns one request's outputs into events; the last event is `Finished`, which may come before the engine's own end."""

    def push(self, output: Output) -> Sequence[Event]:
        """The events that an output completes."""


class Words(Protocol):
    """One model's tokenizer, chat template and dialect. Safe to use from any thread."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""

    @property
    def longest_token_bytes(self) -> int:
        """Bytes of the longest token: a text cannot have fewer tokens than its bytes by this."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text."""

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some tokens."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token."""

    def chat_prompt(self, ask: ChatAsk) -> Prompt:
        """The prompt of a conversation.

        Raises:
            RequestError: the template refuses the conversation, or a variable.
        """

    def text_prompt(self, ask: TextAsk) -> Prompt:
        """The prompt of a text to be continued, or of a gap to be filled.

        Raises:
            Unsupported: the model knows of no gaps.
        """

    def stream(self, ask: ChatAsk | TextAsk, prompt: Prompt) -> AnswerStream:
        """The events of one answer."""

    def form_grammar(self, ask: ChatAsk | TextAsk, prompt: Prompt, *, constrain_calls: bool) -> str | None:
        """The grammar of the answer, or None if anything may be said.

        Raises:
            RequestError: a schema that cannot be honoured, naming the keyword.
        """

    @property
    def thought_end(self) -> tuple[int, ...]:
        """The tokens that close a thought; none if the model does not think."""
