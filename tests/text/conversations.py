"""Conversations that templates are tried on, in our types and as transformers takes them."""

from __future__ import annotations

import json
from typing import Any

from parity.core.chat import Message, Tool, ToolCall

TOOLS = [
    Tool(
        "get_weather",
        "What's the weather like, in °C & <html>?",
        {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
    ),
    Tool("now", "The time.", {"type": "object", "properties": {}}),
]
CALLS = (
    ToolCall("call_1", "get_weather", '{"city": "München <\\"x\\">", "days": 2, "more": [1, null, {"a": true}]}'),
    ToolCall("call_2", "now", "{}"),
)
CONVERSATIONS: list[list[Message]] = [
    [Message("user", "Hi")],
    [Message("system", "Be brief.\n"), Message("user", "  Grüß Gott 世界 😀\n")],
    [Message("user", "a"), Message("assistant", "b", reasoning="because"), Message("user", "c")],
    [
        Message("system", "s"),
        Message("user", "weather?"),
        Message("assistant", "", reasoning="look it up", tool_calls=CALLS),
        Message("tool", "12°", tool_call_id="call_1", name="get_weather"),
        Message("tool", "noon", tool_call_id="call_2", name="now"),
    ],
    [
        Message("user", "weather?"),
        Message("assistant", "I'll see.", tool_calls=CALLS[:1]),
        Message("tool", "12°", tool_call_id="call_1", name="get_weather"),
        Message("assistant", "12 degrees", reasoning="done"),
        Message("user", "thanks"),
    ],
]


def as_dicts(messages: list[Message]) -> list[dict[str, Any]]:
    """As a caller of transformers writes them."""
    result: list[dict[str, Any]] = []
    for message in messages:
        plain: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning is not None:
            plain["reasoning_content"] = message.reasoning
        if message.tool_calls:
            plain["content"] = message.content or None
            plain["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
                for call in message.tool_calls
            ]
        if message.tool_call_id:
            plain["tool_call_id"] = message.tool_call_id
            plain["name"] = message.name
        result.append(plain)
    return result


def tools_as_dicts(tools: list[Tool]) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": dict(t.parameters)}}
        for t in tools
    ]
