"""From `/v1/responses` requests to asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from ...core.chat import Message, ToolCall
from ...core.errors import RequestError
from ...text.switches import layered
from ..asks import ANY_OBJECT, ChatAsk, Form, JsonForm, ToolPolicy
from ..desk import Desk
from .asking import structured, thinking
from .namespaces import functions, joined
from .responses_types import (
    FunctionCallItem,
    FunctionOutputItem,
    Item,
    JsonObjectFormatIn,
    JsonSchemaFormatIn,
    MessageItem,
    NamedFunctionTool,
    ReasoningItem,
    RefusalIn,
    ResponsesRequest,
)

LOGPROBS = "message.output_text.logprobs"


def with_types(plain: Any) -> Any:
    """Messages may come without a `type`; it is put in, so that every item has one."""
    if isinstance(plain, dict) and isinstance(plain.get("input"), list):
        items = [{"type": "message", **item} if isinstance(item, dict) and "role" in item else item for item in plain["input"]]
        return {**plain, "input": items}
    return plain


def responses_ask(body: ResponsesRequest, earlier: Sequence[Message], desk: Desk) -> ChatAsk:
    """The ask of a request that goes on from `earlier` turns.

    Raises:
        RequestError: a value is out of range, or fields contradict each other.
    """
    messages = [*earlier, *turns(body.input)]
    if body.instructions:
        messages = _instructed(body.instructions, messages)
    wants_logprobs = LOGPROBS in (body.include or ())
    params = desk.params(
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()) or None,
        logprobs=(body.top_logprobs or 0) if wants_logprobs or body.top_logprobs else None,
    )
    effort = thinking(body.reasoning.effort) if body.reasoning is not None else {}
    template = layered(dict(desk.settings.default_template), effort, body.chat_template_kwargs or {})
    return ChatAsk(tuple(messages), tuple(functions(body.tools or ())), _policy(body), params, _form(body), template)


def turns(given: str | Sequence[Item]) -> list[Message]:
    """Items as turns; a thought, a text and calls that follow one another are one turn of the assistant."""
    if isinstance(given, str):
        return [Message("user", given)]
    messages: list[Message] = []
    for item in given:
        _add(messages, item)
    return messages


def _instructed(instructions: str, messages: list[Message]) -> list[Message]:
    """The turns behind instructions; those that instruct too are joined to them, since templates want one such turn."""
    texts = [message.content for message in takewhile(lambda message: message.role in ("system", "developer"), messages)]
    return [Message("system", "\n\n".join([instructions, *texts])), *messages[len(texts) :]]


def _add(messages: list[Message], item: Item) -> None:
    match item:
        case MessageItem(role="assistant"):
            _extend(messages, content=_text(item), joins=not messages or not messages[-1].tool_calls)
        case MessageItem():
            messages.append(Message(item.role, _text(item)))
        case ReasoningItem():
            thought = "\n".join(part.text for part in item.content or item.summary or ())
            messages.append(Message("assistant", reasoning=thought or None))
        case FunctionCallItem():
            _extend(messages, calls=(ToolCall(item.call_id, joined(item.namespace, item.name), item.arguments),))
        case FunctionOutputItem():
            text = item.output if isinstance(item.output, str) else "".join(part.text for part in item.output)
            messages.append(Message("tool", text, tool_call_id=item.call_id))


def _extend(messages: list[Message], content: str = "", calls: tuple[ToolCall, ...] = (), joins: bool = True) -> None:
    """Adds to the assistant's turn, or begins one."""
    if not joins or not messages or messages[-1].role != "assistant":
        messages.append(Message("assistant"))
    last = messages[-1]
    text = "\n".join(filter(None, (last.content, content)))
    messages[-1] = replace(last, content=text, tool_calls=(*last.tool_calls, *calls))


def _text(item: MessageItem) -> str:
    if isinstance(item.content, str):
        return item.content
    return "".join(part.refusal if isinstance(part, RefusalIn) else part.text for part in item.content)


def _policy(body: ResponsesRequest) -> ToolPolicy:
    parallel = body.parallel_tool_calls is not False
    if isinstance(body.tool_choice, NamedFunctionTool):
        return ToolPolicy("required", body.tool_choice.name, parallel=False)
    if body.tool_choice is None:
        return ToolPolicy("auto" if body.tools else "none", parallel=parallel)
    return ToolPolicy(body.tool_choice, parallel=parallel)


def _form(body: ResponsesRequest) -> Form | None:
    format_ = body.text.format if body.text is not None else None
    form: Form | None = None
    if isinstance(format_, JsonObjectFormatIn):
        form = JsonForm(ANY_OBJECT, "text.format")
    elif isinstance(format_, JsonSchemaFormatIn):
        form = JsonForm(format_.schema, "text.format")
    other = structured(body.structured_outputs)
    if form is not None and other is not None:
        raise RequestError("text.format and structured_outputs cannot both be given", field="structured_outputs")
    return form or other


def assistant_turn(texts: Iterable[str], thoughts: Iterable[str], calls: Iterable[ToolCall]) -> Message:
    """An answer as the turn that a later request goes on from."""
    return Message("assistant", "".join(texts), reasoning="".join(thoughts) or None, tool_calls=tuple(calls))
