"""Reads what OpenAI-compatible servers answer, in the spellings that vLLM, SGLang, llama.cpp, Parity and others use.

Nothing of an answer is believed before its type and range are checked; what does not fit raises `EndpointError`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from ..record import Answer, Int32s
from ..statistics.divergence import Top, rough_log_tail
from .http import EndpointError

_MAX_TOKENS = 1 << 22
_MAX_TEXT = 1 << 22
_REPLACEMENT = "\ufffd"
_TOKEN_ID = re.compile(r"token_id:(\d{1,9})")

Row = list[tuple[int, float]]


class Words(Protocol):
    """The model's vocabulary, where it is at hand: turns tokens that a server spells out back into ids."""

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """The tokens that end an answer."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text."""

    def id_of(self, text: str) -> int | None:
        """The id of the one token with this text."""

    def decode(self, tokens: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some ids."""

    def all_bytes(self) -> Sequence[bytes]:
        """Each token's own bytes."""

    def __hash__(self) -> int:
        """By identity."""


def field(value: Any, *path: str | int) -> Any:
    """What is at a path of keys and indexes; None where something on the way is missing."""
    for key in path:
        if isinstance(key, int):
            value = value[key] if isinstance(value, list) and -len(value) <= key < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value


def token_ids(value: Any) -> Int32s | None:
    """A list of token ids; None if it is not one."""
    if not isinstance(value, list) or not value or len(value) > _MAX_TOKENS:
        return None
    if any(type(token) is not int or not 0 <= token < 2**31 for token in value):
        return None
    return np.array(value, np.int32)


def count(value: Any) -> int | None:
    """A number of tokens that a server claims; None if it is not one."""
    return value if type(value) is int and 0 <= value <= 2**40 else None


def prompt_logprobs(value: Any, ids: Int32s) -> list[Row]:
    """vLLM's `prompt_logprobs`: a dict by token id for each prompt token, the first one null. Row i is for token i + 1."""
    if not isinstance(value, list) or len(value) != len(ids):
        raise EndpointError("the endpoint's prompt_logprobs are not one for each prompt token")
    rows = []
    for place, entry in enumerate(value[1:], start=1):
        if not isinstance(entry, dict) or not entry:
            raise EndpointError("an entry of the endpoint's prompt_logprobs is not a set of tokens")
        if str(ids[place]) not in entry:
            raise EndpointError(
                "an entry of the endpoint's prompt_logprobs is of another position: it lacks the prompt's token"
            )
        row = [(int(key), logprob(field(item, "logprob"))) for key, item in entry.items() if key.isdecimal() and len(key) < 10]
        rows.append(ordered(row))
    return rows


def named(entry: Any, words: Words | None, *, whole: bool = True) -> Row:
    """Likely tokens keyed by their text; none where a text that several tokens have may hide a likelier one.

    A server may spell all special tokens alike, and leave out bytes that are no whole character: of tokens that then look the
    same only one is listed, and with any one's probability.

    Args:
        whole: whether as many tokens are listed as should be.
    """
    if not isinstance(entry, dict):
        return []
    pairs = [(token_of({"token": text}, words), logprob(value)) for text, value in entry.items()]
    row = [(token, value) for token, value in pairs if token is not None]
    if whole and len(row) == len(pairs):
        return row
    shown = [math.exp(value) for _, value in row]
    return row if max(shown, default=0.0) >= 1.0 - sum(shown) else []


def content_row(entry: Any, words: Words | None) -> Row:
    """One entry of chat's `logprobs.content`: the token and its `top_logprobs`."""
    tops = field(entry, "top_logprobs")
    items = [entry, *(tops if isinstance(tops, list) else [])]
    pairs = [(token_of(item, words), logprob(field(item, "logprob"))) for item in items[:129]]
    row = ordered([(token, value) for token, value in pairs if token is not None])
    # The next best must not pass for the best.
    return row if row and row[0][1] >= max(value for _, value in pairs) else []


def token_of(item: Any, words: Words | None) -> int | None:
    """The id of a reported token: given as such, spelled `token_id:5`, or found by its text.

    Bytes that are no whole character are shown as U+FFFD, and then the text is no token's name; or they are left out, so that
    without the bytes themselves a text that they leave is no name either.
    """
    given = field(item, "id")
    if type(given) is int and 0 <= given < 2**31:
        return given
    text = field(item, "token")
    if not isinstance(text, str) or _REPLACEMENT in text:
        return None
    spelled = _TOKEN_ID.fullmatch(text)
    if spelled:
        return int(spelled[1])
    if words is None or len(text) >= 1024 or (not isinstance(field(item, "bytes"), list) and text in shorn_texts(words)):
        return None
    return words.id_of(text)


@lru_cache(maxsize=4)
def shorn_texts(words: Words) -> frozenset[str]:
    """What is left of tokens' texts without bytes that are no whole character."""
    return frozenset(data.decode(errors="ignore") for data in words.all_bytes() if not _is_text(data))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def generated_row(choice: Any, words: Words | None) -> Row:
    """The likely tokens at the first generated place of a completion, in either spelling."""
    logprobs = field(choice, "logprobs")
    content = field(logprobs, "content", 0)
    if content is not None:
        return content_row(content, words)
    listed = field(logprobs, "top_logprobs", 0)
    row = named(listed, words)
    if listed and not row:
        return []
    token = token_of({"token": field(logprobs, "tokens", 0)}, words)
    value = field(logprobs, "token_logprobs", 0)
    return ordered(row + ([(token, logprob(value))] if token is not None and value is not None else []))


def top_of(rows: Sequence[Row]) -> Top:
    """Rows of any lengths as one `Top`."""
    width = max((len(row) for row in rows), default=1) or 1
    ids = np.full((len(rows), width), -1, np.int32)
    logprobs = np.full((len(rows), width), -100.0, np.float32)
    for index, row in enumerate(rows):
        for place, (token, value) in enumerate(row):
            ids[index, place], logprobs[index, place] = token, value
    return Top(ids, logprobs, rough_log_tail(logprobs, ids))


def chat_answer(reply: Any, words: Words | None) -> Answer:
    """The answer in a chat completion."""
    choice = field(reply, "choices", 0)
    message = field(choice, "message")
    if not isinstance(message, dict):
        raise EndpointError("the endpoint answered a chat without a message")
    text = message.get("content") or ""
    if not isinstance(text, str) or len(text) > _MAX_TEXT:
        raise EndpointError("the endpoint's message has no text content")
    finish = field(choice, "finish_reason")
    finish = "stop" if finish in ("tool_calls", "function_call") else finish if isinstance(finish, str) else "unknown"
    content = field(choice, "logprobs", "content")
    rows = [content_row(entry, words) for entry in content] if isinstance(content, list) else []
    tokens = token_ids(field(choice, "token_ids"))
    chosen: list[int | None] = [int(token) for token in tokens] if tokens is not None else []
    if not chosen and isinstance(content, list):
        chosen = [token_of(entry, words) for entry in content]
    known = [token for token in chosen if token is not None]
    whole = bool(known) and len(known) == len(chosen)
    if not whole and words is not None and not message.get("tool_calls"):
        known = _cut_again(text, finish, count(field(reply, "usage", "completion_tokens")), words)
        whole = bool(known)
    return Answer(
        text,
        finish[:40],
        tuple(known) if whole else None,
        top_of(rows) if whole and len(rows) == len(known) and all(rows) else None,
        count(field(reply, "usage", "completion_tokens")),
        _calls(message.get("tool_calls")),
    )


def _cut_again(text: str, finish: str, counted: int | None, words: Words) -> list[int]:
    """An answer's ids where only its text is shown; none where the server counted other tokens, or none. An ended one may
    have counted the token that ends it, which is put back if the model has one such token only."""
    ids = words.encode(text, add_special_tokens=False)
    ends = words.eos_token_ids
    if finish == "stop" and counted in (len(ids), len(ids) + 1):
        return [*ids, ends[0]] if len(ends) == 1 else []
    return ids if counted == len(ids) else []


def _calls(value: Any) -> tuple[tuple[str, str], ...]:
    calls = []
    for call in value[:64] if isinstance(value, list) else []:
        name, arguments = field(call, "function", "name"), field(call, "function", "arguments")
        if isinstance(name, str) and isinstance(arguments, str) and len(arguments) < _MAX_TEXT:
            calls.append((name, arguments))
    return tuple(calls)


def logprob(value: Any) -> float:
    """A log-probability that a server reports.

    Raises:
        EndpointError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value > 0.01:
        raise EndpointError("the endpoint reported a log-probability that is none")
    return max(float(min(value, 0.0)), -1000.0)


def ordered(row: Row) -> Row:
    """Each token once, the most likely first."""
    best: dict[int, float] = {}
    for token, value in row:
        best.setdefault(token, value)
    return sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))
