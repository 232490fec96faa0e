"""From Anthropic's request types to asks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...core.chat import Message, Role, Tool, ToolCall
from ...core.errors import RequestError
from ...text.switches import layered
from ...text.template import tool_dict
from ..asks import ChatAsk, JsonForm, ToolPolicy
from ..desk import Desk
from .types import (
    AnyChoice,
    Block,
    CountRequest,
    MessageIn,
    MessagesRequest,
    NoChoice,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingAdaptive,
    ThinkingBlock,
    ThinkingEnabled,
    ToolChoice,
    ToolIn,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
)

_BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n?")


def messages_ask(body: MessagesRequest, desk: Desk) -> ChatAsk:
    """The ask of a messages request.

    Raises:
        RequestError: a value is out of range, or fields contradict each other.
    """
    budget = None
    if isinstance(body.thinking, ThinkingEnabled):
        budget = body.thinking.budget_tokens
        if not 1 <= budget < body.max_tokens:
            raise RequestError(
                f"thinking.budget_tokens must be at least 1 and below max_tokens, not {budget}", field="thinking.budget_tokens"
            )
    if body.max_tokens < 1:
        raise RequestError(f"max_tokens must be at least 1, not {body.max_tokens}", field="max_tokens")
    params = desk.params(
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=tuple(body.stop_sequences or ()) or None,
    )
    return replace(conversation(body, desk), params=params, thinking_budget=budget)


def conversation(body: CountRequest, desk: Desk) -> ChatAsk:
    """The part of an ask that decides the prompt."""
    tools = tuple(_tool(tool) for tool in body.tools or ())
    deferred, told = _deferred(body)
    messages = [Message("system", text)] if (text := _instructions(body.system)) else []
    for message in body.messages:
        messages.extend(_turns(message, {tool.name: tool for tool in tools}))
    tools = tuple(tool for tool in tools if tool.name not in deferred - told)
    template = layered(dict(desk.settings.default_template), _thinking(body))
    output = body.output_config
    form = JsonForm(output.format.schema, "output_config.format") if output is not None and output.format is not None else None
    begun = bool(messages) and messages[-1].role == "assistant"  # as in Anthropic's API, the answer goes on with such a message
    return ChatAsk(tuple(messages), tools, _policy(body), form=form, template=template, continue_last=begun, told=told)


def _thinking(body: CountRequest) -> dict[str, Any]:
    """Template variables. As in Anthropic's API, a model thinks only if asked to."""
    options: dict[str, Any] = {"enable_thinking": isinstance(body.thinking, (ThinkingEnabled, ThinkingAdaptive))}
    if body.output_config is not None and body.output_config.effort is not None:
        options["reasoning_effort"] = body.output_config.effort
    return options


def _tool(tool: ToolIn) -> Tool:
    return Tool(tool.name, tool.description or "", tool.input_schema, bool(tool.strict))


def _deferred(body: CountRequest) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the tools that are deferred, and of those of them that some result refers to."""
    deferred = frozenset(tool.name for tool in body.tools or () if tool.defer_loading)
    if body.tools and all(tool.name in deferred for tool in body.tools):
        raise RequestError("every tool has defer_loading; at least one must be known from the beginning", field="tools")
    blocks = [block for message in body.messages if isinstance(message.content, list) for block in message.content]
    results = [block.content for block in blocks if isinstance(block, ToolResultBlock) and isinstance(block.content, list)]
    referred = {part.tool_name for parts in results for part in parts if isinstance(part, ToolReferenceBlock)}
    return deferred, deferred & referred


def _policy(body: CountRequest) -> ToolPolicy:
    choice = body.tool_choice
    if choice is None:
        return ToolPolicy("auto" if body.tools else "none")
    if isinstance(choice, NoChoice):
        return ToolPolicy("none")
    if isinstance(choice, ToolChoice):
        return ToolPolicy("required", choice.name, parallel=False)
    return ToolPolicy("required" if isinstance(choice, AnyChoice) else "auto", parallel=not choice.disable_parallel_tool_use)


def _instructions(system: str | Sequence[TextBlock] | None) -> str:
    """The system's text, without the line for Anthropic's accounts at its head: it differs from request to request."""
    texts = [system or ""] if system is None or isinstance(system, str) else [block.text for block in system]
    return "\n".join(text for text in (_BILLING.sub("", text, count=1) for text in texts) if text)


def _result(block: ToolResultBlock, tools: Mapping[str, Tool]) -> str:
    """What a tool answered. A tool that it refers to is declared in its place, as prompts declare tools at their beginning."""
    if block.content is None or isinstance(block.content, str):
        return block.content or ""
    parts: list[str] = []
    for part in block.content:
        if isinstance(part, TextBlock):
            parts.append(part.text)
        elif (tool := tools.get(part.tool_name)) is not None:
            parts.append(json.dumps(tool_dict(tool), ensure_ascii=False))
        else:
            raise RequestError(f"a tool_reference names {part.tool_name!r}, which is not among the tools", field="messages")
    return "\n".join(parts)


def _turns(message: MessageIn, tools: Mapping[str, Tool]) -> Iterator[Message]:
    """A message as turns: each tool result is one, and the rest another."""
    if isinstance(message.content, str):
        yield Message(message.role, message.content)
        return
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(message.content):
        _check_place(message.role, block, index)
        match block:
            case TextBlock():
                texts.append(block.text)
            case RedactedThinkingBlock():
                pass
            case ThinkingBlock():
                thoughts.append(block.thinking)
            case ToolUseBlock():
                calls.append(ToolCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False)))
            case ToolResultBlock():
                text = _result(block, tools)
                yield Message("tool", f"Error: {text}" if block.is_error else text, tool_call_id=block.tool_use_id)
    if texts or calls or thoughts:
        role: Role = message.role
        yield Message(role, "\n".join(texts), reasoning="\n".join(thoughts) or None, tool_calls=tuple(calls))


def _check_place(role: str, block: Block, index: int) -> None:
    """Calls and thoughts are the assistant's, results the user's."""
    theirs = (ToolResultBlock,) if role == "assistant" else (ToolUseBlock, ThinkingBlock, RedactedThinkingBlock)
    if isinstance(block, theirs):
        kind = block.__struct_config__.tag
        raise RequestError(f"a {kind} block cannot be in a message of the role {role}", field=f"messages.content[{index}]")
