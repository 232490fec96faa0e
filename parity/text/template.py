"""Chat templates: a conversation as the text that a model was trained to continue."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from typing import Any, Protocol

import jinja2
from jinja2 import meta

from parity.core.chat import Message, Tool
from parity.core.errors import FormatError, RequestError

from .plain_json import plain_json
from .sandbox import MAX_CHARACTERS, Limits, Sandbox, budget
from .switches import aliased

_LOG = logging.getLogger(__name__)
_PROBE_LIMITS = Limits(steps=10_000, seconds=1.0)


class Template(Protocol):
    """Renders conversations; a Jinja source or an encoding that we wrote out."""

    @property
    def variables(self) -> Collection[str]:
        """The names that it reads, options among them."""

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, add_generation_prompt: bool = True, **options: Any
    ) -> str:
        """The prompt as text.

        Args:
            messages: the conversation so far.
            tools: what the model may call.
            add_generation_prompt: end with the opening of the assistant's turn.
            options: the template's own, such as `enable_thinking` or `reasoning_effort`; None means not given.

        Raises:
            RequestError: the template refuses the conversation; the text has its words.
        """


class NoTemplate:
    """Stands for the template of a model that has none: plain prompts and embeddings are served, conversations are refused.

    Args:
        model_type: the architecture, for the refusal.
    """

    variables: Collection[str] = frozenset()

    def __init__(self, model_type: str | None) -> None:
        self.refusal = (
            f"the model ({model_type or 'of unknown architecture'}) ships no chat template; give one with --chat-template, "
            "or send a plain prompt"
        )

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, add_generation_prompt: bool = True, **options: Any
    ) -> str:
        """Refuses; see `Template.render`."""
        raise RequestError(self.refusal, field="messages")


class ChatTemplate:
    """A Jinja template as published with a model.

    Args:
        source: the Jinja text.
        named: texts it may ask for, such as `bos_token` and `eos_token`.
        now: the clock of `strftime_now`.
        limits: what a rendering may use before it is stopped.
        sort_tools: give tools with all keys in order, as the tokenizers of the Kimi models do.

    Raises:
        FormatError: the source is not Jinja.
    """

    def __init__(
        self,
        source: str,
        named: Mapping[str, str] | None = None,
        *,
        now: Callable[[], datetime] = datetime.now,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        sort_tools: bool = False,
    ) -> None:
        self._sort_tools = sort_tools
        self._limits = limits
        self.source = source
        self._named = dict(named or {})
        environment = Sandbox()
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        try:
            self._template = environment.from_string(source)
            self.variables = frozenset(meta.find_undeclared_variables(environment.parse(source)))
        except jinja2.TemplateSyntaxError as error:
            raise FormatError(f"the chat template is not valid Jinja: {error.message}, line {error.lineno}") from None
        except RecursionError:
            raise FormatError("the chat template is nested too deeply") from None

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, add_generation_prompt: bool = True, **options: Any
    ) -> str:
        """See `Template.render`."""
        plain = [message_dict(message, objects=self.takes_objects) for message in messages]
        described = [tool_dict(tool) for tool in tools]
        if self._sort_tools:
            described = json.loads(json.dumps(described, sort_keys=True))
        if "developer" not in self.source:
            plain = [{**message, "role": "system"} if message["role"] == "developer" else message for message in plain]
        if any(message["role"] == "system" for message in plain[1:]) and not self.takes_later_instructions:
            plain = _instructions_first(plain)
        return self._render(plain, described, add_generation_prompt, options, self._limits)

    @cached_property
    def takes_objects(self) -> bool:
        """Whether it wants the arguments of earlier tool calls as objects, not as JSON text: found out by trying."""
        call = {"id": "call", "type": "function", "function": {"name": "tool", "arguments": {"needle": "hay"}}}
        probe: list[dict[str, Any]] = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "b", "tool_call_id": "call", "name": "tool"},
        ]
        try:
            text = self._render(probe, [], False, {}, _PROBE_LIMITS)
        except RequestError:
            return False
        return "needle" in text and "'needle'" not in text

    @cached_property
    def takes_later_instructions(self) -> bool:
        """Whether the system may speak again after the beginning, as agents have it do: found out by trying."""
        turns = (("system", "a"), ("user", "b"), ("system", "needle"), ("user", "c"))
        try:
            text = self._render([{"role": role, "content": said} for role, said in turns], [], True, {}, _PROBE_LIMITS)
            taken = "needle" in text.lower()
        except RequestError:
            taken = False
        if not taken:
            _LOG.warning("the chat template takes instructions at the beginning only: later ones are said as the user's")
        return taken

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        add_generation_prompt: bool,
        options: Mapping[str, Any],
        limits: Limits,
    ) -> str:
        context = {
            **self._named,
            **aliased(options, self.variables),
            "messages": messages,
            "tools": tools or None,
            "documents": options.get("documents"),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            with budget(limits):
                return self._collect(context)
        except jinja2.TemplateRuntimeError as error:
            raise RequestError(f"the chat template refuses the conversation: {error.message}", field="messages") from None
        except jinja2.TemplateError as error:
            raise RequestError(str(error.message), field="messages") from None
        except Exception as error:  # whatever a stranger's program does with what it is given
            words = str(error) or type(error).__name__
            raise RequestError(f"the chat template cannot render the conversation: {words}", field="messages") from None

    def _collect(self, context: dict[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        for part in self._template.generate(context):
            size += len(part)
            if size > MAX_CHARACTERS:
                raise jinja2.TemplateRuntimeError("the template builds too long a text")
            parts.append(part)
        return "".join(parts)


def message_dict(message: Message, *, objects: bool) -> dict[str, Any]:
    """A message as templates know it; keys that do not apply are absent, as templates test for them."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        plain["reasoning_content"] = message.reasoning
    if message.tool_calls:
        plain["content"] = message.content or None
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments) if objects else call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        plain["name"] = message.name
    return plain


def _instructions_first(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Instructions as one turn at the beginning; those after it as the user's, in their place, so that no prefix changes."""
    first = list(takewhile(lambda message: message["role"] == "system", messages))
    joined = [{**first[0], "content": "\n\n".join(message["content"] for message in first)}] if first else []
    rest = messages[len(first) :]
    return joined + [{**message, "role": "user"} if message["role"] == "system" else message for message in rest]


def tool_dict(tool: Tool) -> dict[str, Any]:
    """A tool as templates know it, in OpenAI's shape."""
    function = {"name": tool.name, "description": tool.description, "parameters": plain_json(tool.parameters)}
    return {"type": "function", "function": function}


def _arguments(text: str) -> Any:
    """The object that a call's arguments are; the text itself where a model wrote something else."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own filter escapes for HTML, which prompts are not."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Refusal(jinja2.TemplateError):
    """What a template raises on purpose."""


def _raise(message: str) -> None:
    raise _Refusal(str(message))
