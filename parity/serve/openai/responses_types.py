"""The bodies of `/v1/responses`, as OpenAI's clients send and read them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from ..wire import NotSupported, Strict
from .chat_types import StructuredOutputs, TokenLogprob

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class InputText(Strict, tag="input_text"):
    """Text that was given."""

    text: str


class OutputTextIn(Strict, tag="output_text"):
    """Text that the model wrote."""

    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class RefusalIn(Strict, tag="refusal"):
    """A refusal that the model wrote."""

    refusal: str


class PlainText(Strict, tag="text"):
    """Text."""

    text: str


class SummaryText(Strict, tag="summary_text"):
    """A thought's summary."""

    text: str


class ReasoningText(Strict, tag="reasoning_text"):
    """A thought."""

    text: str


class MessageItem(Strict, tag="message"):
    """A turn."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | OutputTextIn | RefusalIn | PlainText]
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class FunctionCallItem(Strict, tag="function_call"):
    """A call that the model made."""

    call_id: str
    name: str
    arguments: str
    namespace: str | None = None
    id: str | None = None
    status: Status | None = None


class FunctionOutputItem(Strict, tag="function_call_output"):
    """What a tool answered; the call's id says which."""

    call_id: str
    output: str | list[InputText]
    name: str | None = None
    namespace: str | None = None
    id: str | None = None
    status: Status | None = None


class ReasoningItem(Strict, tag="reasoning"):
    """What the model thought."""

    id: str | None = None
    summary: list[SummaryText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: NotSupported = None
    status: Status | None = None


Item = MessageItem | FunctionCallItem | FunctionOutputItem | ReasoningItem


class FunctionTool(Strict, tag="function"):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class NamespaceTool(Strict, tag="namespace"):
    """Functions that belong together, such as those of an MCP server; each call says which namespace it is of."""

    name: str
    tools: list[FunctionTool]
    description: str | None = None


class NamedFunctionTool(Strict, tag="function"):
    """The function that must be called."""

    name: str


class TextFormatIn(Strict, tag="text"):
    """Free text."""


class JsonObjectFormatIn(Strict, tag="json_object"):
    """Any JSON object."""


class JsonSchemaFormatIn(Strict, tag="json_schema"):
    """JSON that is valid against a schema."""

    schema: dict[str, Any]
    name: str | None = None
    strict: bool | None = None
    description: str | None = None


class TextConfig(Strict):
    """The form of the answer's text."""

    format: TextFormatIn | JsonObjectFormatIn | JsonSchemaFormatIn | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Strict):
    """How hard to think. Thoughts are given whole, so that no summary is made."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: NotSupported = None


class ResponseStreamOptions(Strict):
    """There is nothing to choose."""

    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(Strict):
    """What is to be answered, alone or after a stored response."""

    model: str
    input: str | list[Item]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[FunctionTool | NamespaceTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunctionTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: int | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tool_calls: NotSupported = None
    conversation: NotSupported = None
    prompt: NotSupported = None
    context_management: NotSupported = None
    moderation: NotSupported = None
    prompt_cache_retention: NotSupported = None
    prompt_cache_options: NotSupported = None

    # Metadata: accepted, and of no effect on the answer. Only `metadata` is kept, with a stored response.
    metadata: dict[str, str] | None = None
    client_metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class InputTokensRequest(ResponsesRequest, kw_only=True):
    """A request whose prompt tokens are to be counted."""

    input: str | list[Item] = ""


class InputTokens(msgspec.Struct):
    """The tokens of a prompt."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


class OutputText(msgspec.Struct, tag="output_text"):
    """Text of the answer."""

    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []


class MessageOutItem(msgspec.Struct, tag="message"):
    """The answer's text."""

    id: str
    content: list[OutputText]
    status: Status
    role: Literal["assistant"] = "assistant"


class ReasoningTextOut(msgspec.Struct, tag="reasoning_text"):
    """A thought."""

    text: str


class ReasoningOutItem(msgspec.Struct, tag="reasoning"):
    """What the model thought."""

    id: str
    content: list[ReasoningTextOut]
    status: Status
    summary: list[Any] = []
    encrypted_content: None = None


class FunctionCallOutItem(msgspec.Struct, tag="function_call"):
    """A call."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: Status
    namespace: str | UnsetType = UNSET


OutItem = MessageOutItem | ReasoningOutItem | FunctionCallOutItem


class InputDetails(msgspec.Struct):
    """How many prompt tokens came from the prefix cache."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct):
    """How many tokens were thought."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct):
    """Token counts."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails
    output_tokens_details: OutputDetails


class ErrorOut(msgspec.Struct):
    """Why a response failed."""

    code: str
    message: str


class Incomplete(msgspec.Struct):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseOut(msgspec.Struct):
    """A response."""

    id: str
    created_at: int
    model: str
    status: Status
    output: list[OutItem]
    parallel_tool_calls: bool
    tool_choice: Any
    tools: list[Any]
    object: Literal["response"] = "response"
    completed_at: int | None = None
    error: ErrorOut | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] = {}
    previous_response_id: str | None = None
    reasoning: Any = None
    store: bool = True
    temperature: float | None = None
    text: Any = None
    top_p: float | None = None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None


class DeletedResponse(msgspec.Struct):
    """A stored response was deleted."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True
