"""DeepSeek V3.2, after the encoder that is published with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parity.core.chat import Message, Tool
from parity.core.errors import RequestError

from ..dialects.dsml import DSML_V32
from ..switches import FORMAT, THINKING, thinking_of
from .deepseek import ASSISTANT, BOS, EOS, THINK, THINK_END, USER, format_words, schema_lines, written_calls

_TOOLS = """## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<｜DSML｜function_calls>" block like the following as part of your reply to the user:
<｜DSML｜function_calls>
<｜DSML｜invoke name="$FUNCTION_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$FUNCTION_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use \
JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types \
(numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. \
Here is an example:

<｜DSML｜function_calls>
...
</｜DSML｜function_calls>

<function_results>
...
</function_results>

<think>...thinking about results</think>

Here are the functions available in JSONSchema format:
<functions>
{schemas}
</functions>
"""


class DeepSeekV32Encoding:
    """Thinking is kept only behind the last message of the user.

    Options: `thinking` (or `enable_thinking`), off unless asked for; `response_format`.
    """

    variables = frozenset((*THINKING, FORMAT))

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, add_generation_prompt: bool = True, **options: Any
    ) -> str:
        """See `Template.render`."""
        thinking = thinking_of(options) is True
        conversation = list(messages)
        declared = f"\n\n{_TOOLS.format(schemas=schema_lines(list(tools)))}" if tools else ""
        if head := declared + format_words(options):
            if not conversation or conversation[0].role != "system":
                conversation.insert(0, Message("system"))
            conversation[0] = Message("system", conversation[0].content + head)
        last_user = max((i for i, message in enumerate(conversation) if message.role in ("user", "developer")), default=-1)
        parts = [_message(conversation, index, last_user, thinking) for index in range(len(conversation))]
        text = BOS + "".join(parts)
        opening = ASSISTANT + (THINK if thinking else THINK_END)
        return text if add_generation_prompt else text.removesuffix(opening)


def _message(messages: Sequence[Message], index: int, last_user: int, thinking: bool) -> str:
    message = messages[index]
    if message.role == "system":
        return message.content
    if message.role in ("user", "developer"):
        content = f"\n\n# The user's message is: {message.content}" if message.role == "developer" else message.content
        return f"{USER}{content}{ASSISTANT}" + (THINK if thinking and index == last_user else THINK_END)
    if message.role == "tool":
        return _result(messages, index, last_user, thinking)
    thought = f"{message.reasoning or ''}{THINK_END}" if thinking and index > last_user else ""
    return f"{thought}{message.content}{written_calls(DSML_V32, message)}{EOS}"


def _result(messages: Sequence[Message], index: int, last_user: int, thinking: bool) -> str:
    caller = index - 1
    while caller >= 0 and messages[caller].role == "tool":
        caller -= 1
    number = index - caller
    expected = len(messages[caller].tool_calls) if caller >= 0 else 0
    if number > expected:
        raise RequestError("a tool's result answers no call of the assistant's message before it", field="messages")
    text = ("\n\n<function_results>" if number == 1 else "") + f"\n<result>{messages[index].content}</result>"
    if number < expected:
        return text
    return f"{text}\n</function_results>\n\n" + (THINK if thinking and index >= last_user else THINK_END)
