"""Kimi K3: XTML messages, tools as one JSON list, and thinking effort as a message of the system."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from parity.core.chat import Message, Tool, ToolCall
from parity.core.errors import RequestError

from ..dialects.xtml import END, XtmlCalls, closing, opening
from ..plain_json import plain_json
from ..switches import EFFORT, FORMAT, THINKING, effort_of, level_of, schema_of, thinking_of
from ..template import tool_dict

_CALLS = XtmlCalls()
# The three levels that the released encoder takes, under the names that clients send, as the vendor's service maps them.
_LEVELS = {"minimal": "low", "low": "low", "medium": "high", "high": "high", "xhigh": "max", "max": "max"}
_TOOLS = "# Tools\nHere are the available tools, described in JSONSchema.\n\n```json\n{tools}\n```"
_EFFORT = (
    "`thinking_effort` guides on how much to think in your thinking channel (not including the response channel), supported "
    "values include `low`, `medium`, `high`, and `max`.\nNow the system is invoked with `thinking_effort={effort}`."
)
_CHOICES = {
    "required": "The system is invoked with `tool_choice=required`.\nYou MUST call tools in the next message.",
    "none": "The system is invoked with `tool_choice=none`.\nYou MUST NOT call any tools in the next message.",
}

_FORMAT = (
    "The system is invoked with `response_format={kind}`.\nYour response must be raw JSON data without markdown code blocks "
    "(```json) or any additional formatting."
)
_SCHEMA = "\nThe JSON data must match the following schema:\n```json\n{schema}\n```"


class KimiK3Encoding:
    """Every message is a tag, an assistant's holds channels: think, response, tools.

    Options: `thinking` (or `enable_thinking`), on unless said otherwise; `thinking_effort` (or `reasoning_effort`): low,
    high, max (the default); `tool_choice`: required or none; `response_format`.
    """

    variables = frozenset((*THINKING, *EFFORT, "tool_choice", FORMAT))

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, add_generation_prompt: bool = True, **options: Any
    ) -> str:
        """See `Template.render`."""
        thinking = thinking_of(options) is not False
        parts = []
        if tools:
            declared = _TOOLS.format(tools=_sorted_json([tool_dict(tool) for tool in tools]))
            parts.append(_from_system("tool-declare", declared))
        if thinking:
            parts.append(_from_system("thinking-effort", _EFFORT.format(effort=level_of(effort_of(options), _LEVELS, "max"))))
        parts += _conversation(messages, thinking)
        choice = _CHOICES.get(str(options.get("tool_choice")))
        if choice:
            parts.append(_from_system("tool-choice", choice))
        if (schema := schema_of(options)) is not None:
            parts.append(_from_system("response-format", _form(schema)))
        if add_generation_prompt:
            parts.append(opening("message", role="assistant") + opening("think" if thinking else "response"))
        return "".join(parts)


def _form(schema: Any) -> str:
    if schema == {"type": "json_object"}:
        return _FORMAT.format(kind="json_object")
    return _FORMAT.format(kind="json_schema") + _SCHEMA.format(schema=_sorted_json(plain_json(schema)))


def _conversation(messages: Sequence[Message], thinking: bool) -> list[str]:
    parts: list[str] = []
    calls: tuple[ToolCall, ...] = ()
    results: list[Message] = []
    number = 0
    for message in messages:
        if message.role == "tool":
            results.append(message)
            continue
        parts += _results(results, calls, number)
        number, results = 0, []
        if message.role == "assistant":
            calls = message.tool_calls
            parts.append(_assistant(message, thinking))
        else:
            attributes: dict[str, object] = {"role": "system" if message.role == "developer" else message.role}
            if message.name:
                attributes["name"] = message.name
            parts.append(_tagged(attributes, message.content))
    return [*parts, *_results(results, calls, number)]


def _assistant(message: Message, thinking: bool) -> str:
    parts = []
    if thinking:
        reasoning = message.reasoning or ""
        parts.append(opening("think") + (reasoning if reasoning.strip() else "") + closing("think"))
    parts.append(opening("response") + message.content + closing("response"))
    if message.tool_calls:
        calls = [_call(call, index) for index, call in enumerate(message.tool_calls, start=1)]
        parts.append(_CALLS.tool_begin + "".join(calls) + _CALLS.tool_end)
    attributes = {"role": "assistant"} | ({"name": message.name} if message.name else {})
    return _tagged(attributes, "".join(parts))


def _call(call: ToolCall, index: int) -> str:
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        return _CALLS.write(call.name, arguments, index)
    block = opening("json", type="object") + call.arguments + closing("json")
    return opening("call", tool=call.name, index=index) + block + _CALLS.call_end


def _results(results: Sequence[Message], calls: Sequence[ToolCall], number: int) -> list[str]:
    """Results in the order of the calls if every one names its call, else in their own; each with its tool's name."""
    by_id = {call.id: call for call in calls}
    if all(result.tool_call_id in by_id for result in results):
        order = list(by_id)
        ordered = sorted(results, key=lambda result: order.index(result.tool_call_id or ""))
    else:
        ordered = list(results)
    parts = []
    for index, result in enumerate(ordered, start=number + 1):
        call = by_id.get(result.tool_call_id or "") or (calls[index - 1] if index <= len(calls) else None)
        name = call.name if call and result.tool_call_id in by_id else result.name or (call.name if call else None)
        if name is None:
            raise RequestError("a tool's result names neither its tool nor a call of the assistant", field="messages")
        parts.append(_tagged({"role": "tool", "tool": name, "index": index}, result.content))
    return parts


def _tagged(attributes: Mapping[str, object], content: str) -> str:
    return opening("message", **attributes) + content + closing("message") + END


def _from_system(kind: str, content: str) -> str:
    return _tagged({"role": "system", "type": kind}, content.strip())


def _sorted_json(value: Any) -> str:
    """JSON with the keys sorted and no spaces, as the vendor's encoder writes tools."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
