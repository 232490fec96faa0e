"""`POST /tokenize` and `POST /detokenize`."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..core.errors import RequestError
from ..text.switches import layered
from .asks import ChatAsk, ToolPolicy
from .desk import Desk, aside
from .openai.asking import message_of, tool_of
from .openai.chat_types import ChatMessage, ToolSpec
from .openai.models import check_model
from .wire import Strict, json_response, parse, read_body


class TokenizeRequest(Strict):
    """A text, or a conversation, to be cut into tokens."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[ToolSpec] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: Literal[True] | None = None
    return_token_strs: bool | None = None


class Tokens(msgspec.Struct):
    """The tokens of a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Strict):
    """Tokens to be put together."""

    tokens: list[int]
    model: str | None = None


class Detokenized(msgspec.Struct):
    """The text of some tokens."""

    prompt: str


class Tokenizing:
    """The routes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def tokenize(self, request: Request) -> Response:
        """Cuts a text into tokens."""
        body = parse(await read_body(request, self._desk.settings.body_timeout_s), TokenizeRequest)
        if body.model is not None:
            check_model(body.model, self._desk)
        if (body.prompt is None) == (body.messages is None):
            raise RequestError("give either prompt or messages", field="prompt")
        tokens = await aside(partial(self._tokens, body))
        texts = None
        if body.return_token_strs:
            texts = [self._desk.words.token_bytes(token).decode("utf-8", "replace") for token in tokens]
        return json_response(Tokens(len(tokens), self._desk.info.max_model_len, tokens, texts))

    async def detokenize(self, request: Request) -> Response:
        """Puts tokens together."""
        body = parse(await read_body(request, self._desk.settings.body_timeout_s), DetokenizeRequest)
        if body.model is not None:
            check_model(body.model, self._desk)
        limit = self._desk.info.vocab_size
        for token in body.tokens:
            if not 0 <= token < limit:
                raise RequestError(f"tokens must be between 0 and {limit - 1}, not {token}", field="tokens")
        text = await aside(partial(self._desk.words.decode, body.tokens, skip_special_tokens=False))
        return json_response(Detokenized(text))

    def _tokens(self, body: TokenizeRequest) -> list[int]:
        words = self._desk.words
        if body.prompt is not None:
            return words.encode(body.prompt, add_special_tokens=body.add_special_tokens is not False)
        ask = ChatAsk(
            tuple(message_of(message) for message in body.messages or ()),
            tuple(tool_of(tool) for tool in body.tools or ()),
            ToolPolicy("auto" if body.tools else "none"),
            template=layered(dict(self._desk.settings.default_template), body.chat_template_kwargs or {}),
        )
        return list(words.chat_prompt(ask).tokens)
