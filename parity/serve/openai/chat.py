"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from ...core.chat import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStart
from ...core.request import Usage
from ..answer import Answer, gather, total_usage
from ..asks import ChatAsk
from ..desk import Desk, Job
from ..refusals import error_body, refusal_of_finish
from ..sse import DONE, EventStream, data, while_connected
from ..wire import json_response, parse, read_body
from .asking import chat_ask
from .chat_types import (
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChoiceOut,
    ChunkChoice,
    DeltaOut,
    FunctionDelta,
    FunctionOut,
    LogprobsOut,
    MessageOut,
    ToolCallDeltaOut,
    ToolCallOut,
    UsageOut,
)
from .models import check_model
from .writing import logprobs_out, reason_of, stop_of, usage_out

PATH = "/v1/chat/completions"


class Chat:
    """The route."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(self, request: Request) -> Response:
        """Answers a conversation, whole or streamed."""
        body = parse(await read_body(request, self._desk.settings.body_timeout_s), ChatRequest)
        check_model(body.model, self._desk)
        ask = chat_ask(body, self._desk)
        owner = request.scope["owner"]
        if not body.stream:
            return await while_connected(request.receive, self._whole(body, ask, owner))
        job = await while_connected(request.receive, self._desk.start([ask], owner))
        lines = _Stream(self._desk, body, job).lines()
        return EventStream(lines, job.aclose, self._desk.settings)

    async def _whole(self, body: ChatRequest, ask: ChatAsk, owner: str) -> Response:
        async with aclosing(await self._desk.start([ask], owner)) as job:
            answers = await gather(job)
        completion = ChatCompletion(
            id=new_id(),
            created=int(time.time()),
            model=body.model,
            choices=[self._choice(index, answer, bool(body.logprobs)) for index, answer in enumerate(answers)],
            usage=usage_out(total_usage(answers)),
        )
        return json_response(completion)

    def _choice(self, index: int, answer: Answer, logprobs: bool) -> ChoiceOut:
        message = MessageOut(content=answer.text or (None if answer.calls else ""))
        if answer.reasoning:
            message.reasoning_content = answer.reasoning
        if answer.calls:
            message.tool_calls = [ToolCallOut(call.id, FunctionOut(call.name, call.arguments)) for call in answer.calls]
        return ChoiceOut(
            index=index,
            message=message,
            finish_reason=reason_of(answer.finish, bool(answer.calls)),
            logprobs=logprobs_out(answer.logprobs, self._desk.words) if logprobs else None,
            stop_reason=stop_of(answer.finish, self._desk.info.eos_token_ids),
        )


class _Stream:
    """Writes one answer as chunks."""

    def __init__(self, desk: Desk, body: ChatRequest, job: Job) -> None:
        self._desk = desk
        self._body = body
        self._job = job
        self._id = new_id()
        self._created = int(time.time())
        options = body.stream_options
        self._counts_last = bool(options and options.include_usage)
        self._counts_always = bool(options and options.continuous_usage_stats)
        self._has_calls: set[int] = set()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """The events of the stream: a role for each sample, the deltas, the ends, the counts."""
        usages: dict[int, Usage] = {}
        for index in range(len(self._job.streams)):
            yield self._chunk(ChunkChoice(index, DeltaOut(role="assistant", content="")), Usage())
        async for index, event, output in self._job.events():
            usages[index] = output.usage
            if isinstance(event, Finished) and (refusal := refusal_of_finish(event.finish)) is not None:
                yield data(error_body(refusal, PATH))
                return
            if (choice := self._choice(index, event)) is not None:
                yield self._chunk(choice, output.usage)
        if self._counts_last:
            total = total_usage([Answer(usage=usage) for usage in usages.values()])
            yield data(ChatChunk(self._id, self._created, self._body.model, [], usage=usage_out(total)))
        yield DONE

    def _choice(self, index: int, event: Event) -> ChunkChoice | None:
        match event:
            case TextDelta() if event.text or event.logprobs:
                return ChunkChoice(index, DeltaOut(content=event.text), logprobs=self._logprobs(event))
            case ReasoningDelta() if event.text:
                return ChunkChoice(index, DeltaOut(reasoning_content=event.text))
            case ToolCallStart():
                self._has_calls.add(index)
                call = ToolCallDeltaOut(event.index, FunctionDelta(event.name, ""), event.id, "function")
                return ChunkChoice(index, DeltaOut(tool_calls=[call]))
            case ToolCallDelta():
                call = ToolCallDeltaOut(event.index, FunctionDelta(arguments=event.arguments))
                return ChunkChoice(index, DeltaOut(tool_calls=[call]))
            case Finished():
                return ChunkChoice(index, DeltaOut(), reason_of(event.finish, index in self._has_calls))
            case _:
                return None

    def _logprobs(self, event: TextDelta) -> LogprobsOut | None:
        return logprobs_out(event.logprobs, self._desk.words) if self._body.logprobs else None

    def _chunk(self, choice: ChunkChoice, usage: Usage) -> bytes:
        counts: UsageOut | UnsetType | None = None if self._counts_last else UNSET
        if self._counts_always:
            counts = usage_out(usage)
        return data(ChatChunk(self._id, self._created, self._body.model, [choice], usage=counts))


def new_id() -> str:
    """An id for a chat completion."""
    return f"chatcmpl-{uuid.uuid4().hex}"
