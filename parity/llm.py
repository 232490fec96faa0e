"""`LLM`: a model in this process, text in and text out."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from .answers import Answer, AnswerStream, Progress, RawEvents, raise_errors
from .core.batch import Probe
from .core.chat import Message, ReasoningDelta, TextDelta, Tool, ToolCall, ToolCallEnd, ToolCallStart
from .core.errors import RequestError
from .core.heap import give_back
from .core.request import Output, Request, SamplingParams, TokenLogprobs, Want
from .core.service import ModelInfo, Stats
from .text.chat import Chat
from .text.prompts import Messages, Prompt, is_conversation, is_prompt, listed
from .text.stream import TextStream
from .text.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from .engine.load import EngineConfig

DEFAULT_MODEL = "qwen2.5-coder-0.5b"

_LOGITS_AHEAD = 1
"""Steps whose logits wait to be read: each may be hundreds of megabytes."""


class _Outputs:
    """Hands outputs from the engine's thread to a reader; with a limit, the engine waits until there is room.

    Args:
        most: outputs that may wait; 0 is any number.
    """

    def __init__(self, most: int) -> None:
        self._queue: queue.Queue[Output] = queue.Queue(most)
        self._left = threading.Event()

    def put(self, output: Output) -> None:
        """Called by the engine; drops what nobody reads any more, be it that the program ends."""
        while not self._left.is_set() and threading.main_thread().is_alive():
            try:
                self._queue.put(output, timeout=0.1)
                return
            except queue.Full:
                continue

    def get(self) -> Output:
        """The next output."""
        return self._queue.get()

    def leave(self) -> None:
        """Nothing is read from now on."""
        self._left.set()


class LLM:
    """A model, loaded.

    Args:
        model: a catalogue name, `org/repo`, a folder, or a `.gguf` file.
        stack: where to run, such as `cpu`, `cuda` or `cpu:reference:float32`; None takes the best that works here.
        dtype: the compute dtype, such as `bfloat16`; None takes the model's, where the stack is good at it.
        max_model_len: most tokens of prompt and answer together; None takes what the model and the memory allow.
        chat_template: Jinja source, instead of the model's own.
        tokenizer: the model's, where it is at hand already.
        options: more fields of `parity.engine.load.EngineConfig`.

    Raises:
        ParityError: the model cannot be found, read or run; the text says why and what to do.

    Safe to use from several threads; requests made at once are computed in one batch.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        stack: str | None = None,
        dtype: str | None = None,
        max_model_len: int | None = None,
        chat_template: str | None = None,
        tokenizer: Tokenizer | None = None,
        **options: Any,
    ) -> None:
        from .engine.load import EngineConfig, open_engine
        from .engine.service import EngineService
        from .hub import pull

        # In process nobody is turned away: all of a list of prompts may wait.
        options.setdefault("max_num_waiting", 2**31)
        try:
            config: EngineConfig = EngineConfig(stack=stack, dtype=dtype, max_model_len=max_model_len, **options)
        except TypeError as error:
            raise RequestError(f"LLM: {error}") from None
        opened = open_engine(pull(str(model)), str(model), config)
        self.checkpoint = opened.checkpoint
        # Before the weights: what making it takes for a while (80 MiB for 150,000 tokens) is then used again.
        self.tokenizer: Tokenizer = tokenizer or load_tokenizer(self.checkpoint.text_source)
        self._engine = opened.load()
        self._template = chat_template
        self.checkpoint.release()
        give_back()
        self.service = EngineService(self._engine)
        self._ids = itertools.count()

    @property
    def info(self) -> ModelInfo:
        """What is being run."""
        return self.service.info

    @property
    def device(self) -> Mapping[str, str]:
        """Names and versions that change numbers or speed: device, driver, threads, instruction set."""
        return {name: str(value) for name, value in self._engine.runner.device.items()}

    def stats(self) -> Stats:
        """Counts since the start."""
        return self.service.stats()

    @cached_property
    def chat_format(self) -> Chat:
        """How conversations are written for this model and its answers read.

        Raises:
            Unsupported: the model has no chat template and none was given.
        """
        return Chat.of(self.tokenizer, self.info.architecture, template=self._template)

    def close(self) -> None:
        """Stops; what still runs ends with `abort`."""
        self.service.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def params(self, **given: Any) -> SamplingParams:
        """Sampling params from the model's own defaults, with what is `given` instead."""
        return SamplingParams.of(self.info.sampling_defaults, **given)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The token ids of a prompt: a text, with the tokenizer's own beginning, or ids as they are."""
        if isinstance(prompt, str):
            return tuple(self.tokenizer.encode(prompt))
        return tuple(int(token) for token in prompt)

    # Text and tokens

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        on_answer: Callable[[int, Answer], None] | None = None,
    ) -> list[Answer]:
        """Continues prompts, all in one batch.

        Args:
            prompts: one or many; each a text or a list of token ids.
            params: for all of them; None takes the model's defaults.
            on_answer: called with (index in the result, answer) as each finishes.

        Returns:
            The answers in the order of the prompts; with `n` above 1, the n samples of a prompt side by side.

        Raises:
            RequestError: a prompt is empty, too long, or has an unknown token; nothing is left running.
            EngineError: a step failed.
        """
        params = params or self.params()
        tokens = [self.encode(prompt) for prompt in listed(prompts)]
        jobs = [(prompt, sample) for prompt in tokens for sample in range(params.n)]
        streams = [TextStream(self.tokenizer, params.stop) for _ in jobs]
        texts: list[list[str]] = [[] for _ in jobs]
        answers: list[Answer | None] = [None] * len(jobs)
        for index, progress in self._run(jobs, params):
            assert progress.output is not None
            if answers[index] is not None:
                continue
            texts[index].append(streams[index].push(progress.output.tokens))
            stop = streams[index].stopped
            if stop is not None and progress.output.finish is None:
                self.service.abort(progress.output.request_id)
            if stop is not None or progress.output.finish is not None:
                texts[index].append(streams[index].flush() if stop is None else "")
                answer = answers[index] = progress.answer("".join(texts[index]), stop)
                raise_errors(answer)
                if on_answer is not None:
                    on_answer(index, answer)
        return [answer for answer in answers if answer is not None]

    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Tool] | None = None,
        **template: Any,
    ) -> Answer:
        """Answers a conversation.

        Args:
            messages: the turns so far, or one user message.
            params: None takes the model's defaults; `n` must be 1.
            tools: functions that the model may call.
            template: more for the chat template, such as `enable_thinking=False`.

        Raises:
            RequestError: the conversation does not fit the template or the context.
        """
        parts: list[str] = []
        reasoning: list[str] = []
        calls: list[ToolCall] = []
        stream = self._chat_stream(messages, params, tools, template)
        starts: dict[int, ToolCallStart] = {}
        for event in stream:
            match event:
                case TextDelta(text=text):
                    parts.append(text)
                case ReasoningDelta(text=text):
                    reasoning.append(text)
                case ToolCallStart(index=index):
                    starts[index] = event
                case ToolCallEnd(index=index, arguments=arguments):
                    calls.append(ToolCall(starts[index].id, starts[index].name, arguments))
        answer = stream.progress.answer("".join(parts), stream.stop, reasoning="".join(reasoning), tool_calls=tuple(calls))
        raise_errors(answer)
        return answer

    def stream(
        self,
        prompt: Messages | Sequence[int],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Tool] | None = None,
        raw: bool = False,
        **template: Any,
    ) -> AnswerStream:
        """The events of one answer as they come; the last is `Finished`. Closing the stream ends the request.

        Args:
            prompt: a conversation or a user message; with `raw`, a text or token ids to continue.
            params, tools, template: as for `chat`.
        """
        if raw:
            if not is_prompt(prompt):
                raise RequestError(
                    "with raw, give a text or token ids; a conversation is for streams without it", field="prompt"
                )
            params = _single(params or self.params())
            items = self._run([(self.encode(prompt), 0)], params)
            return AnswerStream(items, RawEvents(self.tokenizer, params.stop).push)
        if not is_conversation(prompt):
            raise RequestError("give a conversation or a user message; token ids are continued with raw=True", field="prompt")
        return self._chat_stream(prompt, params, tools, template)

    # Numbers

    def score(self, tokens: Prompt, top: int = 0) -> tuple[TokenLogprobs, ...]:
        """The log-probability of each token after those before it, and the `top` most likely ones there.

        Returns:
            One entry for each token but the first.
        """
        params = SamplingParams(temperature=0.0, max_tokens=0, prompt_logprobs=top)
        *_, (_, progress) = self._run([(self.encode(tokens), 0)], params)
        raise_errors(progress.answer("", None))
        return progress.prompt_logprobs or ()

    def logits(self, tokens: Prompt, *, probe: Probe | None = None, chunk: int | None = None) -> npt.NDArray[np.float32]:
        """The logits after each token: float32 [tokens, vocabulary].

        Args:
            tokens: a text or token ids.
            probe: sees (and may replace) values inside the model; nothing else may run meanwhile.
            chunk: most tokens computed in one step; nothing else may run meanwhile.
        """
        prompt = self.encode(tokens)
        rows, num_rows = np.empty((len(prompt), self.info.vocab_size), np.float32), 0
        for _, part in self.logit_pieces([prompt], probe=probe, chunk=chunk):
            rows[num_rows : num_rows + len(part)] = part
            num_rows += len(part)
        return rows

    def logit_pieces(
        self, prompts: Sequence[Prompt], *, probe: Probe | None = None, chunk: int | None = None, keep: bool = False
    ) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """(which prompt, the next of its rows [rows, vocabulary]) of prompts that start together and share steps. The engine
        waits for whoever reads, so that memory does not grow with the prompts.

        Args:
            prompts, probe, chunk: as for `logits`.
            keep: leave the state in the prefix cache for requests that come after; none is taken from it.
        """
        from .engine.inside import inside

        params = SamplingParams(temperature=0.0, max_tokens=0)
        jobs = [(self.encode(prompt), 0) for prompt in prompts]
        ended: dict[int, Progress] = {}
        self._engine.runner.probe, self._engine.scheduler.chunk_tokens = probe, chunk
        try:
            with inside(self._engine.runner.model, probe):
                for index, progress in self._run(jobs, params, want="logits", cache=keep):
                    ended[index] = progress
                    while progress.arrays:
                        yield index, progress.arrays.pop(0)
        finally:
            self._engine.runner.probe = self._engine.scheduler.chunk_tokens = None
        for progress in ended.values():
            raise_errors(progress.answer("", None))

    def content(self) -> tuple[str, dict[str, str]]:
        """What the weights are, the same for any mirror or sharding: the content root, and the hash of each tensor."""
        from .hub.content import content_leaves, root_of

        leaves = content_leaves(self.checkpoint)
        return root_of(leaves), leaves

    def embed(self, tokens: Prompt) -> npt.NDArray[np.float32]:
        """The last hidden state of a prompt: float32 [hidden]."""
        params = SamplingParams(temperature=0.0, max_tokens=0)
        progress = list(self._run([(self.encode(tokens), 0)], params, want="embedding", cache=False))[-1][1]
        raise_errors(progress.answer("", None))
        return progress.arrays[-1]

    # Inside

    def _run(
        self, jobs: Sequence[tuple[tuple[int, ...], int]], params: SamplingParams, want: Want = "tokens", cache: bool = True
    ) -> Generator[tuple[int, Progress], None, None]:
        """(job, its progress) after each output, until all have ended; leaving early ends the rest."""
        outputs = _Outputs(_LOGITS_AHEAD if want == "logits" else 0)
        started_s = time.monotonic()
        progress = [Progress(prompt, started_s) for prompt, _ in jobs]
        requests = [
            Request(
                id=f"llm-{next(self._ids)}",
                tokens=prompt,
                params=params.replace(n=1),
                sample=sample,
                arrival_s=started_s,
                want=want,
                cache=cache,
            )
            for prompt, sample in jobs
        ]
        index_of = {request.id: index for index, request in enumerate(requests)}
        try:
            self.service.submit_all(requests, outputs.put)
            open_ids = set(index_of)
            while open_ids:
                output = outputs.get()
                index = index_of[output.request_id]
                progress[index].take(output)
                if output.finish is not None:
                    open_ids.discard(output.request_id)
                    del index_of[output.request_id]
                yield index, progress[index]
        finally:
            outputs.leave()
            for request_id in index_of:
                self.service.abort(request_id)

    def _chat_stream(
        self, messages: Messages, params: SamplingParams | None, tools: Sequence[Tool] | None, template: dict[str, Any]
    ) -> AnswerStream:
        turns = [Message("user", messages)] if isinstance(messages, str) else list(messages)
        params = _single(params or self.params())
        prompt = self.chat_format.prompt(turns, tools or (), **template)
        answer = self.chat_format.answer(prompt, tools or (), stop=params.stop)
        return AnswerStream(self._run([(tuple(prompt.tokens), 0)], params), answer.push)


def load_vocabulary(model: str | Path = DEFAULT_MODEL) -> Tokenizer:
    """A model's tokenizer alone."""
    from .hub import open_checkpoint, pull

    return load_tokenizer(open_checkpoint(pull(str(model))).text_source)


def _single(params: SamplingParams) -> SamplingParams:
    if params.n != 1:
        raise RequestError(f"n must be 1 for a chat or a stream, not {params.n}", field="n")
    return params
