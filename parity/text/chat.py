"""From a conversation to prompt tokens, and from answer tokens to events: what `LLM.chat` and the server share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.core.chat import Event, Finished, Message, TextDelta, Tool
from parity.core.errors import Unsupported
from parity.core.request import Finish, Output, TokenLogprobs, Usage

from .dialects import Dialect, dialect_for
from .dialects.marked import KIMI_K2
from .encodings import encoding_for
from .protect import Shield, encode_rendered
from .router import Router, random_id
from .stream import TextStream
from .switches import FORMAT, unheeded
from .template import ChatTemplate, NoTemplate, Template
from .tokenizer import Tokenizer

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation ready for the engine.

    Args:
        tokens: the prompt.
        text: the same as text.
        in_reasoning: whether the prompt has opened the model's thinking.
    """

    tokens: tuple[int, ...]
    text: str
    in_reasoning: bool


@dataclass(frozen=True)
class Chat:
    """How one model is talked to.

    Args:
        tokenizer: its tokenizer.
        template: how conversations are written.
        dialect: how answers are read.
    """

    tokenizer: Tokenizer
    template: Template
    dialect: Dialect
    _said: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        model_type: str | None = None,
        *,
        template: str | None = None,
        dialect: Dialect | None = None,
        plain: bool = False,
    ) -> Chat:
        """How a model is talked to, by its tokenizer's template and its type.

        Args:
            tokenizer: the model's tokenizer, which may ship a template.
            model_type: the architecture, for those that have no template.
            template: a Jinja source in place of the model's own.
            dialect: in place of the one that follows from the template.
            plain: a model without a template is for plain prompts and embeddings; it refuses conversations when they come.

        Raises:
            Unsupported: there is no template, none was written for this architecture, and it is not to be `plain`.
            FormatError: the template is not Jinja.
        """
        source = template or tokenizer.chat_template
        encoding = None if source else encoding_for(model_type)
        spoken = dialect_for(model_type, source)
        kimi = spoken.calls is KIMI_K2
        chosen: Template | None = ChatTemplate(source, tokenizer.facts.named, sort_tools=kimi) if source else encoding
        if chosen is None:
            chosen = NoTemplate(model_type)
            if not plain:
                raise Unsupported(chosen.refusal)
            _LOG.warning("%s: conversations are refused", chosen.refusal)
        return cls(tokenizer, chosen, dialect or spoken)

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, add_generation_prompt: bool = True, **options: Any
    ) -> ChatPrompt:
        """The conversation as a prompt. Structure tokens that a message's text spells out stay text.

        Args:
            messages: the conversation so far, at least one.
            tools: what the model may call.
            add_generation_prompt: end with the opening of the assistant's turn.
            options: the template's, such as `enable_thinking`, `reasoning_effort`, and what some prompts say of the answer:
                `tool_choice` and `response_format`. Thinking that the model cannot do is left out, and said in the log once.

        Raises:
            RequestError: the template refuses the conversation.
        """
        for words in unheeded(options, self.template.variables, thinks=self.dialect.thinking is not None):
            if words not in self._said:
                self._said.add(words)
                _LOG.warning("%s", words)
        shield = Shield(self.tokenizer, self.dialect.marks, messages, tools, options.get(FORMAT))
        options |= {} if shield.form is None else {FORMAT: shield.form}
        text = self.template.render(shield.messages, shield.tools, add_generation_prompt=add_generation_prompt, **options)
        tokens = encode_rendered(self.tokenizer, text, shield)
        thinking = self.dialect.thinking
        open_thinking = thinking is not None and add_generation_prompt and text.rstrip().endswith(thinking.begin)
        return ChatPrompt(tuple(tokens), shield.restore(text), open_thinking)

    def answer(
        self,
        prompt: ChatPrompt,
        tools: Sequence[Tool] = (),
        *,
        stop: tuple[str, ...] = (),
        skip_special_tokens: bool = True,
        new_id: Callable[[int], str] = random_id,
    ) -> AnswerStream:
        """Reads the answer to a prompt."""
        keep = self.dialect.keep_tokens(self.tokenizer, tools=bool(tools))
        stream = TextStream(self.tokenizer, stop, skip_special_tokens, keep)
        router = Router(self.dialect, tools, in_reasoning=prompt.in_reasoning, new_id=new_id)
        return AnswerStream(stream, router)


class AnswerStream:
    """Turns the engine's outputs for one request into events, the last of which is `Finished`.

    A stop string ends the answer before the engine knows of it: `stopped` is then set, the events end with `Finished`, and
    whoever drives the engine should abort the request.
    """

    def __init__(self, stream: TextStream, router: Router) -> None:
        self._stream = stream
        self._router = router
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._usage = Usage()
        self._finished = False

    @property
    def finished(self) -> bool:
        """Whether `Finished` was given out."""
        return self._finished

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._stream.stopped

    def push(self, output: Output) -> list[Event]:
        """The events that an output brings; none after `Finished`.

        Tokens and logprobs go with the text that they complete; those of thinking and calls are dropped with it.
        """
        if self._finished:
            return []
        self._usage = output.usage
        self._tokens += output.tokens
        self._logprobs += output.logprobs
        events = self._with_tokens(self._router.push(self._stream.push(output.tokens)))
        if output.finish is not None or self.stopped is not None:
            rest = "" if self.stopped is not None else self._stream.flush()
            events += self._with_tokens([*self._router.push(rest), *self._router.finish()])
            events += self._end(output.finish)
        return events

    def _end(self, finish: Finish | None) -> list[Event]:
        self._finished = True
        if self.stopped is not None or finish is None:
            finish = Finish("stop", stop=self.stopped)
        left: list[Event] = []
        if self._logprobs:
            left.append(TextDelta("", tuple(self._tokens), tuple(self._logprobs)))
        return [*left, Finished(finish, self._usage)]

    def _with_tokens(self, events: list[Event]) -> list[Event]:
        """Puts the tokens so far on the first text."""
        result: list[Event] = []
        for event in events:
            if isinstance(event, TextDelta) and self._tokens:
                event = TextDelta(event.text, tuple(self._tokens), tuple(self._logprobs))
            if not isinstance(event, Finished):
                self._tokens, self._logprobs = [], []
            result.append(event)
        return result
