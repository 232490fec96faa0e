"""`POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from ..answer import Answer, gather
from ..asks import ChatAsk
from ..desk import Desk, Job
from ..openai.models import check_model
from ..sse import EventStream, named, while_connected
from ..wire import json_response, parse, read_body
from .asking import conversation, messages_ask
from .stream import MessageWriter
from .types import (
    BlockOut,
    CountRequest,
    MessageOut,
    MessagesRequest,
    Ping,
    TextOut,
    ThinkingDisabled,
    ThinkingOut,
    TokenCount,
    ToolUseOut,
    UsageOut,
)
from .writing import new_id, signature, stop_reason, stop_sequence, tool_input, usage_out


class Messages:
    """The routes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(self, request: Request) -> Response:
        """Answers a conversation, whole or streamed."""
        body = parse(await read_body(request, self._desk.settings.body_timeout_s), MessagesRequest)
        check_model(body.model, self._desk)
        ask = messages_ask(body, self._desk)
        owner = request.scope["owner"]
        if not body.stream:
            return await while_connected(request.receive, self._whole(body, ask, owner))
        job = await while_connected(request.receive, self._desk.start([ask], owner))
        return EventStream(self._lines(body, job), job.aclose, self._desk.settings, idle=named("ping", Ping()))

    async def count(self, request: Request) -> Response:
        """Counts the tokens of a prompt."""
        body = parse(await read_body(request, self._desk.settings.body_timeout_s), CountRequest)
        check_model(body.model, self._desk)
        return json_response(TokenCount(await self._desk.count(conversation(body, self._desk))))

    async def _whole(self, body: MessagesRequest, ask: ChatAsk, owner: str) -> Response:
        async with aclosing(await self._desk.start([ask], owner)) as job:
            (answer,) = await gather(job)
        return json_response(
            MessageOut(
                new_id(),
                body.model,
                _blocks(answer, shows_thought(body)),
                usage_out(answer.usage),
                stop_reason=stop_reason(answer.finish, bool(answer.calls)),
                stop_sequence=stop_sequence(answer.finish),
            )
        )

    async def _lines(self, body: MessagesRequest, job: Job) -> AsyncGenerator[bytes, None]:
        writer = MessageWriter(shows_thought(body))
        start = MessageOut(new_id(), body.model, [], UsageOut(len(job.prompts[0].tokens), 0))
        for line in writer.start(start):
            yield line
        async for _, event, _ in job.events():
            for line in writer.write(event):
                yield line


def _blocks(answer: Answer, shows_thought: bool) -> list[BlockOut]:
    blocks: list[BlockOut] = []
    if answer.reasoning and shows_thought:
        blocks.append(ThinkingOut(answer.reasoning, signature(answer.reasoning)))
    if answer.text.strip():
        blocks.append(TextOut(answer.text))
    blocks += [ToolUseOut(call.id, call.name, tool_input(call.arguments)) for call in answer.calls]
    return blocks


def shows_thought(body: MessagesRequest) -> bool:
    """Whether thoughts are sent: not if the request asks to leave them out."""
    if body.thinking is None or isinstance(body.thinking, ThinkingDisabled):
        return True
    return body.thinking.display != "omitted"
