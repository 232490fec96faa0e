"""The bodies of `/v1/messages`, as Anthropic's clients send and read them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..wire import NotSupported, Strict

CacheControl = dict[str, Any]
"""Marks for prompt caching: accepted everywhere and not needed, since every prompt is cached by its prefix."""


class TextBlock(Strict, tag="text"):
    """Text."""

    text: str
    cache_control: CacheControl | None = None
    citations: list[NotSupported] | None = None


class ThinkingBlock(Strict, tag="thinking"):
    """What the model thought. The signature is not checked: a thought is only text to the model."""

    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Strict, tag="redacted_thinking"):
    """A thought that Anthropic's service encrypted: nobody else can read it, so that it is left out, as a thought may be."""

    data: str


class ToolUseBlock(Strict, tag="tool_use"):
    """A call that the model made."""

    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: dict[str, Any] | None = None


class ToolReferenceBlock(Strict, tag="tool_reference"):
    """A tool that a search found: from here on the model knows it and may call it."""

    tool_name: str
    cache_control: CacheControl | None = None


class ToolResultBlock(Strict, tag="tool_result"):
    """What a tool answered."""

    tool_use_id: str
    content: str | list[TextBlock | ToolReferenceBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Block = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock


class MessageIn(Strict):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ToolIn(Strict):
    """A tool of the client's own; `input_schema` is a JSON schema. A deferred one waits for a result that refers to it."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    input_examples: NotSupported = None


class AutoChoice(Strict, tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool | None = None


class AnyChoice(Strict, tag="any"):
    """Some tool must be called."""

    disable_parallel_tool_use: bool | None = None


class ToolChoice(Strict, tag="tool"):
    """This tool must be called."""

    name: str
    disable_parallel_tool_use: bool | None = None


class NoChoice(Strict, tag="none"):
    """No tool may be called."""


Display = Literal["summarized", "omitted", "updates"]
"""How thoughts are shown: not at all, or else whole, since nobody here sums them up or tells of them."""


class ThinkingEnabled(Strict, tag="enabled"):
    """Think first, for at most `budget_tokens`."""

    budget_tokens: int
    display: Display | None = None


class ThinkingAdaptive(Strict, tag="adaptive"):
    """Think as long as it takes."""

    display: Display | None = None


class ThinkingDisabled(Strict, tag="disabled"):
    """Answer at once, if the model can."""


class JsonFormat(Strict, tag="json_schema"):
    """JSON that is valid against a schema."""

    schema: dict[str, Any]


class OutputConfig(Strict):
    """How hard to think, and the form of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class ClearThinking(Strict, tag="clear_thinking_20251015"):
    """Which old thoughts stay in the prompt: the model's own chat template decides that."""

    keep: Any = None


class ContextManagement(Strict):
    """Edits of the context; only those that the chat template makes anyway."""

    edits: list[ClearThinking] | None = None


class Metadata(Strict):
    """Accepted, and of no effect. Nothing of it is kept."""

    user_id: str | None = None


class CountRequest(Strict):
    """A conversation whose prompt tokens are to be counted."""

    model: str
    messages: list[MessageIn]
    system: str | list[TextBlock] | None = None
    tools: list[ToolIn] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | None = None
    output_config: OutputConfig | None = None
    context_management: ContextManagement | None = None
    cache_control: CacheControl | None = None
    mcp_servers: NotSupported = None
    speed: Literal["standard"] | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """A conversation to be continued."""

    max_tokens: int
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    container: NotSupported = None
    diagnostics: NotSupported = None
    inference_geo: NotSupported = None


class UsageOut(msgspec.Struct):
    """Token counts; `input_tokens` are those that were not in the prefix cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class TextOut(msgspec.Struct, tag="text"):
    """Text, without `citations`: Vercel's client refuses null there, and nothing is cited here."""

    text: str


class ThinkingOut(msgspec.Struct, tag="thinking"):
    """What the model thought."""

    thinking: str
    signature: str


class ToolUseOut(msgspec.Struct, tag="tool_use"):
    """A call."""

    id: str
    name: str
    input: dict[str, Any]


BlockOut = TextOut | ThinkingOut | ToolUseOut
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessageOut(msgspec.Struct, tag="message"):
    """The answer."""

    id: str
    model: str
    content: list[BlockOut]
    usage: UsageOut
    role: Literal["assistant"] = "assistant"
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None


class TokenCount(msgspec.Struct):
    """The tokens of a prompt."""

    input_tokens: int


class MessageStart(msgspec.Struct, tag="message_start"):
    """The first event."""

    message: MessageOut


class BlockStart(msgspec.Struct, tag="content_block_start"):
    """A block begins."""

    index: int
    content_block: BlockOut


class TextDeltaOut(msgspec.Struct, tag="text_delta"):
    """More text."""

    text: str


class ThinkingDeltaOut(msgspec.Struct, tag="thinking_delta"):
    """More thought."""

    thinking: str


class SignatureDeltaOut(msgspec.Struct, tag="signature_delta"):
    """A thought's signature."""

    signature: str


class InputDeltaOut(msgspec.Struct, tag="input_json_delta"):
    """More of a call's input, as JSON text."""

    partial_json: str


class BlockDelta(msgspec.Struct, tag="content_block_delta"):
    """More of a block."""

    index: int
    delta: TextDeltaOut | ThinkingDeltaOut | SignatureDeltaOut | InputDeltaOut


class BlockStop(msgspec.Struct, tag="content_block_stop"):
    """A block is complete."""

    index: int


class MessageDeltaBody(msgspec.Struct):
    """How the answer ended."""

    stop_reason: StopReason
    stop_sequence: str | None = None


class MessageDelta(msgspec.Struct, tag="message_delta"):
    """The end of the answer, and its counts."""

    delta: MessageDeltaBody
    usage: UsageOut


class MessageStop(msgspec.Struct, tag="message_stop"):
    """The last event."""


class Ping(msgspec.Struct, tag="ping"):
    """Nothing yet."""


StreamEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping
