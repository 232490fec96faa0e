"""From events and answers to OpenAI's answer types."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from ...core.request import Finish, TokenLogprobs, Usage
from ..words import Words
from .chat_types import LogprobsOut, PromptTokensDetails, TokenLogprob, TopLogprob, UsageOut

Reason = Literal["stop", "length", "tool_calls"]


def usage_out(usage: Usage) -> UsageOut:
    """Token counts."""
    return UsageOut(
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=usage.num_generated_tokens,
        total_tokens=usage.num_prompt_tokens + usage.num_generated_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.num_cached_tokens),
    )


def reason_of(finish: Finish, has_calls: bool) -> Reason:
    """The finish reason; ends without an answer are errors and do not come here."""
    if finish.reason == "length":
        return "length"
    return "tool_calls" if has_calls else "stop"


def stop_of(finish: Finish, eos: Collection[int]) -> str | int | None:
    """The stop string or token of the request's own that ended the answer; none for the model's own end."""
    return None if finish.stop in eos else finish.stop


def logprobs_out(logprobs: Iterable[TokenLogprobs], words: Words) -> LogprobsOut:
    """Log-probabilities with the tokens' texts and bytes."""
    return LogprobsOut([_token_logprob(entry, words) for entry in logprobs])


def _token_logprob(entry: TokenLogprobs, words: Words) -> TokenLogprob:
    top = []
    for token, logprob in entry.top:
        raw = words.token_bytes(token)
        top.append(TopLogprob(raw.decode("utf-8", "replace"), finite(logprob), list(raw)))
    raw = words.token_bytes(entry.token)
    return TokenLogprob(raw.decode("utf-8", "replace"), finite(entry.logprob), list(raw), top)


def finite(logprob: float) -> float:
    """JSON has no infinity: the least that OpenAI's API reports stands for impossible."""
    return max(logprob, -9999.0)
