"""Any OpenAI-compatible URL as a side. What it can give is found out by asking; what it cannot is said by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

import numpy as np

from ...core.chat import Message
from ..record import Answer, Exact, Identity, Int32s, Isolated, Layers, Path, Plan, Positions
from ..suites import Item
from . import echo, replies
from .base import Tokens
from .http import EndpointError, Http, Limits
from .replies import Row, Words, field

_TOP = 20
_PREFIXES = 12
Way = Callable[[Int32s], tuple[Int32s, list[Row]]]
_S = TypeVar("_S")
_T = TypeVar("_T")


class EndpointSide:
    """A side behind HTTP.

    Args:
        url: of the server or of its `/v1`.
        model: the name to ask for; None takes the first that the server lists.
        key: the bearer token, if it wants one.
        limits: how much it may cost.
        words: the model's vocabulary, where it is at hand.
    """

    paths: tuple[Path, ...] = ("one_shot",)

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key: str | None = None,
        limits: Limits | None = None,
        words: Words | None = None,
    ) -> None:
        limits = limits or Limits()
        self._http = Http(url.rstrip("/").removesuffix("/v1"), key, limits)
        self.name, self._at_once = self._http.name, limits.at_once
        self._words = words
        self._unreached: dict[str, str] = {}
        self._model = model or self._first_model()
        self._way: tuple[str, Way] | None = None
        self._ways_tried = False
        self._lag: echo.Lag | None = None
        self._chat_extras: dict[str, Any] | None = None

    def _first_model(self) -> str:
        name = field(self._http.get("/v1/models"), "data", 0, "id")
        if not isinstance(name, str) or len(name) > 500:
            raise EndpointError(f"{self.name} lists no model; name one")
        return name

    def identity(self) -> Identity:
        """What little a server says of itself."""
        found = {"server": self._http.server} if self._http.server else {}
        try:
            version = field(self._http.get("/version"), "version")
        except EndpointError:
            version = None
        if isinstance(version, str):
            found["version"] = version[:80]
        return Identity(self.name, "endpoint", self._model, environment=found)

    def _in_flight(self, ask: Callable[[_S], _T], about: Sequence[_S], *, in_order: bool = True) -> Iterator[_T]:
        """What is answered to each, in order or as it comes, some at a time. Whoever stops meanwhile waits for none of them."""
        with ThreadPoolExecutor(max_workers=self._at_once) as pool:
            asked = [pool.submit(ask, one) for one in about]
            try:
                for future in asked if in_order else as_completed(asked):
                    yield future.result()
            except BaseException:
                self._http.close()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def tokens(self, items: Sequence[Item]) -> list[Tokens]:
        """From `/tokenize` where there is one, else the number that the server counted."""
        return list(self._in_flight(self._tokens, items))

    def _tokens(self, item: Item) -> Tokens:
        faults = list[str]()
        for ask in (self._tokenize, self._tokenize_in_two_steps):
            try:
                ids = replies.token_ids(field(ask(item), "tokens"))
            except EndpointError as error:
                faults.append(str(error))
                continue
            if ids is not None:
                return Tokens(ids, len(ids))
        self._unreached.setdefault("token ids", "; ".join(faults)[:500] or "the server tells none")
        try:
            return Tokens(None, replies.count(field(self._count(item), "usage", "prompt_tokens")))
        except EndpointError as error:
            self._unreached.setdefault("token counts", str(error))
            return Tokens()

    def _tokenize(self, item: Item) -> Any:
        if item.kind == "text":
            return self._http.post("/tokenize", {"model": self._model, "prompt": item.text})
        return self._http.post("/tokenize", {"model": self._model, "add_generation_prompt": True, **self._conversation(item)})

    def _tokenize_in_two_steps(self, item: Item) -> Any:
        """llama.cpp's spelling: the template if it is a conversation, then the tokenizer."""
        text = item.text
        if item.kind == "chat":
            text = field(self._http.post("/apply-template", self._conversation(item)), "prompt")
        if not isinstance(text, str):
            raise EndpointError(f"{self.name} does not render conversations")
        return self._http.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})

    def _count(self, item: Item) -> Any:
        if item.kind == "text":
            return self._http.post("/v1/completions", {"model": self._model, "prompt": item.text, "max_tokens": 1})
        return self._http.post("/v1/chat/completions", self._chat_body(item, 1))

    def capture(
        self, items: Sequence[Item], tokens: Sequence[Int32s], plan: Plan
    ) -> Iterator[tuple[int, Mapping[Path, Positions]]]:
        """The prompts' log-probabilities, in the best way that the server knows, several prompts in flight."""
        if len(tokens):
            self._find_way_once(tokens[0])
        places = range(len(items))
        return self._in_flight(lambda place: (place, self._along(items[place], tokens[place])), places, in_order=False)

    def _along(self, item: Item, tokens: Int32s) -> Mapping[Path, Positions]:
        if self._way is None:
            return {}
        try:
            at, rows = self._way[1](tokens)
        except EndpointError as error:
            self._unreached.setdefault(f"distributions of {item.id}", str(error))
            return {}
        kept = [place for place, row in enumerate(rows) if row]
        if not kept:
            return {}
        return {"one_shot": Positions(at[kept], replies.top_of([rows[place] for place in kept]))}

    def _find_way_once(self, tokens: Int32s) -> None:
        if not self._ways_tried:
            self._way, self._ways_tried = self._find_way(tokens), True

    def _find_way(self, tokens: Int32s) -> tuple[str, Way] | None:
        """The first way that works on a short prompt."""
        ways: tuple[tuple[str, Way], ...] = (
            ("prompt log-probabilities", self._by_prompt_logprobs),
            ("echo", self._by_echo),
            ("echo of the prompt as text", self._by_text_echo),
            ("one token a prefix", self._by_prefixes),
        )
        faults = []
        for name, way in ways:
            try:
                if any(way(tokens[:8])[1]):
                    return name, way
                faults.append(f"{name}: none came")
            except EndpointError as error:
                faults.append(f"{name}: {error}")
        self._unreached["distributions"] = "; ".join(faults)[:500]
        return None

    def _by_prompt_logprobs(self, tokens: Int32s) -> tuple[Int32s, list[Row]]:
        choice = self._complete(tokens, prompt_logprobs=_TOP)
        rows = replies.prompt_logprobs(field(choice, "prompt_logprobs"), tokens)
        return np.arange(len(rows), dtype=np.int32), rows

    def _by_echo(self, tokens: Int32s) -> tuple[Int32s, list[Row]]:
        logprobs = field(self._complete(tokens, echo=True, logprobs=5), "logprobs")
        return self._read_echo(logprobs, tokens, lambda prefix: self._complete(prefix, logprobs=5))

    def _by_text_echo(self, tokens: Int32s) -> tuple[Int32s, list[Row]]:
        """For servers that take texts only: counts if they cut the text into as many tokens."""
        logprobs = field(self._complete_text(tokens, echo=True), "logprobs")
        return self._read_echo(logprobs, tokens, self._complete_text)

    def _complete_text(self, tokens: Int32s, **options: Any) -> Any:
        if self._words is None:
            raise EndpointError("needs the model's vocabulary")
        body = {"model": self._model, "prompt": self._words.decode(tokens.tolist(), skip_special_tokens=False), "max_tokens": 1}
        reply = self._http.post("/v1/completions", body | {"temperature": 0, "logprobs": _TOP} | options)
        if replies.count(field(reply, "usage", "prompt_tokens")) != len(tokens):
            raise EndpointError("the endpoint cuts the prompt's text into other tokens")
        return field(reply, "choices", 0)

    def _read_echo(self, logprobs: Any, tokens: Int32s, ask: Callable[[Int32s], Any]) -> tuple[Int32s, list[Row]]:
        """The rows at their places; where these are is asked once."""
        if self._lag is None:
            generated: dict[int, Row] = {}
            for place in echo.probe_places(len(tokens)):
                generated[place] = replies.generated_row(ask(tokens[: place + 1]), self._words)
            self._lag = echo.find_lag(logprobs, tokens, generated, self._words)
        return echo.echoed(logprobs, tokens, self._words, self._lag)

    def _by_prefixes(self, tokens: Int32s) -> tuple[Int32s, list[Row]]:
        """A request for each of some positions, spread over the prompt, the last one among them."""
        count = min(len(tokens), _PREFIXES)
        at = np.unique(np.linspace(0, len(tokens) - 1, count).round()).astype(np.int32)
        choices = [self._complete(tokens[: place + 1], logprobs=_TOP, temperature=0) for place in at]
        return at, [replies.generated_row(choice, self._words) for choice in choices]

    def _complete(self, tokens: Int32s, **options: Any) -> Any:
        body = {"model": self._model, "prompt": tokens.tolist(), "max_tokens": 1, "temperature": 0, **options}
        choice = field(self._http.post("/v1/completions", body), "choices", 0)
        if not isinstance(choice, dict):
            raise EndpointError(f"{self.name} answered a completion without a choice")
        return choice

    def mixed(self, items: Sequence[Item], tokens: Sequence[Int32s | None], plan: Plan) -> list[Positions | None]:
        """How a server batches is its own affair."""
        return [None] * len(items)

    def generate(self, items: Sequence[Item], plan: Plan) -> list[Answer | None]:
        """Greedy answers, several in flight."""
        return list(self._in_flight(self._answer, items))

    def _answer(self, item: Item) -> Answer | None:
        if item.kind != "chat" or not item.answer_tokens:
            return None
        try:
            reply = self._chat(item, item.answer_tokens, temperature=0, seed=0)
            return replies.chat_answer(reply, self._words)
        except EndpointError as error:
            self._unreached.setdefault(f"answer to {item.id}", str(error))
            return Answer("", "error", error=str(error))

    def _chat(self, item: Item, max_tokens: int, **options: Any) -> Any:
        """Asks with log-probabilities and token ids where the server takes these words, and without where not."""
        body = self._chat_body(item, max_tokens) | options
        choices: tuple[dict[str, Any], ...] = (
            {"logprobs": True, "top_logprobs": _TOP, "return_token_ids": True},
            {"logprobs": True, "top_logprobs": _TOP},
            {"logprobs": True, "top_logprobs": 5},
            {},
        )
        for extras in choices if self._chat_extras is None else (self._chat_extras,):
            try:
                reply = self._http.post("/v1/chat/completions", body | extras)
            except EndpointError as error:
                if error.status not in (400, 422, 501) or not extras or self._chat_extras is not None:
                    raise
                continue
            self._chat_extras = extras
            if not extras:
                self._unreached.setdefault("answers' log-probabilities", "the server refuses them")
            return reply
        raise EndpointError(f"{self.name} answers no chat")

    def _chat_body(self, item: Item, max_tokens: int) -> dict[str, Any]:
        return {"model": self._model, "max_tokens": max_tokens, **self._conversation(item)}

    def _conversation(self, item: Item) -> dict[str, Any]:
        body: dict[str, Any] = {"messages": [_message(message) for message in item.messages]}
        if item.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {"name": t.name, "description": t.description, "parameters": dict(t.parameters)},
                }
                for t in item.tools
            ]
        if item.thinking is not None:
            body["chat_template_kwargs"] = {"enable_thinking": item.thinking}
        return body

    def sample(self, items: Sequence[Item], plan: Plan) -> list[Int32s | None]:
        """Sampled answers; their ids, or their texts cut by the model's vocabulary where that is at hand."""
        return list(self._in_flight(lambda item: self._sample(item, plan), items))

    def _sample(self, item: Item, plan: Plan) -> Int32s | None:
        samples = np.full((plan.num_samples, plan.sample_tokens), -1, np.int32)
        for index in range(plan.num_samples):
            try:
                reply = self._chat(item, plan.sample_tokens, temperature=1.0, top_p=1.0, seed=plan.seed + index)
                answer = replies.chat_answer(reply, self._words)
            except EndpointError as error:
                self._unreached.setdefault("samples", str(error))
                return None
            tokens = answer.tokens
            if tokens is None and self._words is not None and answer.text:
                tokens = tuple(self._words.encode(answer.text, add_special_tokens=False))
            if not tokens:
                self._unreached.setdefault("samples", "their token ids are not shown and no vocabulary is at hand")
                return None
            samples[index, : len(tokens)] = tokens[: plan.sample_tokens]
        return samples

    def layers(self, tokens: Int32s) -> Layers | None:
        """Not through HTTP."""
        return None

    def isolated(self, reference: Layers, reference_hash: str) -> Isolated | None:
        """Not through HTTP."""
        return None

    def to_float32(self) -> bool:
        """Not through HTTP."""
        return False

    def exact(self, plan: Plan) -> Mapping[str, Exact] | None:
        """Not through HTTP."""
        return None

    def unreached(self) -> Mapping[str, str]:
        """What the server did not give."""
        shifted = ", which stands one token behind and was put right" if self._lag else ""
        way = {"distributions": f"reached by {self._way[0]} only{shifted}"} if self._way else {}
        return {**way, **self._unreached, "inside": "an endpoint shows nothing of it"}

    def close(self) -> None:
        """Asks no more."""
        self._http.close()


def _message(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        plain["name"] = message.name
    return plain
