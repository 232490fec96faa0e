"""An answer as JSON: one shape for `generate --json` and for its files."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..answers import Answer
    from ..core.request import TokenLogprobs


def record(answer: Answer) -> dict[str, Any]:
    """What there is to say of an answer; log-probabilities, reasoning and tool calls only where there are any."""
    usage, timings = answer.usage, answer.timings
    found: dict[str, Any] = {
        "text": answer.text,
        "tokens": list(answer.tokens),
        "finish_reason": answer.finish.reason,
        "stop": answer.finish.stop,
        "prompt_tokens": list(answer.prompt_tokens),
        "usage": {
            "prompt_tokens": usage.num_prompt_tokens,
            "cached_tokens": usage.num_cached_tokens,
            "completion_tokens": usage.num_generated_tokens,
        },
        "timings": {
            "first_token_s": round(timings.first_token_s, 4),
            "total_s": round(timings.total_s, 4),
            "tokens_per_second": round(timings.tokens_per_second(len(answer.tokens)), 2),
        },
    }
    if answer.reasoning:
        found["reasoning"] = answer.reasoning
    if answer.tool_calls:
        found["tool_calls"] = [asdict(call) for call in answer.tool_calls]
    if answer.logprobs:
        found["logprobs"] = [_logprobs(entry) for entry in answer.logprobs]
    if answer.prompt_logprobs is not None:
        found["prompt_logprobs"] = [_logprobs(entry) for entry in answer.prompt_logprobs]
    return found


def _logprobs(entry: TokenLogprobs) -> dict[str, Any]:
    return {
        "token": entry.token,
        "logprob": entry.logprob,
        "rank": entry.rank,
        "top": [{"token": token, "logprob": logprob} for token, logprob in entry.top],
    }
