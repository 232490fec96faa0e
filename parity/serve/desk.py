"""The desk: takes an ask, starts it in the engine, and hands back its events. Every wire format goes through it."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ..core.chat import Event, Finished, ToolCallEnd, ToolCallStart
from ..core.errors import ContextExceeded, RequestError
from ..core.request import Constraint, Finish, Output, Request, SamplingParams
from ..core.service import ModelInfo, Service
from .asks import ChatAsk, Form, TextAsk
from .bridge import Bridge, Run
from .limits import Lanes
from .metrics import Metrics
from .refusals import Refusal
from .settings import Settings
from .words import AnswerStream, Prompt, Words

if TYPE_CHECKING:
    from ..engine.grammar import Grammars

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

MAX_CALLS, MAX_SAME_CALLS = 64, 4
"""The most calls of an answer, and of them the same in a row: a small model that must call would go on to the context's end."""


class Desk:
    """What the routes share: the engine, the words, and the bounds.

    Args:
        service: the engine.
        words: the model's text side.
        grammars: gives what compiles constraints, once it is there; None if the vocabulary has no end token.
        settings: the server's choices.
    """

    def __init__(self, service: Service, words: Words, grammars: Callable[[], Grammars] | None, settings: Settings) -> None:
        self.service = service
        self.words = words
        self.settings = settings
        self.info: ModelInfo = service.info
        self.names = settings.names or (self.info.name,)
        self.lanes = Lanes(settings.max_running_per_key, settings.max_queued_per_key, settings.request_timeout_s)
        self.metrics = Metrics(service, self.names[0], lambda: self.lanes.num_waiting)
        self.is_stopping = False
        self._grammars = grammars
        self._bridge = Bridge(service, self.metrics)

    def params(self, **given: object) -> SamplingParams:
        """Sampling parameters from the model's defaults and what was given."""
        return SamplingParams.of({**self.info.sampling_defaults, **dict(self.settings.sampling)}, **given)

    async def count(self, ask: ChatAsk) -> int:
        """The number of tokens of a conversation's prompt."""
        return len((await aside(partial(self.words.chat_prompt, ask))).tokens)

    async def start(self, asks: Sequence[ChatAsk | TextAsk], owner: str) -> Job:
        """Starts asks that belong together, once it is the owner's turn; they count as one request of the owner.

        Raises:
            Refusal: too many requests of this owner, or the engine has stopped.
            RequestError, ContextExceeded: the ask cannot be answered.
            Overloaded, EngineError: the engine does not take it.
        """
        deadline_s = time.monotonic() + self.settings.request_timeout_s
        for ask in asks:
            await self._refuse_hopeless(ask)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.lanes.admitted(owner))
            prompts = [await aside(partial(self._prompt, ask)) for ask in asks]
            requests: list[Request] = []
            streams: list[AnswerStream] = []
            for ask, prompt in zip(asks, prompts, strict=True):
                requests += await aside(partial(self._requests, ask, prompt, deadline_s))
                streams += [self.words.stream(ask, prompt) for _ in range(ask.params.n)]
            run = await stack.enter_async_context(await self._run(requests))
            one_call = any(isinstance(ask, ChatAsk) and not ask.policy.parallel for ask in asks)
            return Job(run, streams, prompts, one_call, stack.pop_all())

    async def embed(self, tokens: Sequence[Sequence[int]], owner: str) -> list[Output]:
        """The last output of an embedding request for each text."""
        deadline_s = time.monotonic() + self.settings.request_timeout_s
        requests = [
            Request(_new_id("embd"), tuple(text), SamplingParams(max_tokens=0), want="embedding", deadline_s=deadline_s)
            for text in tokens
        ]
        outputs: dict[int, Output] = {}
        async with self.lanes.admitted(owner), await self._run(requests) as run:
            async for index, output in run:
                outputs[index] = output
        return [outputs[index] for index in range(len(requests))]

    def check_engine(self) -> None:
        """Raises Refusal, 503, where the engine takes no more requests."""
        if self.service.is_running:
            return
        if self.is_stopping:
            raise Refusal(503, "the server is stopping", code="stopping", headers={"Retry-After": "5"})
        raise Refusal(503, "the engine has stopped; start the server again", code="engine_error")

    async def _run(self, requests: Sequence[Request]) -> Run:
        self.check_engine()
        return await self._bridge.start(requests)

    def _prompt(self, ask: ChatAsk | TextAsk) -> Prompt:
        prompt = self.words.chat_prompt(ask) if isinstance(ask, ChatAsk) else self.words.text_prompt(ask)
        limit = self.settings.max_prompt_tokens
        if not prompt.tokens:
            raise RequestError("the prompt has no tokens", field="prompt")
        if limit is not None and len(prompt.tokens) > limit:
            raise RequestError(f"the prompt has {len(prompt.tokens)} tokens; the limit is --max-prompt-tokens {limit}")
        if len(prompt.tokens) + (ask.params.max_tokens != 0) > self.info.max_model_len:
            raise ContextExceeded(len(prompt.tokens), self.info.max_model_len)
        return prompt

    def _requests(self, ask: ChatAsk | TextAsk, prompt: Prompt, deadline_s: float) -> list[Request]:
        grammar = self.words.form_grammar(ask, prompt, constrain_calls=self.settings.constrain_calls)
        params = replace(ask.params, n=1, stop_token_ids=(*ask.params.stop_token_ids, *prompt.ends))
        return [
            Request(
                id=_new_id("req"),
                tokens=prompt.tokens,
                params=params,
                sample=sample,
                arrival_s=time.monotonic(),
                deadline_s=deadline_s,
                constraint=self._constraint(ask, prompt, grammar),
                cache=ask.cache,
            )
            for sample in range(ask.params.n)
        ]

    def _constraint(self, ask: ChatAsk | TextAsk, prompt: Prompt, grammar: str | None) -> Constraint | None:
        budget = ask.thinking_budget if isinstance(ask, ChatAsk) else None
        rest = self._grammar_constraint(ask.form, grammar) if grammar is not None else None
        if budget is None or not prompt.in_thought or not self.words.thought_end:
            return rest
        from ..engine.grammar import ForcedEnd

        return ForcedEnd(budget, self.words.thought_end, self.info.vocab_size, rest)

    def _grammar_constraint(self, form: Form | None, grammar: str) -> Constraint:
        if self._grammars is None:
            raise RequestError("structured output needs a tokenizer with an end token, which this model does not have")
        return self._grammars().constraint(grammar, field=form.field if form else "tools")

    async def _refuse_hopeless(self, ask: ChatAsk | TextAsk) -> None:
        """Refuses a text that cannot fit whatever its tokens, before time is spent on cutting it."""
        texts = [ask.prompt, ask.suffix] if isinstance(ask, TextAsk) else [message.content for message in ask.messages]
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts if isinstance(text, str))
        if size <= self.info.max_model_len:
            return
        longest = await aside(lambda: self.words.longest_token_bytes)
        fewest = size // max(1, longest)
        if fewest > self.info.max_model_len:
            raise ContextExceeded(fewest, self.info.max_model_len)


@dataclass
class Job:
    """Asks that run: iterate over `events`, then `aclose`.

    Args:
        run: the requests in the engine: the samples of the first ask, then those of the second, and so on.
        streams: each request's events.
        prompts: each ask's prompt.
        one_call: an answer ends after its first tool call.
        stack: what is given back at the end.
    """

    run: Run
    streams: Sequence[AnswerStream]
    prompts: Sequence[Prompt]
    one_call: bool
    stack: AsyncExitStack

    async def events(self) -> AsyncIterator[tuple[int, Event, Output]]:
        """Events with the index of their request and the output that they came with."""
        ended: set[int] = set()
        called = [_Called() for _ in self.streams]
        async for index, output in self.run:
            if index in ended:
                continue
            for event in self._read(index, output):
                yield index, event, output
                if called[index].ends(event, 1 if self.one_call else MAX_CALLS):
                    event = Finished(output.finish or Finish("stop"), output.usage)
                    yield index, event, output
                if isinstance(event, Finished):
                    ended.add(index)
                    self.run.stop(index, event.finish)
                    break

    def _read(self, index: int, output: Output) -> Sequence[Event]:
        """The events of an output; a mistake of ours in reading it ends this answer, and is told as any end is."""
        try:
            return self.streams[index].push(output)
        except Exception:
            _LOG.exception("an answer could not be read; it is ended")
            message = "something went wrong in reading the answer; the server's log has the details"
            return [Finished(Finish("error", message=message), output.usage)]

    async def aclose(self) -> None:
        """Aborts what still runs and gives the owner's place back."""
        await self.stack.aclose()


@dataclass
class _Called:
    """The calls of one answer: how many, and how often the last was made in a row."""

    num_calls: int = 0
    num_same: int = 0
    name: str = ""
    last: tuple[str, str] | None = None

    def ends(self, event: Event, max_calls: int) -> bool:
        """Takes the next event; whether it is a call after which the answer is to end."""
        if isinstance(event, ToolCallStart):
            self.name = event.name
        if not isinstance(event, ToolCallEnd):
            return False
        call = (self.name, event.arguments)
        self.num_calls += 1
        self.num_same = self.num_same + 1 if call == self.last else 1
        self.last = call
        return self.num_calls >= max_calls or self.num_same >= MAX_SAME_CALLS


async def aside(work: Callable[[], T]) -> T:
    """Runs work that takes its time, such as tokenising, in a thread."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


def _new_id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"
