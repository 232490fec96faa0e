"""What the encodings of DeepSeek V3.2, V4 and V4.1 share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from parity.core.chat import Message, Tool, ToolCall

from ..dialects.dsml import DsmlCalls
from ..plain_json import plain_json
from ..switches import schema_of

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
SYSTEM = "<｜System｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK, THINK_END = "<think>", "</think>"


def schema_lines(tools: list[Tool]) -> str:
    """Each tool's schema as JSON, one a line."""
    lines = [{"name": tool.name, "description": tool.description, "parameters": plain_json(tool.parameters)} for tool in tools]
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)


def format_words(options: Mapping[str, Any]) -> str:
    """What is said of the form of the answer, at the end of the first system message; empty where it is free."""
    schema = schema_of(options)
    if schema is None:
        return ""
    wanted = json.dumps(plain_json(schema), ensure_ascii=False)
    return f"\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n{wanted}"


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """The arguments of an earlier call; what is no JSON object is one argument of that name, as the vendor has it."""
    try:
        value = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": call.arguments}


def written_calls(form: DsmlCalls, message: Message) -> str:
    """The calls of an assistant's message; empty if there are none."""
    if not message.tool_calls:
        return ""
    calls = "\n".join(form.write(call.name, arguments_of(call)) for call in message.tool_calls)
    return f"\n\n{form.tool_begin}\n{calls}\n{form.tool_end}"
