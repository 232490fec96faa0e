"""From Anthropic's request types to asks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...core.chat import Message, Role, Tool, ToolCall
from ...core.errors import RequestError
from ...text.switches import layered
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
    ToolResultBlock,
    ToolUseBlock,
)


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
    messages = [Message("system", text)] if (text := _text(body.system)) else []
    for message in body.messages:
        messages.extend(_turns(message))
    tools = tuple(_tool(tool) for tool in body.tools or ())
    template = layered(dict(desk.settings.default_template), _thinking(body))
    output = body.output_config
    form = JsonForm(output.format.schema, "output_config.format") if output is not None and output.format is not None else None
    begun = bool(messages) and messages[-1].role == "assistant"  # as in Anthropic's API, the answer goes on with such a message
    return ChatAsk(tuple(messages), tools, _policy(body), form=form, template=template, continue_last=begun)


def _thinking(body: CountRequest) -> dict[str, Any]:
    """Template variables. As in Anthropic's API, a model thinks only if asked to."""
    options: dict[str, Any] = {"enable_thinking": isinstance(body.thinking, (ThinkingEnabled, ThinkingAdaptive))}
    if body.output_config is not None and body.output_config.effort is not None:
        options["reasoning_effort"] = body.output_config.effort
    return options


def _tool(tool: ToolIn) -> Tool:
    return Tool(tool.name, tool.description or "", tool.input_schema, bool(tool.strict))


def _policy(body: CountRequest) -> ToolPolicy:
    choice = body.tool_choice
    if choice is None:
        return ToolPolicy("auto" if body.tools else "none")
    if isinstance(choice, NoChoice):
        return ToolPolicy("none")
    if isinstance(choice, ToolChoice):
        return ToolPolicy("required", choice.name, parallel=False)
    return ToolPolicy("required" if isinstance(choice, AnyChoice) else "auto", parallel=not choice.disable_parallel_tool_use)


def _text(content: str | Sequence[TextBlock] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(block.text for block in content)


def _turns(message: MessageIn) -> Iterator[Message]:
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
                text = _text(block.content)
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
