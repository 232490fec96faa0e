"""The bodies of `/v1/chat/completions`, as OpenAI's clients send and read them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from ..wire import NotSupported, Strict


class TextPart(Strict, tag="text"):
    """A part of a message's content."""

    text: str


class FunctionCall(Strict):
    """A tool's name and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCallIn(Strict, tag="function"):
    """A call that the assistant made."""

    id: str
    function: FunctionCall
    index: int | None = None


class SystemMessage(Strict, tag_field="role", tag="system"):
    """Instructions."""

    content: str | list[TextPart]
    name: str | None = None


class DeveloperMessage(Strict, tag_field="role", tag="developer"):
    """Instructions, under their newer name."""

    content: str | list[TextPart]
    name: str | None = None


class UserMessage(Strict, tag_field="role", tag="user"):
    """What the user said."""

    content: str | list[TextPart]
    name: str | None = None


class AssistantMessage(Strict, tag_field="role", tag="assistant"):
    """What the model said, thought and called; `prefix` (or `partial`) on the last message: the answer goes on with it."""

    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallIn] | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    prefix: bool | None = None
    partial: bool | None = None
    audio: NotSupported = None
    function_call: NotSupported = None


class ToolMessage(Strict, tag_field="role", tag="tool"):
    """What a tool answered."""

    content: str | list[TextPart]
    tool_call_id: str
    name: str | None = None


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class FunctionSpec(Strict):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Strict, tag="function"):
    """A tool."""

    function: FunctionSpec


class NamedFunction(Strict):
    """A tool's name."""

    name: str


class NamedTool(Strict, tag="function"):
    """The tool that must be called."""

    function: NamedFunction


class TextFormat(Strict, tag="text"):
    """Free text."""


class JsonObjectFormat(Strict, tag="json_object"):
    """Any JSON object."""


class JsonSchemaSpec(Strict, kw_only=True):
    """A JSON schema and its name."""

    name: str | None = None
    schema: dict[str, Any]
    strict: bool | None = None
    description: str | None = None


class JsonSchemaFormat(Strict, tag="json_schema"):
    """JSON that is valid against a schema."""

    json_schema: JsonSchemaSpec


class StructuredOutputs(Strict):
    """Other forms, one at a time: `json` a schema, `regex` a pattern, `grammar` in Lark, `choice` one of some texts."""

    json: dict[str, Any] | None = None
    json_object: bool | None = None
    regex: str | None = None
    grammar: str | None = None
    choice: list[str] | None = None


class StreamOptions(Strict):
    """`include_usage` adds a last chunk with the counts; `continuous_usage_stats` puts them into every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ThinkingSwitch(Strict):
    """Whether to think, as the services of DeepSeek and Kimi are told."""

    type: Literal["enabled", "disabled"]


class Sampling(Strict):
    """What chat and plain completions share. Ranges are those of `parity.SamplingParams`."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    n: int | None = None
    min_tokens: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    cache_salt: NotSupported = None

    # Metadata: accepted, and of no effect on the answer. Nothing of it is kept.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    # What other servers can be told to do otherwise, and is done here: only that is accepted.
    best_of: Literal[1] | None = None
    use_beam_search: Literal[False] | None = None
    skip_special_tokens: Literal[True] | None = None
    spaces_between_special_tokens: Literal[True] | None = None
    include_stop_str_in_output: Literal[False] | None = None
    priority: Literal[0] | None = None
    cache_prompt: Literal[True] | None = None


class ChatRequest(Sampling, kw_only=True):
    """A conversation to be continued."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    thinking: ThinkingSwitch | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    chat_template: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    verbosity: Literal["medium"] | None = None
    modalities: list[Literal["text"]] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_retention: NotSupported = None
    prompt_cache_options: NotSupported = None
    audio: NotSupported = None
    function_call: NotSupported = None
    functions: NotSupported = None
    prediction: NotSupported = None
    moderation: NotSupported = None
    web_search_options: NotSupported = None

    # Metadata, as above.
    metadata: dict[str, str] | None = None
    store: bool | None = None
    echo: Literal[False] | None = None
    add_special_tokens: Literal[False] | None = None
    include_reasoning: Literal[True] | None = None


class PromptTokensDetails(msgspec.Struct):
    """How many prompt tokens came from the prefix cache."""

    cached_tokens: int


class UsageOut(msgspec.Struct):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(msgspec.Struct):
    """A token that might have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct):
    """The token that was chosen, and the most likely ones in its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class LogprobsOut(msgspec.Struct):
    """Log-probabilities of an answer's text, token by token."""

    content: list[TokenLogprob]
    refusal: None = None


class FunctionOut(msgspec.Struct):
    """A tool's name and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCallOut(msgspec.Struct, tag="function"):
    """A call."""

    id: str
    function: FunctionOut


class MessageOut(msgspec.Struct):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallOut] | UnsetType = UNSET


class ChoiceOut(msgspec.Struct):
    """One sample."""

    index: int
    message: MessageOut
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: LogprobsOut | None = None
    stop_reason: str | int | None = None


class ChatCompletion(msgspec.Struct):
    """The answer to a chat request."""

    id: str
    created: int
    model: str
    choices: list[ChoiceOut]
    usage: UsageOut
    object: Literal["chat.completion"] = "chat.completion"
    system_fingerprint: str | None = None
    service_tier: None = None


class FunctionDelta(msgspec.Struct):
    """More of a call."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCallDeltaOut(msgspec.Struct):
    """More of a call; `id` and `type` come with its first part."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class DeltaOut(msgspec.Struct):
    """More of a message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDeltaOut] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct):
    """More of one sample."""

    index: int
    delta: DeltaOut
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    logprobs: LogprobsOut | None = None


class ChatChunk(msgspec.Struct):
    """One event of a streamed answer."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    usage: UsageOut | UnsetType | None = UNSET
