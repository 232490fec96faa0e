"""Keeps what people write apart from a prompt's structure: `<|im_end|>` in a message is text and ends nothing.

Before rendering, each structure token that a message spells out is replaced by a placeholder, which passes through any
template as a word would. After rendering, the text is cut at the structure tokens that the template itself has written, and
what lies between is tokenised as plain text where it holds a placeholder.

The marks of the model's own dialect are left alone in the assistant's messages, for templates look for them there
(`content.split('</think>')`), and so is what is no structure token to the tokenizer: `<tool_call>` is ordinary text in some.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from parity.core.chat import Message, Tool, ToolCall
from parity.core.errors import RequestError

from .plain_json import plain_json
from .tokenizer import Tokenizer

_CANDIDATES = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # noncharacters: no text should have them


class Shield:
    """The conversation with placeholders, and the way back.

    Args:
        tokenizer: whose structure tokens are meant.
        marks: the dialect's marks.
        messages, tools: the conversation as it came.
        form: the form asked of the answer, as JSON; some prompts repeat it.
    """

    def __init__(
        self, tokenizer: Tokenizer, marks: Sequence[str], messages: Sequence[Message], tools: Sequence[Tool], form: Any = None
    ) -> None:
        special = sorted(tokenizer.special_tokens, key=len, reverse=True)
        everything = [*_texts(messages, tools), *([] if form is None else [json.dumps(plain_json(form), ensure_ascii=False)])]
        found = [text for text in special if text and any(text in part for part in everything)]
        own = [text for text in found if any(text in mark for mark in marks)]
        self._names = found
        self._mark = _unused(everything) if found else ""
        self._places = re.compile(f"{self._mark}(\\d+){self._mark}") if found else None
        self._hide_all = self._hider(found)
        self._hide_foreign = self._hider([text for text in found if text not in own])
        self.messages = [self._message(message) for message in messages] if found else list(messages)
        self.tools = [self._tool(tool) for tool in tools] if found else list(tools)
        self.form = plain_json(form, self._hide_all) if found else form

    def restore(self, text: str) -> str:
        """The text with what the placeholders stand for."""
        return self._places.sub(lambda place: self._names[int(place.group(1))], text) if self._places else text

    def hides(self, text: str) -> bool:
        """Whether a text holds a placeholder."""
        return self._places is not None and self._places.search(text) is not None

    def _hider(self, names: Sequence[str]) -> Callable[[str], str]:
        if not names:
            return lambda text: text
        pattern = re.compile("|".join(map(re.escape, names)))
        return lambda text: pattern.sub(lambda match: f"{self._mark}{self._names.index(match.group())}{self._mark}", text)

    def _message(self, message: Message) -> Message:
        hide = self._hide_foreign if message.role == "assistant" else self._hide_all
        hide_all = self._hide_all
        calls = tuple(
            ToolCall(hide_all(call.id), hide_all(call.name), self._json(call.arguments)) for call in message.tool_calls
        )
        return replace(
            message,
            content=hide(message.content),
            reasoning=None if message.reasoning is None else hide(message.reasoning),
            tool_calls=calls,
            tool_call_id=message.tool_call_id and hide_all(message.tool_call_id),
            name=message.name and hide_all(message.name),
        )

    def _json(self, text: str) -> str:
        """The arguments of a call; escapes are resolved first, for they may spell a token too."""
        try:
            value = json.loads(text)
            hidden = plain_json(value, self._hide_all)
        except (ValueError, RecursionError, RequestError):
            return self._hide_all(text)
        return text if hidden == value else json.dumps(hidden, ensure_ascii=False)

    def _tool(self, tool: Tool) -> Tool:
        hide = self._hide_all
        parameters = plain_json(tool.parameters, hide)
        return replace(tool, name=hide(tool.name), description=hide(tool.description), parameters=parameters)


def encode_rendered(tokenizer: Tokenizer, text: str, shield: Shield) -> list[int]:
    """The tokens of a rendered text."""
    if not shield.hides(text):
        return tokenizer.encode(text, add_special_tokens=False)
    names = sorted((name for name in tokenizer.added_tokens if name), key=len, reverse=True)
    tokens: list[int] = []
    for part in re.split(f"({'|'.join(map(re.escape, names))})", text):
        if part in tokenizer.added_tokens:
            tokens.append(tokenizer.added_tokens[part])
        elif part:
            tokens += tokenizer.encode(shield.restore(part), add_special_tokens=False, allow_special=False)
    return tokens


def _texts(messages: Sequence[Message], tools: Sequence[Tool]) -> list[str]:
    texts = [
        text or "" for message in messages for text in (message.content, message.reasoning, message.tool_call_id, message.name)
    ]
    calls = [call for message in messages for call in message.tool_calls]
    texts += [text for call in calls for text in (call.id, call.name, call.arguments)]
    texts += [_decoded(call.arguments) for call in calls if "\\u" in call.arguments]
    described = [[tool.name, tool.description, plain_json(tool.parameters)] for tool in tools]
    return texts + [json.dumps(one, ensure_ascii=False) for one in described]


def _decoded(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except (ValueError, RecursionError):
        return ""


def _unused(texts: Sequence[str]) -> str:
    free = next((mark for mark in _CANDIDATES if not any(mark in text for text in texts)), None)
    if free is None:
        raise RequestError("the conversation holds every Unicode noncharacter from U+FDD0 to U+FDEF", field="messages")
    return free
