"""From answers to Anthropic's answer types."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from typing import Any

from ...core.request import Finish, Usage
from .types import StopReason, UsageOut


def tool_input(arguments: str) -> dict[str, Any]:
    """A call's arguments as the object that Anthropic's API has; a text that is none is kept under `invalid_json`."""
    try:
        value = json.loads(arguments or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"invalid_json": arguments}


def usage_out(usage: Usage) -> UsageOut:
    """Token counts."""
    return UsageOut(usage.num_prompt_tokens - usage.num_cached_tokens, usage.num_generated_tokens, usage.num_cached_tokens)


def stop_reason(finish: Finish, has_calls: bool) -> StopReason:
    """Why the answer ended; ends without an answer are errors and do not come here."""
    if finish.reason == "length":
        return "max_tokens"
    if has_calls:
        return "tool_use"
    return "stop_sequence" if isinstance(finish.stop, str) else "end_turn"


def stop_sequence(finish: Finish) -> str | None:
    """The stop string that ended the answer."""
    return finish.stop if isinstance(finish.stop, str) else None


def signature(thought: str) -> str:
    """A thought's signature: a digest, since there is nothing to keep secret."""
    return base64.b64encode(hashlib.sha256(thought.encode()).digest()).decode()


def new_id() -> str:
    """An id for a message."""
    return f"msg_{uuid.uuid4().hex}"
