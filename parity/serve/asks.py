"""What every wire format boils down to: a conversation or a text, how to answer it, and in which form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..core.chat import Message, Tool
from ..core.errors import RequestError
from ..core.request import SamplingParams
from ..text.switches import check_options

_TOOL_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
"""The schema of a JSON object whatever it holds."""


@dataclass(frozen=True, slots=True)
class JsonForm:
    """The answer is JSON, valid against `schema`."""

    schema: Mapping[str, Any]
    field: str = "response_format"


@dataclass(frozen=True, slots=True)
class RegexForm:
    """The answer matches a regular expression from end to end."""

    pattern: str
    field: str = "structured_outputs.regex"


@dataclass(frozen=True, slots=True)
class LarkForm:
    """The answer is in the language of a grammar."""

    text: str
    field: str = "structured_outputs.grammar"


Form: TypeAlias = JsonForm | RegexForm | LarkForm


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """Whether tools may or must be called. `required` asks for at least one call; `name` allows that tool alone."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class ChatAsk:
    """A conversation to be continued.

    Args:
        messages: the turns so far.
        tools: what the model may call.
        policy: whether it may or must.
        params: how tokens are chosen.
        form: the form of the answer's text, where it is not a call.
        template: variables for the chat template.
        chat_template: a template of the request's own, in Jinja.
        thinking_budget: tokens of thought after which the model is made to answer.
        continue_last: go on with the last message rather than begin a new one.
        cache: whether the prefix cache may be used.
        told: the names of tools that a turn declares, since a search found them there, and not the beginning of the prompt.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    policy: ToolPolicy = ToolPolicy()
    params: SamplingParams = field(default_factory=SamplingParams)
    form: Form | None = None
    template: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    thinking_budget: int | None = None
    continue_last: bool = False
    cache: bool = True
    told: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.messages:
            raise RequestError("messages must hold at least one message", field="messages")
        check_options(self.template)
        names = [tool.name for tool in self.tools]
        for name in names:
            if not _TOOL_NAME.fullmatch(name):
                raise RequestError(f"the tool name {name!r} may only hold letters, digits and _ . : / -", field="tools")
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise RequestError(f"two tools have the same name, {twice!r}", field="tools")
        if self.policy.name is not None and self.policy.name not in names:
            raise RequestError(f"tool_choice names {self.policy.name!r}, which is not among the tools", field="tool_choice")
        if self.policy.mode == "required" and not names:
            raise RequestError("tool_choice asks for a call and there are no tools", field="tool_choice")

    @property
    def usable_tools(self) -> tuple[Tool, ...]:
        """The tools that this answer may call."""
        if self.policy.mode == "none":
            return ()
        return tuple(tool for tool in self.tools if self.policy.name in (None, tool.name))


@dataclass(frozen=True, slots=True)
class TextAsk:
    """A text or tokens to be continued as they are; with a `suffix`, what stands between the two texts is asked for."""

    prompt: str | tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    form: Form | None = None
    add_special_tokens: bool = True
    cache: bool = True
    suffix: str | None = None

    def __post_init__(self) -> None:
        if self.suffix is not None and not isinstance(self.prompt, str):
            raise RequestError("suffix needs a prompt that is a text, not token ids", field="suffix")
