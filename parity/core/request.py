"""What was asked (`Request`, never changes) and what came of it (`Output`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from .errors import RequestError

if TYPE_CHECKING:
    import numpy as np

FinishReason = Literal["stop", "length", "abort", "timeout", "error"]
Want = Literal["tokens", "logits", "embedding"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when to stop. Checked on construction.

    Args:
        temperature: 0 is greedy: the largest logit, ties to the lowest token id.
        top_p: keep the smallest set of tokens whose probability reaches this; 1 keeps all.
        top_k: keep this many most likely tokens; 0 or -1 keeps all.
        min_p: drop tokens less likely than this times the most likely one.
        repetition_penalty: divides positive and multiplies negative logits of tokens in the prompt or the output.
        presence_penalty: subtracted once from tokens in the output.
        frequency_penalty: subtracted per occurrence in the output.
        logit_bias: token id to what is added to its logit.
        seed: the same seed gives the same sample whatever else runs; None draws one.
        n: number of samples of the same prompt.
        max_tokens: most tokens generated; None means up to the context's end; 0 computes the prompt only.
        min_tokens: no stop before this many.
        stop: strings that end the answer; they are not part of it.
        stop_token_ids: tokens that end the answer, besides the model's own.
        ignore_eos: the model's own end tokens do not stop.
        logprobs: number of most likely alternatives reported for each generated token; None reports nothing.
        prompt_logprobs: the same for each prompt token but the first.

    Raises:
        RequestError: a value is out of its range; the text names field, value and range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("stop", "stop_token_ids"):
            value = getattr(self, name)
            if not isinstance(value, Iterable | None):
                raise RequestError(f"{name} must be a list, not {value!r}", field=name)
            object.__setattr__(self, name, tuple(value or ()))
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)
        for name, low, high, kind in _RANGES:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
                raise RequestError(f"{name} must be {_KIND_NAMES[kind]}, not {value!r}", field=name)
            if not (low <= value <= high) or (kind is float and not math.isfinite(value)):
                raise RequestError(f"{name} must be {_range_text(low, high)}, not {value!r}", field=name)
        if self.repetition_penalty <= 0:
            raise RequestError(
                f"repetition_penalty must be above 0, not {self.repetition_penalty!r}", field="repetition_penalty"
            )
        if self.top_p <= 0:
            raise RequestError(f"top_p must be above 0 and at most 1, not {self.top_p!r}", field="top_p")
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            raise RequestError(f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens})", field="min_tokens")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise RequestError("stop must hold non-empty strings", field="stop")
        if wrong := [token for token in self.stop_token_ids if not isinstance(token, int)]:
            raise RequestError(f"stop_token_ids must hold token ids, not {wrong[0]!r}", field="stop_token_ids")
        if not isinstance(self.ignore_eos, bool):
            raise RequestError(f"ignore_eos must be true or false, not {self.ignore_eos!r}", field="ignore_eos")
        if not isinstance(self.logit_bias, Mapping):
            raise RequestError(f"logit_bias must map token ids to numbers, not {self.logit_bias!r}", field="logit_bias")
        for token, bias in self.logit_bias.items():
            is_number = isinstance(bias, (int, float)) and math.isfinite(bias)
            if not isinstance(token, int) or token < 0 or not is_number:
                raise RequestError(
                    f"logit_bias must map token ids to finite numbers, not {token!r}: {bias!r}", field="logit_bias"
                )

    @classmethod
    def of(cls, defaults: Mapping[str, Any] | None = None, **given: Any) -> Self:
        """Params from a model's defaults (its generation_config), overridden by what was `given` and is not None."""
        known = {f.name for f in fields(cls)}
        if unknown := next((name for name in given if name not in known), None):
            raise RequestError(f"there is no sampling value {unknown!r}; there are {', '.join(sorted(known))}", field=unknown)
        values = {name: value for name, value in (defaults or {}).items() if name in known and value is not None}
        values |= {name: value for name, value in given.items() if value is not None}
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)


_RANGES: tuple[tuple[str, float, float, type], ...] = (
    ("temperature", 0, 100, float),
    ("top_p", 0, 1, float),
    ("top_k", 0, 2**31 - 1, int),
    ("min_p", 0, 1, float),
    ("repetition_penalty", 0, 100, float),
    ("presence_penalty", -100, 100, float),
    ("frequency_penalty", -100, 100, float),
    ("seed", -(2**63), 2**64 - 1, int),
    ("n", 1, 128, int),
    ("max_tokens", 0, 2**31 - 1, int),
    ("min_tokens", 0, 2**31 - 1, int),
    ("logprobs", 0, 64, int),
    ("prompt_logprobs", 0, 64, int),
)
_OPTIONAL = {"seed", "max_tokens", "logprobs", "prompt_logprobs"}
_KIND_NAMES = {int: "a whole number", float: "a number"}


def _range_text(low: float, high: float) -> str:
    return f"at least {low}" if high >= 2**31 - 1 else f"between {low} and {high}"


def bias_of(given: Mapping[str, float]) -> dict[int, float]:
    """`logit_bias` as JSON has it, whose keys are texts.

    Raises:
        RequestError: a key is no token id.
    """
    for key in given:
        if not key.isdecimal() or len(key) > 18:
            raise RequestError(f"logit_bias must map token ids to numbers, and {key[:40]!r} is not one", field="logit_bias")
    return {int(key): value for key, value in given.items()}


class Constraint(Protocol):
    """Restricts the next token, such as a grammar: one per request, fed each token that was chosen."""

    def mask(self) -> np.ndarray | None:
        """The tokens allowed next as a bit set, uint32 [ceil(vocabulary / 32)]; None allows all."""

    def accept(self, token: int) -> None:
        """Moves on by a token that was chosen."""

    @property
    def done(self) -> bool:
        """Whether nothing may follow."""


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to compute, in token ids.

    Args:
        id: unique among running requests.
        tokens: the prompt, at least one token.
        params: `n` is 1 here: several samples are several requests with different `sample`.
        sample: index among the samples of one prompt; part of the random key.
        deadline_s: on the monotonic clock; the request ends with `timeout` when it passes.
        want: `logits` returns the logits of every prompt position, `embedding` the last hidden state, each with no token.
        constraint: restricts the tokens chosen.
        adapter: changes the weights for this request, and so its state: none is shared with requests of another.
        cache: whether prompt state may be taken from, and left in, the prefix cache.
    """

    id: str
    tokens: tuple[int, ...]
    params: SamplingParams = SamplingParams()
    sample: int = 0
    arrival_s: float = 0.0
    deadline_s: float | None = None
    want: Want = "tokens"
    constraint: Constraint | None = None
    adapter: str | None = None
    cache: bool = True


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log-probability of one token and of the most likely ones at its position, best first; natural logarithm."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request, and how long it waited for its first step."""

    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    queued_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Finish:
    """Why a request ended. `stop` is the stop string or token id that matched; `message` says what went wrong."""

    reason: FinishReason
    stop: str | int | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """What one step brought for one request; the last one of a request has `finish`.

    `prompt_logprobs` comes once, with the first token or the finish; entry i is for prompt token i + 1.
    `array` is float32: [tokens, vocabulary] for `want="logits"` (chunk by chunk, in order) or [hidden] for an embedding.
    """

    request_id: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    array: np.ndarray | None = None
    finish: Finish | None = None
    usage: Usage = Usage()
