"""`POST /v1/completions`: a text, or tokens, continued as they are, or a gap filled."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from ...core.chat import Finished, TextDelta
from ...core.errors import RequestError
from ...core.request import Finish, TokenLogprobs
from ..answer import Answer, gather, total_usage
from ..asks import TextAsk
from ..desk import Desk, Job
from ..refusals import error_body, refusal_of_finish
from ..sse import DONE, EventStream, data, while_connected
from ..wire import json_response, parse, read_body
from ..words import Prompt
from .asking import sampling, structured
from .chat_types import Sampling, UsageOut
from .models import check_model
from .writing import finite, reason_of, stop_of, usage_out

MAX_PROMPTS = 64
_DEFAULT_MAX_TOKENS = 16


class CompletionRequest(Sampling, kw_only=True):
    """A text to be continued, up to `suffix` if there is one; a list of texts, or of token lists, are several."""

    prompt: str | list[str | int | list[int]]
    echo: bool | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    add_special_tokens: bool | None = None
    suffix: str | None = None


class CompletionLogprobs(msgspec.Struct):
    """Log-probabilities, one entry a token; the first prompt token has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class PromptToken(msgspec.Struct):
    """A token that may stand at a place of the prompt; its key is its id."""

    logprob: float
    rank: int
    decoded_token: str


class CompletionChoice(msgspec.Struct):
    """One sample of one prompt. `prompt_logprobs`, as vLLM has them, come where they are asked for."""

    index: int
    text: str
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    logprobs: CompletionLogprobs | None = None
    stop_reason: str | int | None = None
    prompt_logprobs: list[dict[str, PromptToken] | None] | UnsetType = UNSET


class Completion(msgspec.Struct):
    """The answer, or one event of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    object: Literal["text_completion"] = "text_completion"
    usage: UsageOut | UnsetType | None = UNSET
    system_fingerprint: str | None = None


class Completions:
    """The route."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(self, request: Request) -> Response:
        """Continues each prompt, whole or streamed."""
        body = parse(await read_body(request, self._desk.settings.body_timeout_s), CompletionRequest)
        check_model(body.model, self._desk)
        asks = self._asks(body)
        if body.stream and body.echo:
            raise RequestError("echo cannot be streamed", field="echo")
        if body.stream and body.prompt_logprobs is not None:
            raise RequestError("prompt_logprobs cannot be streamed", field="prompt_logprobs")
        owner = request.scope["owner"]
        if not body.stream:
            return await while_connected(request.receive, self._whole(body, asks, owner))
        job = await while_connected(request.receive, self._desk.start(asks, owner))
        return EventStream(self._lines(body, job), job.aclose, self._desk.settings)

    def _asks(self, body: CompletionRequest) -> list[TextAsk]:
        max_tokens = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        prompt_logprobs = body.prompt_logprobs
        if body.echo and body.logprobs is not None:
            prompt_logprobs = body.logprobs
        params = sampling(body, self._desk, max_tokens=max_tokens, logprobs=body.logprobs, prompt_logprobs=prompt_logprobs)
        special = body.add_special_tokens is not False
        form = structured(body.structured_outputs)
        prompts = _prompts(body.prompt)
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise RequestError(f"prompt must hold 1 to {MAX_PROMPTS} prompts, not {len(prompts)}", field="prompt")
        if body.suffix is not None and (body.echo or prompt_logprobs is not None):
            field = "echo" if body.echo else "prompt_logprobs"
            raise RequestError(f"{field} cannot be given with suffix: the prompt is written around a gap", field=field)
        cache = prompt_logprobs is None
        return [TextAsk(prompt, params, form, special, cache, body.suffix or None) for prompt in prompts]

    async def _whole(self, body: CompletionRequest, asks: Sequence[TextAsk], owner: str) -> Response:
        async with aclosing(await self._desk.start(asks, owner)) as job:
            answers = await gather(job)
        num_samples = asks[0].params.n
        choices = [self._choice(index, body, job.prompts[index // num_samples], answer) for index, answer in enumerate(answers)]
        usage = usage_out(total_usage(answers, num_samples))
        return json_response(Completion(_new_id(), int(time.time()), body.model, choices, usage=usage))

    def _choice(self, index: int, body: CompletionRequest, prompt: Prompt, answer: Answer) -> CompletionChoice:
        text, logprobs = answer.text, None
        echoed = self._desk.words.decode(prompt.tokens, skip_special_tokens=False) if body.echo else ""
        if body.logprobs is not None:
            entries: list[tuple[int, TokenLogprobs | None]] = []
            if body.echo:
                entries = list(zip(prompt.tokens, (None, *(answer.prompt_logprobs or ())), strict=True))
            entries += [(entry.token, entry) for entry in answer.logprobs]
            logprobs = self._logprobs(entries)
        shown = UNSET if body.prompt_logprobs is None else self._prompt_logprobs(answer.prompt_logprobs or ())
        finish = answer.finish
        return CompletionChoice(index, echoed + text, reason_of(finish, False), logprobs, self._stop(finish), shown)

    def _prompt_logprobs(self, entries: Sequence[TokenLogprobs]) -> list[dict[str, PromptToken] | None]:
        found: list[dict[str, PromptToken] | None] = [None]
        for entry in entries:
            ranked = {entry.token: (entry.logprob, entry.rank)}
            for rank, (token, value) in enumerate(entry.top, start=1):
                ranked.setdefault(token, (value, rank))
            found.append({str(t): PromptToken(finite(value), rank, self._token_text(t)) for t, (value, rank) in ranked.items()})
        return found

    def _logprobs(self, entries: Sequence[tuple[int, TokenLogprobs | None]], offset: int = 0) -> CompletionLogprobs:
        out = CompletionLogprobs([], [], [], [])
        for token, entry in entries:
            text = self._token_text(token)
            out.tokens.append(text)
            out.text_offset.append(offset)
            out.token_logprobs.append(None if entry is None else finite(entry.logprob))
            if out.top_logprobs is not None:
                out.top_logprobs.append(None if entry is None else self._top(entry))
            offset += len(text)
        return out

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        top = {self._token_text(token): finite(logprob) for token, logprob in reversed(entry.top)}
        return top | {self._token_text(entry.token): finite(entry.logprob)}

    def _stop(self, finish: Finish) -> str | int | None:
        return stop_of(finish, self._desk.info.eos_token_ids)

    def _token_text(self, token: int) -> str:
        return self._desk.words.token_bytes(token).decode("utf-8", "replace")

    async def _lines(self, body: CompletionRequest, job: Job) -> AsyncGenerator[bytes, None]:
        identity, created = _new_id(), int(time.time())
        options = body.stream_options
        counts_last = bool(options and options.include_usage)
        counts_always = bool(options and options.continuous_usage_stats)
        answers = [Answer() for _ in job.streams]
        offsets = [0] * len(answers)
        async for index, event, output in job.events():
            answers[index].usage = output.usage
            choice = CompletionChoice(index, "")
            if isinstance(event, TextDelta):
                choice.text = event.text
                if body.logprobs is not None and event.logprobs:
                    choice.logprobs = self._logprobs([(entry.token, entry) for entry in event.logprobs], offsets[index])
                offsets[index] += len(event.text)
            elif isinstance(event, Finished):
                if (refusal := refusal_of_finish(event.finish)) is not None:
                    yield data(error_body(refusal, "/v1/completions"))
                    return
                choice.finish_reason, choice.stop_reason = reason_of(event.finish, False), self._stop(event.finish)
            counts: UsageOut | UnsetType | None = None if counts_last else UNSET
            if counts_always:
                counts = usage_out(output.usage)
            yield data(Completion(identity, created, body.model, [choice], usage=counts))
        if counts_last:
            num_samples = len(answers) // len(job.prompts)
            yield data(Completion(identity, created, body.model, [], usage=usage_out(total_usage(answers, num_samples))))
        yield DONE


def _prompts(prompt: str | list[str | int | list[int]]) -> list[str | tuple[int, ...]]:
    """One or several prompts, each a text or a list of token ids."""
    if isinstance(prompt, str):
        return [prompt]
    numbers = [item for item in prompt if isinstance(item, int)]
    if numbers and len(numbers) == len(prompt):
        return [tuple(numbers)]
    if numbers:
        raise RequestError("prompt must hold texts, or token ids, or lists of token ids", field="prompt")
    return [item if isinstance(item, str) else tuple(item) for item in prompt if not isinstance(item, int)]


def _new_id() -> str:
    return f"cmpl-{uuid.uuid4().hex}"
