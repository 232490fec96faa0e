"""An `LLM` that answers without a model: for tests of the command line alone. The words of the prompt come back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from parity.core.chat import Event, Finished, Message, ReasoningDelta, TextDelta
from parity.core.errors import ContextExceeded, RequestError
from parity.core.request import Finish, SamplingParams, TokenLogprobs, Usage
from parity.core.service import ModelInfo

CONTEXT = 200


class FakeLLM:
    """`say: WORDS` says them; `slow` takes its time; `think` thinks first; `fail` is refused."""

    calls: list[dict[str, Any]] = []  # noqa: RUF012  # what all of them were asked, for the tests

    def __init__(self, model: str, **options: Any) -> None:
        self.options = options
        self.info = ModelInfo(str(model), "fake", CONTEXT, 1000, "cpu", "float32", 8, 16)
        self.closed = False

    def __enter__(self) -> FakeLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    def params(self, **given: Any) -> SamplingParams:
        return SamplingParams.of({"temperature": 0.7}, **given)

    def stream(self, prompt: Any, params: SamplingParams, raw: bool = False, **template: Any) -> Iterator[Event]:
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        self.calls.append({"messages": messages, "params": params, "raw": raw, "template": template})
        return self._events(messages, params)

    def _events(self, messages: Sequence[Message], params: SamplingParams) -> Iterator[Event]:
        text = messages[-1].content
        length = sum(len(message.content.split()) for message in messages)
        if length >= CONTEXT:
            raise ContextExceeded(length, CONTEXT)
        if "fail" in text:
            raise RequestError("this prompt is refused; ask another")
        if "think" in text:
            yield ReasoningDelta("pondering")
        words = text.removeprefix("say: ").split(" ")
        words = words * 200 if "slow" in text else words
        count = 0
        for word in words[: params.max_tokens]:
            time.sleep(0.02 if "slow" in text else 0.0)
            if self.closed:
                yield Finished(Finish("abort"), Usage(length, 0, count))
                return
            count += 1
            yield TextDelta(word + " ", (count,))
        reason = "length" if params.max_tokens is not None and len(words) > params.max_tokens else "stop"
        yield Finished(Finish(reason), Usage(length, 0, count))  # type: ignore[arg-type]

    def generate(self, prompts: Any, params: SamplingParams) -> list[Any]:
        prompts = [prompts] if isinstance(prompts, str) else prompts
        return [self._answer(prompt, params) for prompt in prompts for _ in range(params.n)]

    def chat(self, messages: Sequence[Message], params: SamplingParams, **template: Any) -> Any:
        self.calls.append({"messages": list(messages), "params": params, "template": template})
        return self._answer(messages[-1].content, params)

    def _answer(self, prompt: Any, params: SamplingParams) -> Any:
        text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        parts = [event for event in self._events([Message("user", text)], params) if isinstance(event, TextDelta)]
        logprobs = [TokenLogprobs(part.tokens[0], -0.5, 1, ((part.tokens[0], -0.5),)) for part in parts]
        return SimpleNamespace(
            text="".join(part.text for part in parts),
            tokens=tuple(part.tokens[0] for part in parts),
            finish=Finish("stop"),
            prompt_tokens=(1, 2),
            usage=Usage(2, 1, len(parts)),
            timings=SimpleNamespace(first_token_s=0.1, total_s=0.2, tokens_per_second=lambda count: count * 10.0),
            logprobs=tuple(logprobs) if params.logprobs is not None else (),
            prompt_logprobs=None,
            reasoning="",
            tool_calls=(),
        )


def _pull(name: str, revision: str | None = None, progress: Callable[[str, int, int], None] | None = None) -> Path:
    """Brings a model of another name than a path's, in ten pieces."""
    if progress is not None and "/" in name:
        for count in range(11):
            progress("weights.bin", count * 10_000_000, 100_000_000)
    return Path(name)


def install() -> None:
    """Puts the fake where the command line looks for `LLM`, and the model where it looks for files."""
    import sys

    from parity import hub

    sys.modules["parity.llm"] = SimpleNamespace(LLM=FakeLLM)  # type: ignore[assignment]
    hub.pull = _pull


if __name__ == "__main__":
    from parity.cli import main

    install()
    with contextlib.suppress(BrokenPipeError):
        raise SystemExit(main())
