"""DeepSeek V4 and V4.1, as the vendor's own package encodes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from parity.core.chat import Message, Tool
from parity.core.errors import RequestError

from ..dialects.dsml import DSML_V4, DSML_V41, DsmlCalls
from ..switches import EFFORT, FORMAT, THINKING, effort_of, level_of, schema_of, thinking_of
from .deepseek import ASSISTANT, BOS, EOS, SYSTEM, THINK, THINK_END, USER, format_words, schema_lines, written_calls

_TOOLS = """

## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<{mark}{calls}>" \
block like the following:

<{mark}{calls}>
<{mark}{invoke} name="$TOOL_NAME">
<{mark}{parameter} name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{mark}{parameter}>
...
</{mark}{invoke}>
<{mark}{invoke} name="$TOOL_NAME2">
...
</{mark}{invoke}>
</{mark}{calls}>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, \
objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> \
BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

{schemas}

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""
_OBJECT = """

You are a helpful assistant designed to output JSON.
## Response Format:

Reply with JSON object ONLY."""
_HIGH = """\
Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, rigorously \
stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, and \
rejected hypothesis to ensure absolutely no assumption is left unchecked.

"""
_MAX = """\
Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.
You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the problem \
into its most fundamental components, trace every causal chain to its root, and resolve the underlying cause rather than any \
surface symptom.
Do not stop reasoning until you have independently verified the solution from multiple angles and are certain that no \
assumption remains unchecked and no error remains undiscovered.

"""
# The three levels that the vendor has, under the names that clients send.
_LEVELS = {"minimal": "low", "low": "low", "medium": "high", "high": "high", "xhigh": "high", "max": "max"}
_V4_EFFORT = {"low": "", "high": _HIGH, "max": _MAX}
_V41_EFFORT = {"low": 50, "high": 75, "max": 100}


class DeepSeekV4Encoding:
    """System messages go to the front; thinking of earlier turns is kept if tools are given, and dropped if not.

    Options: `thinking` (or `enable_thinking`), on unless said otherwise; `reasoning_effort`: low, high (the default), max;
    `response_format`.
    """

    variables = frozenset((*THINKING, *EFFORT, FORMAT))
    calls: DsmlCalls = DSML_V4
    keeps_empty = False

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, add_generation_prompt: bool = True, **options: Any
    ) -> str:
        """See `Template.render`."""
        thinking = thinking_of(options) is not False
        end = self._tools(list(tools)) + self._format(options)
        head = self._head(self._effort(effort_of(options)) if thinking else "", messages, end)
        parts = [BOS, head, *self._turns(messages, bool(tools), thinking)]
        if add_generation_prompt:
            parts.append(ASSISTANT + (THINK if thinking else THINK_END))
        return "".join(parts)

    def _effort(self, effort: Any) -> str:
        return _V4_EFFORT[level_of(effort, _LEVELS, "high")]

    def _format(self, options: Mapping[str, Any]) -> str:
        return _OBJECT if schema_of(options) == {"type": "json_object"} else format_words(options)

    def _head(self, effort: str, messages: Sequence[Message], end: str) -> str:
        texts = [message.content for message in messages if _is_system(message) and message.content]
        return effort + "\n\n".join(texts) + end

    def _tools(self, tools: list[Tool]) -> str:
        if not tools:
            return ""
        form = self.calls
        outer = form.tool_begin.removeprefix(f"<{form.mark}").removesuffix(">")
        return _TOOLS.format(
            mark=form.mark, calls=outer, invoke=form.invoke, parameter=form.parameter, schemas=schema_lines(tools)
        )

    def _turns(self, messages: Sequence[Message], with_tools: bool, thinking: bool) -> list[str]:
        return self._in_turn([message for message in messages if not _is_system(message)], with_tools, thinking)

    def _in_turn(self, messages: Sequence[Message], with_tools: bool, thinking: bool) -> list[str]:
        """Turns of one speaker each: what users and tools say before the assistant answers is one turn."""
        parts: list[str] = []
        waiting: list[Message] = []
        order: dict[str, int] = {}
        for message in messages:
            if message.role in ("user", "tool"):
                waiting.append(message)
                continue
            parts += self._said(waiting, order)
            waiting = []
            if message.role == "assistant":
                order = {call.id: index for index, call in enumerate(message.tool_calls)}
                parts.append(self._assistant(message, with_tools, thinking))
            else:
                parts.append(SYSTEM + message.content)
        return [*parts, *self._said(waiting, order)]

    def _said(self, messages: Sequence[Message], order: dict[str, int]) -> list[str]:
        """One turn of users and tools, the tools' results in the order in which they were asked for."""
        texts = [text for text in _texts(messages, order) if text or self.keeps_empty]
        return [USER + "\n\n".join(texts)] if messages else []

    def _assistant(self, message: Message, with_tools: bool, thinking: bool) -> str:
        thought = f"{THINK}{message.reasoning}{THINK_END}" if with_tools and message.reasoning is not None else THINK_END
        return f"{ASSISTANT}{thought}{message.content}{written_calls(self.calls, message)}{EOS}"


class DeepSeekV41Encoding(DeepSeekV4Encoding):
    """System messages stay where they are, with a token of their own; effort is a number from 1 to 100.

    Options: as V4's; `reasoning_effort` may also be the number itself.
    """

    calls = DSML_V41
    keeps_empty = True

    def _effort(self, effort: Any) -> str:
        number = (
            effort
            if isinstance(effort, int) and not isinstance(effort, bool)
            else _V41_EFFORT[level_of(effort, _LEVELS, "high")]
        )
        if not 1 <= number <= 100:
            raise RequestError(f"reasoning_effort must be between 1 and 100, not {effort!r}", field="reasoning_effort")
        return f"Reasoning Effort: {number} (range 1-100, the higher the value, the more thorough the reasoning)\n\n"

    def _format(self, options: Mapping[str, Any]) -> str:
        return format_words(options)

    def _head(self, effort: str, messages: Sequence[Message], end: str) -> str:
        first = messages[0].content if messages and _is_system(messages[0]) else ""
        text = effort + first + end
        return SYSTEM + text if text or (messages and _is_system(messages[0])) else ""

    def _turns(self, messages: Sequence[Message], with_tools: bool, thinking: bool) -> list[str]:
        rest = messages[1:] if messages and _is_system(messages[0]) else messages
        return self._in_turn(rest, with_tools, thinking)

    def _assistant(self, message: Message, with_tools: bool, thinking: bool) -> str:
        if thinking and with_tools:
            return super()._assistant(replace(message, reasoning=message.reasoning or ""), True, True)
        return super()._assistant(message, False, thinking)


def _is_system(message: Message) -> bool:
    return message.role in ("system", "developer")


def _texts(messages: Sequence[Message], order: dict[str, int]) -> list[str]:
    results = iter(sorted((m for m in messages if m.role == "tool"), key=lambda m: order.get(m.tool_call_id or "", 0)))
    return [
        f"<tool_result>{next(results).content}</tool_result>" if message.role == "tool" else message.content
        for message in messages
    ]
