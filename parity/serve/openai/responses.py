"""`POST /v1/responses`, `GET` and `DELETE` of stored ones, what they were asked, and the tokens that a request would have."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from msgspec import to_builtins
from starlette.requests import Request
from starlette.responses import Response

from ...core.chat import Finished, Message, ReasoningDelta
from ..answer import Answer
from ..asks import ChatAsk
from ..desk import Desk, Job
from ..refusals import Refusal, refusal_of_finish
from ..sse import EventStream, while_connected
from ..wire import json_response, parse, read_body
from .input_items import item_page
from .models import check_model
from .namespaces import parts
from .responses_asking import assistant_turn, responses_ask, turns, with_types
from .responses_stream import ResponseWriter
from .responses_types import (
    DeletedResponse,
    FunctionTool,
    InputTokens,
    InputTokensRequest,
    NamespaceTool,
    ResponseOut,
    ResponsesRequest,
)
from .store import Store, Stored


class Responses:
    """The routes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._store = Store(desk.settings.max_stored_responses)

    async def create(self, request: Request) -> Response:
        """Answers, whole or streamed."""
        body = parse(await read_body(request, self._desk.settings.body_timeout_s), ResponsesRequest, with_types)
        check_model(body.model, self._desk)
        owner = request.scope["owner"]
        earlier = self._earlier(body, owner)
        ask = responses_ask(body, earlier, self._desk)
        if not body.stream:
            return await while_connected(request.receive, self._whole(body, ask, earlier, owner))
        job = await while_connected(request.receive, self._desk.start([ask], owner))
        lines = self._lines(body, ask, earlier, owner, job)
        return EventStream(lines, job.aclose, self._desk.settings)

    async def count(self, request: Request) -> Response:
        """Counts the prompt tokens of a request, of which only the model need be given."""
        body = parse(await read_body(request, self._desk.settings.body_timeout_s), InputTokensRequest, with_types)
        check_model(body.model, self._desk)
        ask = responses_ask(body, self._earlier(body, request.scope["owner"]), self._desk)
        return json_response(InputTokens(await self._desk.count(ask)))

    async def get(self, request: Request) -> Response:
        """A stored response."""
        if request.query_params.get("stream", "false").lower() != "false":
            raise Refusal(400, "stream: a stored response is given whole", "stream", "unsupported_field")
        return json_response(self._stored(request).response)

    async def input_items(self, request: Request) -> Response:
        """What a stored response was asked."""
        stored = self._stored(request)
        return json_response(item_page(stored.given, stored.response.id, request.query_params))

    async def delete(self, request: Request) -> Response:
        """Forgets a stored response."""
        if not self._store.delete(request.path_params["id"], request.scope["owner"]):
            raise _unknown(request.path_params["id"])
        return json_response(DeletedResponse(request.path_params["id"]))

    def _stored(self, request: Request) -> Stored:
        stored = self._store.get(request.path_params["id"], request.scope["owner"])
        if stored is None:
            raise _unknown(request.path_params["id"])
        return stored

    def _earlier(self, body: ResponsesRequest, owner: str) -> tuple[Message, ...]:
        if body.previous_response_id is None:
            return ()
        stored = self._store.get(body.previous_response_id, owner)
        if stored is None:
            raise _unknown(body.previous_response_id, "previous_response_id")
        return stored.turns

    async def _whole(self, body: ResponsesRequest, ask: ChatAsk, earlier: Sequence[Message], owner: str) -> Response:
        async with aclosing(await self._desk.start([ask], owner)) as job:
            writer = self._writer(body, ask)
            async for _ in self._written(writer, body, earlier, owner, job, raises=True):
                pass
        return json_response(writer.response)

    async def _lines(
        self, body: ResponsesRequest, ask: ChatAsk, earlier: Sequence[Message], owner: str, job: Job
    ) -> AsyncGenerator[bytes, None]:
        writer = self._writer(body, ask)
        for line in writer.start():
            yield line
        async for line in self._written(writer, body, earlier, owner, job, raises=False):
            yield line

    async def _written(
        self,
        writer: ResponseWriter,
        body: ResponsesRequest,
        earlier: Sequence[Message],
        owner: str,
        job: Job,
        raises: bool,
    ) -> AsyncIterator[bytes]:
        """Writes all events; the finished response is stored before its last event is sent."""
        answer = Answer()
        thought_outputs: set[int] = set()
        async for _, event, output in job.events():
            answer.add(event)
            if isinstance(event, ReasoningDelta) and id(output) not in thought_outputs:
                thought_outputs = {id(output)}
                writer.num_thought += len(output.tokens)
            if isinstance(event, Finished):
                refusal = refusal_of_finish(event.finish)
                if refusal is not None and raises:
                    raise refusal
                writer.response.completed_at = int(time.time())
                lines = list(writer.write(event))
                if refusal is None and body.store is not False:
                    turn = assistant_turn(answer.text_parts, answer.reasoning_parts, answer.calls)
                    self._store.put(Stored(owner, writer.response, body.input, (*earlier, *turns(body.input), turn)))
                for line in lines:
                    yield line
            else:
                for line in writer.write(event):
                    yield line

    def _writer(self, body: ResponsesRequest, ask: ChatAsk) -> ResponseWriter:
        response = ResponseOut(
            id=f"resp_{uuid.uuid4().hex}",
            created_at=int(time.time()),
            model=body.model,
            status="in_progress",
            output=[],
            parallel_tool_calls=body.parallel_tool_calls is not False,
            tool_choice=to_builtins(body.tool_choice) or "auto",
            tools=[_echoed(tool) for tool in body.tools or ()],
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            previous_response_id=body.previous_response_id,
            reasoning={"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            store=body.store is not False,
            temperature=ask.params.temperature,
            text=_echoed_text(body),
            top_p=ask.params.top_p,
        )
        return ResponseWriter(response, self._desk.words, ask.params.logprobs is not None, parts(body.tools or ()))


def _echoed(tool: FunctionTool | NamespaceTool) -> dict[str, Any]:
    plain: dict[str, Any] = to_builtins(tool)
    if isinstance(tool, NamespaceTool):
        return {**plain, "description": tool.description or "", "tools": [_echoed(function) for function in tool.tools]}
    return {**plain, "strict": bool(plain.get("strict")), "parameters": plain.get("parameters") or {}}


def _echoed_text(body: ResponsesRequest) -> dict[str, Any]:
    plain: dict[str, Any] = to_builtins(body.text) if body.text else {}
    format_ = plain.get("format") or {"type": "text"}
    if format_["type"] == "json_schema":
        format_ = {**format_, "name": format_.get("name") or "answer"}
    return {"format": format_}


def _unknown(response_id: str, field: str | None = None) -> Refusal:
    text = f"there is no stored response {response_id!r}; it was never stored, was dropped, or belongs to another key"
    return Refusal(404, text, field, "response_not_found")
