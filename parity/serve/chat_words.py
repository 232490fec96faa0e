"""`Words` over `parity.text`: the model's own tokenizer, template and dialect."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

from ..core.chat import Event, Finished, TextDelta, Tool
from ..core.errors import RequestError, Unsupported
from ..core.request import Finish, Output
from ..text.chat import AnswerStream, Chat, ChatPrompt
from ..text.infill import infill
from ..text.stream import TextStream
from ..text.switches import FORMAT
from .asks import ANY_OBJECT, ChatAsk, Form, JsonForm, TextAsk
from .calls import calls_rule
from .forms import Grammar, form_grammar
from .words import Prompt


class ChatWords:
    """One model's words.

    Args:
        chat: its tokenizer, template and dialect.
        vocab_size: width of its logits.
    """

    def __init__(self, chat: Chat, vocab_size: int) -> None:
        self._chat = chat
        self._tokenizer = chat.tokenizer
        self.vocab_size = vocab_size

    @cached_property
    def longest_token_bytes(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self._tokenizer.all_bytes()), default=1)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text."""
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some tokens."""
        return self._tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token."""
        return self._tokenizer.token_bytes(token)

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """The tokens that are structure, by their text: the tokenizer's own, and those of the dialect's marks."""
        marks = self._chat.dialect.marks
        added = {text: token for text, token in self._tokenizer.added_tokens.items() if text in marks}
        return {text: token for text, token in {**self._tokenizer.special_tokens, **added}.items() if text}

    @cached_property
    def thought_end(self) -> tuple[int, ...]:
        """The tokens that close a thought."""
        thinking = self._chat.dialect.thinking
        return tuple(self.encode(thinking.end, add_special_tokens=False)) if thinking else ()

    def chat_prompt(self, ask: ChatAsk) -> Prompt:
        """The prompt of a conversation."""
        chat = self._chat
        if ask.chat_template is not None:
            chat = Chat.of(self._tokenizer, template=ask.chat_template, dialect=chat.dialect)
        if ask.continue_last:
            return self._continued(chat, ask)
        tools, options = _said(ask, chat.template.variables)
        prompt = chat.prompt(ask.messages, tools, **options)
        return Prompt(prompt.tokens, prompt.in_reasoning)

    def text_prompt(self, ask: TextAsk) -> Prompt:
        """The prompt of a text to be continued, or of a gap to be filled."""
        if not isinstance(ask.prompt, str):
            return Prompt(ask.prompt)
        if ask.suffix is not None:
            tokens, ends = infill(self._tokenizer, ask.prompt, ask.suffix, add_special_tokens=ask.add_special_tokens)
            return Prompt(tuple(tokens), ends=tuple(ends))
        return Prompt(tuple(self.encode(ask.prompt, add_special_tokens=ask.add_special_tokens)))

    def stream(self, ask: ChatAsk | TextAsk, prompt: Prompt) -> AnswerStream | TextEvents:
        """The events of one answer."""
        if isinstance(ask, TextAsk):
            return TextEvents(TextStream(self._tokenizer, ask.params.stop))
        return self._chat.answer(ChatPrompt(prompt.tokens, "", prompt.in_thought), ask.usable_tools, stop=ask.params.stop)

    def form_grammar(self, ask: ChatAsk | TextAsk, prompt: Prompt, *, constrain_calls: bool) -> str | None:
        """The grammar of the answer."""
        if isinstance(ask, TextAsk):
            return form_grammar(ask.form) if ask.form is not None else None
        if ask.policy.mode == "required":
            return self._required_calls(ask, prompt)
        if ask.form is not None:
            return self._form(ask, ask.form, prompt)
        if ask.usable_tools and (constrain_calls or any(tool.strict for tool in ask.usable_tools)):
            return self._possible_calls(ask, prompt)
        return None

    def _form(self, ask: ChatAsk, form: Form, prompt: Prompt) -> str:
        """A form, or calls in its place, after the thought of a model that thinks."""
        calls = self._chat.dialect.calls if ask.usable_tools else None
        if self._chat.dialect.thinking is None and calls is None:
            return form_grammar(form)
        grammar = self._grammar()
        body = grammar.part("form", form_grammar(form))
        if calls is not None:
            body += f" | {calls_rule(grammar, calls, ask.usable_tools, opened=False, parallel=ask.policy.parallel)}"
        grammar.rules["start"] = f"{self._thought(grammar, prompt)} ({body})"
        return grammar.text()

    def _required_calls(self, ask: ChatAsk, prompt: Prompt) -> str:
        form = self._chat.dialect.calls
        if form is None:
            raise Unsupported("this model has no way of calling tools that is known, so that no call can be required of it")
        grammar = self._grammar()
        calls = calls_rule(grammar, form, ask.usable_tools, opened=False, parallel=ask.policy.parallel)
        grammar.rules["start"] = f"{self._thought(grammar, prompt)} {calls}"
        return grammar.text()

    def _possible_calls(self, ask: ChatAsk, prompt: Prompt) -> str | None:
        """Any text, in which each call is held to its tool's schema."""
        form = self._chat.dialect.calls
        if form is None or self._chat.dialect.structure:
            self._refuse_strict(ask)
            return None
        grammar = self._grammar()
        calls = calls_rule(grammar, form, ask.usable_tools, opened=True, parallel=ask.policy.parallel)
        begin = grammar.until("begin", form.tool_begin)
        grammar.rules["start"] = f"{self._thought(grammar, prompt)} ({begin} {calls})* TEXT"
        return grammar.text()

    def _refuse_strict(self, ask: ChatAsk) -> None:
        """A dialect whose text has marks of its own, or no calls, gives no grammar of text with calls in it."""
        if strict := [tool.name for tool in ask.usable_tools if tool.strict]:
            text = f"{', '.join(strict)}: strict tools need tool_choice required, or a tool's name, with this model"
            raise RequestError(text, field="tools")

    def _grammar(self) -> Grammar:
        return Grammar(self.control_tokens, self._chat.dialect.marks)

    def _thought(self, grammar: Grammar, prompt: Prompt) -> str:
        """What precedes the answer proper: a thought that is open must be closed, another may come."""
        thinking = self._chat.dialect.thinking
        if thinking is None:
            return ""
        end = grammar.until("thought", thinking.end)
        if prompt.in_thought:
            return f"{end} SPACE?"
        return f"(SPACE? {grammar.literal(thinking.begin)} {end} SPACE?)?"

    def _continued(self, chat: Chat, ask: ChatAsk) -> Prompt:
        """A prompt that ends inside the last message."""
        tools, options = _said(ask, chat.template.variables)
        prompt = chat.prompt(ask.messages, tools, add_generation_prompt=False, **options)
        last = ask.messages[-1].content.strip()
        at = prompt.text.rfind(last)
        if not last or at < 0:
            raise RequestError("the last message has no text that could be continued", field="messages")
        closing = tuple(self.encode(prompt.text[at + len(last) :], add_special_tokens=False))
        if closing and prompt.tokens[-len(closing) :] != closing:
            raise RequestError("the last message cannot be continued with this template", field="messages")
        return Prompt(prompt.tokens[: len(prompt.tokens) - len(closing)])


def _said(ask: ChatAsk, known: Collection[str]) -> tuple[tuple[Tool, ...], dict[str, Any]]:
    """(the tools that the prompt declares, the template's options): what is asked of the answer, if the template can say so."""
    tools, options = ask.usable_tools, dict[str, Any]()
    if "tool_choice" in known and ask.tools and ask.policy.mode != "auto":
        options["tool_choice"] = ask.policy.mode
        tools = tools or ask.tools  # declared and forbidden, rather than not there
    tools = tuple(tool for tool in tools if tool.name not in ask.told)
    if FORMAT in known and isinstance(ask.form, JsonForm):
        whole = {"type": "json_schema", "json_schema": {"schema": ask.form.schema}}
        options[FORMAT] = {"type": "json_object"} if ask.form.schema == ANY_OBJECT else whole
    return tools, options | dict(ask.template)


class TextEvents:
    """The events of a continued text: nothing but text."""

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream

    def push(self, output: Output) -> list[Event]:
        """The events that an output brings; the last is `Finished`."""
        text = self._stream.push(output.tokens)
        finish = output.finish
        if self._stream.stopped is not None:
            finish = Finish("stop", stop=self._stream.stopped)
        elif finish is not None:
            text += self._stream.flush()
        events: list[Event] = [TextDelta(text, output.tokens, output.logprobs)] if text or output.logprobs else []
        return [*events, Finished(finish, output.usage)] if finish is not None else events
