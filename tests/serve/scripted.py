"""A deterministic engine and a small vocabulary, so that the server is tested without a model.

Every token is one byte, but for a few marks. The engine answers with what its script says, honours constraints, and can
be told to fail, to be silent or to be slow.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.core.chat import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from parity.core.errors import EngineError, Overloaded, RequestError
from parity.core.request import Finish, Output, Request, TokenLogprobs, Usage
from parity.core.service import ModelInfo, Stats
from parity.engine.grammar import Grammars
from parity.serve.asks import ChatAsk, TextAsk
from parity.serve.desk import Desk
from parity.serve.forms import form_grammar
from parity.serve.settings import Settings
from parity.serve.words import Prompt

EOS = 256
MARKS = ("<|end|>", "<tool_call>", "</tool_call>", "<think>", "</think>")
VOCAB_SIZE = 320
PAGE_SIZE = 16


def token_bytes(token: int) -> bytes:
    """A byte, or a mark's text."""
    if token < 256:
        return bytes([token])
    return MARKS[token - 256].encode() if token - 256 < len(MARKS) else b""


def encode(text: str) -> list[int]:
    """Bytes, and marks where they are spelled."""
    tokens: list[int] = []
    while text:
        mark = next((index for index, mark in enumerate(MARKS) if text.startswith(mark)), None)
        if mark is None:
            tokens.extend(text[0].encode())
            text = text[1:]
        else:
            tokens.append(256 + mark)
            text = text[len(MARKS[mark]) :]
    return tokens


def decode(tokens: Sequence[int]) -> str:
    """The text of some tokens."""
    return b"".join(map(token_bytes, tokens)).decode("utf-8", "replace")


INFO = ModelInfo(
    name="scripted",
    architecture="script",
    max_model_len=4096,
    vocab_size=VOCAB_SIZE,
    stack="null",
    dtype="float32",
    num_pages=1024,
    page_size=PAGE_SIZE,
    eos_token_ids=frozenset({EOS}),
    sampling_defaults={"temperature": 0.0},
    modified_s=1_700_000_000,
)


@dataclass
class _Running:
    request: Request
    emit: Callable[[Output], None]
    answer: list[int]
    num_sent: int = 0
    cancelled: bool = False
    pages: int = 0


@dataclass
class ScriptedService:
    """A `Service` that says what `script` maps the prompt's text to; by default it repeats the last user's words.

    Args:
        script: from a prompt's text to the answer's text.
        step_s: how long a step takes.
        max_waiting: the most requests held.
        fails_after: the step, counted per request, that fails.
        silent: takes requests and never answers.
        logprobs_of: the log-probability reported for a token.
    """

    script: Callable[[str], str] = field(default=lambda prompt: prompt.rpartition("user:")[2].rpartition("\nassistant:")[0])
    info: ModelInfo = INFO
    step_s: float = 0.0
    max_waiting: int = 1000
    fails_after: int | None = None
    silent: bool = False
    restarts: int = 0

    def __post_init__(self) -> None:
        self._running: dict[str, _Running] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._counts = {"prompt": 0, "generated": 0, "steps": 0}
        self.aborted: list[str] = []
        self.seen: list[Request] = []
        self.num_finished = 0
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return not self._is_closed

    def submit(self, request: Request, emit: Callable[[Output], None]) -> None:
        with self._changed:
            if self._is_closed:
                raise EngineError("the engine has stopped")
            if len(self._running) >= self.max_waiting:
                raise Overloaded("the queue is full", retry_after_s=2.5)
            if request.id in self._running:
                raise RequestError("a duplicate id")
            self.seen.append(request)
            answer = [] if request.want == "embedding" else [*encode(self.script(decode(request.tokens))), EOS]
            pages = -(-len(request.tokens) // PAGE_SIZE)
            self._running[request.id] = _Running(request, emit, answer, pages=pages)
            self._counts["prompt"] += len(request.tokens)
            self._changed.notify()

    def abort(self, request_id: str) -> None:
        with self._changed:
            self.aborted.append(request_id)
            if request_id in self._running:
                self._running[request_id].cancelled = True
                self._changed.notify()

    def stats(self) -> Stats:
        with self._changed:
            return Stats(
                num_running=len(self._running),
                num_pages_used=sum(running.pages for running in self._running.values()),
                num_pages=self.info.num_pages,
                num_prompt_tokens=self._counts["prompt"],
                num_generated_tokens=self._counts["generated"],
                num_steps=self._counts["steps"],
            )

    def close(self, timeout_s: float = 0.0) -> None:
        with self._changed:
            self._is_closed = True
            for running in self._running.values():
                running.cancelled = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(5)

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._running and not self._is_closed:
                    self._changed.wait()
                if self._is_closed and not self._running:
                    return
                current = list(self._running.values())
            if self.step_s:
                time.sleep(self.step_s)
            self._counts["steps"] += 1
            for running in current:
                self._step(running)
            if self.silent:
                time.sleep(0.01)

    def _step(self, running: _Running) -> None:
        request = running.request
        if running.cancelled:
            return self._finish(running, Finish("abort", message="the engine is closing" if self._is_closed else None))
        if request.deadline_s is not None and time.monotonic() > request.deadline_s and not self.silent:
            return self._finish(running, Finish("timeout"))
        if self.silent:
            return None
        if self.fails_after is not None and running.num_sent >= self.fails_after:
            return self._finish(running, Finish("error", message="a kernel failed"))
        if request.want == "embedding":
            vector = np.arange(1, 9, dtype=np.float32) * len(request.tokens)
            return self._finish(running, Finish("stop"), array=vector)
        if request.params.max_tokens == 0:
            return self._finish(running, Finish("length"), prompt_logprobs=self._prompt_logprobs(request))
        return self._advance(running)

    def _advance(self, running: _Running) -> None:
        request = running.request
        token = self._choose(running)
        running.num_sent += 1
        self._counts["generated"] += 1
        finish = None
        if request.constraint is not None:
            request.constraint.accept(token)
            if request.constraint.done:
                finish = Finish("stop")
        if token == EOS or token in request.params.stop_token_ids:
            finish = Finish("stop", stop=token if token != EOS else None)
        elif running.num_sent >= (request.params.max_tokens or 10**9):
            finish = finish or Finish("length")
        first = running.num_sent == 1
        more = {"prompt_logprobs": self._prompt_logprobs(request)} if first else {}
        if finish is not None:
            self._finish(running, finish, (token,), **more)
        else:
            running.emit(self._output(running, (token,), None, **more))

    def _choose(self, running: _Running) -> int:
        """The script's token, or the least allowed one where a constraint forbids it."""
        script = running.answer[running.num_sent] if running.num_sent < len(running.answer) else EOS
        constraint = running.request.constraint
        mask = constraint.mask() if constraint is not None else None
        if mask is None or mask[script // 32] >> np.uint32(script % 32) & 1:
            return script
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits)
        if EOS in allowed:
            return EOS
        quote = [token for token in (ord('"'), ord("}"), ord("]"), ord("0"), ord(":")) if token in allowed]
        return int(quote[0] if quote else allowed[0])

    def _finish(self, running: _Running, finish: Finish, tokens: tuple[int, ...] = (), **more: object) -> None:
        with self._changed:
            self._running.pop(running.request.id, None)
            self.num_finished += 1
        running.emit(self._output(running, tokens, finish, **more))

    def _output(self, running: _Running, tokens: tuple[int, ...], finish: Finish | None, **more: object) -> Output:
        request = running.request
        logprobs: tuple[TokenLogprobs, ...] = ()
        if request.params.logprobs is not None:
            logprobs = tuple(self._logprob(token, request.params.logprobs) for token in tokens)
        usage = Usage(len(request.tokens), 0, running.num_sent)
        return Output(request.id, tokens, logprobs, finish=finish, usage=usage, **more)  # type: ignore[arg-type]

    @staticmethod
    def _logprob(token: int, num_top: int) -> TokenLogprobs:
        top = tuple(((token + step) % 256, -0.5 - step) for step in range(num_top))
        return TokenLogprobs(token, -0.5, 1, top)

    def _prompt_logprobs(self, request: Request) -> tuple[TokenLogprobs, ...] | None:
        if request.params.prompt_logprobs is None:
            return None
        return tuple(self._logprob(token, request.params.prompt_logprobs) for token in request.tokens[1:])


def answering(answers: Mapping[str, str], otherwise: str = "hello") -> Callable[[str], str]:
    """A script that answers by what the prompt contains from the last user's words on."""

    def script(prompt: str) -> str:
        prompt = prompt.rpartition("user:")[2]
        return next((answer for part, answer in answers.items() if part in prompt), otherwise)

    return script


class ScriptWords:
    """Text side of the scripted model: `role:content` lines, `<think>` for thought and Hermes's marks for calls."""

    vocab_size = VOCAB_SIZE
    longest_token_bytes = 16
    thought_end = (260,)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return encode(text)

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return decode([token for token in tokens if token < 256 or not skip_special_tokens])

    def token_bytes(self, token: int) -> bytes:
        return token_bytes(token)

    def chat_prompt(self, ask: ChatAsk) -> Prompt:
        lines = [f"tool {tool.name}" for tool in ask.usable_tools if tool.name not in ask.told]
        lines += [f"option {name}={value}" for name, value in ask.template.items()]
        for message in ask.messages:
            calls = "".join(f" [calls {call.name} {call.arguments}]" for call in message.tool_calls)
            thought = f" [thought {message.reasoning}]" if message.reasoning else ""
            lines.append(f"{message.role}:{message.content}{thought}{calls}")
        return Prompt(tuple(encode("\n".join([*lines, "assistant:"]))), in_thought=bool(ask.template.get("opens_thought")))

    def text_prompt(self, ask: TextAsk) -> Prompt:
        return Prompt(tuple(encode(ask.prompt)) if isinstance(ask.prompt, str) else ask.prompt)

    def stream(self, ask: ChatAsk | TextAsk, prompt: Prompt) -> ScriptStream:
        return ScriptStream(ask, prompt)

    def form_grammar(self, ask: ChatAsk | TextAsk, prompt: Prompt, *, constrain_calls: bool) -> str | None:
        return form_grammar(ask.form) if ask.form is not None else None


class ScriptStream:
    """Events of the scripted model, character by character."""

    def __init__(self, ask: ChatAsk | TextAsk, prompt: Prompt) -> None:
        self._stop = ask.params.stop
        self._is_chat = isinstance(ask, ChatAsk)
        self._mode = "thought" if prompt.in_thought else "text"
        self._call: list[int] = []
        self._num_calls = 0
        self._text = ""
        self._pending: list[int] = []

    def push(self, output: Output) -> list[Event]:
        events: list[Event] = []
        for position, token in enumerate(output.tokens):
            logprobs = output.logprobs[position : position + 1]
            events.extend(self._token(token, logprobs))
            for stop in self._stop:
                if self._text.endswith(stop):
                    return [*events, Finished(Finish("stop", stop=stop), output.usage)]
        if output.finish is not None:
            events.append(Finished(output.finish, output.usage))
        return events

    def _token(self, token: int, logprobs: tuple[TokenLogprobs, ...]) -> list[Event]:
        if token == EOS:
            return []
        if self._is_chat and token >= 257:
            return self._mark(token)
        if self._mode == "call":
            self._call.append(token)
            return []
        text = self._decoded(token)
        if self._mode == "thought":
            return [ReasoningDelta(text)]
        self._text += text
        return [TextDelta(text, (token,), logprobs)]

    def _decoded(self, token: int) -> str:
        self._pending.append(token)
        try:
            text = b"".join(map(token_bytes, self._pending)).decode()
        except UnicodeDecodeError:
            return ""
        self._pending = []
        return text

    def _mark(self, token: int) -> list[Event]:
        mark = MARKS[token - 256]
        if mark == "</tool_call>":
            self._mode = "text"
            return self._whole_call()
        self._mode = {"<tool_call>": "call", "<think>": "thought", "</think>": "text"}[mark]
        return []

    def _whole_call(self) -> list[Event]:
        call = json.loads(decode(self._call))
        self._call = []
        index = self._num_calls
        self._num_calls += 1
        text = json.dumps(call["arguments"])
        half = len(text) // 2
        deltas = [ToolCallDelta(index, text[:half]), ToolCallDelta(index, text[half:])]
        return [ToolCallStart(index, f"call_{index}", call["name"]), *deltas, ToolCallEnd(index, text)]


def grammars() -> Grammars:
    """Grammars over the small vocabulary."""
    return Grammars(
        [token_bytes(token) for token in range(VOCAB_SIZE)],
        encode=lambda text: list(text.encode()),
        special=range(256, 261),
        eos=[EOS],
    )


def make_desk(service: ScriptedService | None = None, **settings: object) -> Desk:
    """A desk over a scripted engine."""
    return Desk(service or ScriptedService(), ScriptWords(), grammars, Settings(**settings))  # type: ignore[arg-type]
