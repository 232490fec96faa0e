"""From OpenAI's request types to asks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ...core.chat import Message, Tool, ToolCall
from ...core.errors import RequestError
from ...core.request import SamplingParams, bias_of
from ...text.switches import layered
from ..asks import ANY_OBJECT, ChatAsk, Form, JsonForm, LarkForm, RegexForm, ToolPolicy
from ..desk import Desk
from .chat_types import (
    AssistantMessage,
    ChatMessage,
    ChatRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedTool,
    Sampling,
    StructuredOutputs,
    TextPart,
    ToolMessage,
    ToolSpec,
)


def chat_ask(body: ChatRequest, desk: Desk) -> ChatAsk:
    """The ask of a chat request.

    Raises:
        RequestError: a value is out of range, or fields contradict each other.
    """
    template = layered(
        dict(desk.settings.default_template),
        thinking(body.reasoning_effort),
        {} if body.enable_thinking is None else {"enable_thinking": body.enable_thinking},
        {} if body.thinking is None else {"enable_thinking": body.thinking.type == "enabled"},
        body.chat_template_kwargs or {},
    )
    if body.chat_template is not None and not desk.settings.request_templates:
        raise RequestError(
            "chat_template is refused: a template from a request needs --trust-request-chat-template", field="chat_template"
        )
    if body.continue_final_message and body.add_generation_prompt:
        raise RequestError(
            "continue_final_message and add_generation_prompt cannot both be true", field="continue_final_message"
        )
    if body.add_generation_prompt is False and not body.continue_final_message:
        raise RequestError("add_generation_prompt may be false only with continue_final_message", field="add_generation_prompt")
    return ChatAsk(
        messages=tuple(message_of(message) for message in body.messages),
        tools=tuple(tool_of(tool) for tool in body.tools or ()),
        policy=policy_of(body),
        params=sampling(body, desk, max_tokens=first(body.max_completion_tokens, body.max_tokens), logprobs=_logprobs(body)),
        form=form_of(body),
        template=template,
        chat_template=body.chat_template,
        continue_last=bool(body.continue_final_message) or _begun(body.messages),
    )


def _begun(messages: Sequence[ChatMessage]) -> bool:
    """Whether the last message is marked as the beginning of the answer, as the services of DeepSeek and Kimi are told."""
    marked = [isinstance(message, AssistantMessage) and bool(message.prefix or message.partial) for message in messages]
    if any(marked[:-1]):
        raise RequestError("prefix and partial may stand on the last message only", field=f"messages[{marked.index(True)}]")
    return bool(marked) and marked[-1]


def sampling(body: Sampling, desk: Desk, *, max_tokens: int | None, **more: Any) -> SamplingParams:
    """The sampling parameters of a request: its own, or else the model's defaults."""
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options needs stream to be true", field="stream_options")
    return desk.params(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=None if body.logit_bias is None else bias_of(body.logit_bias),
        seed=body.seed,
        n=body.n,
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()) or None,
        stop_token_ids=tuple(body.stop_token_ids or ()) or None,
        ignore_eos=body.ignore_eos,
        **more,
    )


def first(*values: int | None) -> int | None:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def thinking(effort: str | None) -> dict[str, Any]:
    """Template variables for a reasoning effort; `none` switches thinking off."""
    if effort is None:
        return {}
    if effort == "none":
        return {"enable_thinking": False}
    return {"enable_thinking": True, "reasoning_effort": effort}


def text_of(content: str | Sequence[TextPart] | None) -> str:
    """A content as one text."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def message_of(message: ChatMessage) -> Message:
    """A turn."""
    role = message.__struct_config__.tag
    if isinstance(message, AssistantMessage):
        return Message(
            role="assistant",
            content=text_of(message.content) or message.refusal or "",
            reasoning=message.reasoning_content or message.reasoning,
            tool_calls=tuple(
                ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()
            ),
        )
    if isinstance(message, ToolMessage):
        return Message(role="tool", content=text_of(message.content), tool_call_id=message.tool_call_id, name=message.name)
    return Message(role=role, content=text_of(message.content), name=message.name)  # type: ignore[arg-type]  # tags are roles


def tool_of(tool: ToolSpec) -> Tool:
    """A tool."""
    spec = tool.function
    return Tool(spec.name, spec.description or "", spec.parameters or {}, bool(spec.strict))


def policy_of(body: ChatRequest) -> ToolPolicy:
    """Whether tools may or must be called."""
    parallel = body.parallel_tool_calls is not False
    choice = body.tool_choice
    if isinstance(choice, NamedTool):
        return ToolPolicy("required", choice.function.name, parallel=False)
    if choice is None:
        return ToolPolicy("auto" if body.tools else "none", parallel=parallel)
    return ToolPolicy(choice, parallel=parallel)


def form_of(body: ChatRequest) -> Form | None:
    """The form of the answer, from either of the two fields that may give it."""
    form: Form | None = None
    if isinstance(body.response_format, JsonObjectFormat):
        form = JsonForm(ANY_OBJECT)
    elif isinstance(body.response_format, JsonSchemaFormat):
        form = JsonForm(body.response_format.json_schema.schema)
    other = structured(body.structured_outputs)
    if form is not None and other is not None:
        raise RequestError("response_format and structured_outputs cannot both be given", field="structured_outputs")
    return form or other


def structured(given: StructuredOutputs | None) -> Form | None:
    """The form in `structured_outputs`."""
    if given is None:
        return None
    forms: list[Form] = []
    if given.json is not None:
        forms.append(JsonForm(given.json, "structured_outputs.json"))
    if given.json_object:
        forms.append(JsonForm(ANY_OBJECT, "structured_outputs.json_object"))
    if given.regex is not None:
        forms.append(RegexForm(given.regex))
    if given.choice is not None:
        if not given.choice:
            raise RequestError("structured_outputs.choice must hold at least one text", field="structured_outputs.choice")
        forms.append(RegexForm("|".join(map(re.escape, given.choice)), "structured_outputs.choice"))
    if given.grammar is not None:
        forms.append(LarkForm(given.grammar))
    if len(forms) > 1:
        raise RequestError("structured_outputs must hold one form", field="structured_outputs")
    return forms[0] if forms else None


def _logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs needs logprobs to be true", field="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None
