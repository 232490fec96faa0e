"""Thinking on or off, and how hard: one meaning under the several names that the families gave it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from parity.core.errors import RequestError

THINKING = ("enable_thinking", "thinking")
EFFORT = ("reasoning_effort", "thinking_effort")
FORMAT = "response_format"
_OWN = ("self", "messages", "tools", "add_generation_prompt")


def check_options(options: Mapping[str, Any], *more: str) -> None:
    """Refuses options that stand for a part of the conversation or are named in `more`, and a switch that is none.

    Raises:
        RequestError: naming it.
    """
    thinking_of(options)
    if wrong := next((name for name in (*_OWN, *more) if name in options), None):
        raise RequestError(f"{wrong} is not an option of a chat template: the conversation gives it", field=wrong)


def thinking_of(options: Mapping[str, Any]) -> bool | None:
    """Whether thinking was asked for; None if nothing was said. An effort of `none` turns it off.

    Raises:
        RequestError: the switch is neither true nor false.
    """
    for name in THINKING:
        value = options.get(name)
        if value is not None and not isinstance(value, bool):
            raise RequestError(f"{name} must be true or false, not {value!r}", field=name)
        if value is not None:
            return value
    return False if effort_of(options) == "none" else None


def effort_of(options: Mapping[str, Any]) -> Any:
    """The effort asked for, if any."""
    return next((options[name] for name in EFFORT if options.get(name) is not None), None)


def schema_of(options: Mapping[str, Any]) -> Any:
    """The JSON Schema that the answer is held to, `{"type": "json_object"}` where any object will do; None if it is free.

    Raises:
        RequestError: `response_format` is not as OpenAI's API has it.
    """
    form = options.get(FORMAT)
    if form is None or form == {"type": "text"}:
        return None
    if form == {"type": "json_object"}:
        return form
    try:
        return {"json_schema": form["json_schema"]["schema"]}[form["type"]]
    except (KeyError, TypeError):
        raise RequestError(f"{FORMAT} is neither text, json_object nor json_schema with a schema", field=FORMAT) from None


def level_of(effort: Any, levels: Mapping[str, str], default: str) -> str:
    """The level of a model that an effort means; `default` where none was asked for.

    Raises:
        RequestError: the model has no such level.
    """
    if effort is None or effort == "none":
        return default
    if not isinstance(effort, str) or effort not in levels:
        raise RequestError(f"reasoning_effort must be one of {', '.join(levels)}, not {effort!r}", field="reasoning_effort")
    return levels[effort]


def aliased(options: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The options, with the switches also under the names that a template reads; options that are None are left out."""
    given = {name: value for name, value in options.items() if value is not None}
    meanings: list[tuple[tuple[str, ...], Any]] = [(THINKING, thinking_of(given)), (EFFORT, effort_of(given))]
    for names, value in meanings:
        if value is not None and value != "none":
            given |= {name: value for name in names if name in known and name not in given}
    return given


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Options over options, the later ones first: a switch replaces the same one under its other name too."""
    result: dict[str, Any] = {}
    for layer in layers:
        for names in (THINKING, EFFORT):
            if any(layer.get(name) is not None for name in names):
                result = {name: value for name, value in result.items() if name not in names}
        result |= layer
    return result


def unheeded(options: Mapping[str, Any], known: Collection[str], *, thinks: bool) -> Iterator[str]:
    """What was asked of a model that it cannot do, in words.

    Args:
        known: the options that its template reads.
        thinks: whether its answers may hold a thought.
    """
    wanted = thinking_of(options)
    if wanted and not thinks:
        yield "thinking was switched on, and the model does not think: it answers at once"
    elif wanted is not None and thinks and not _reads(known, THINKING):
        state = "on" if wanted else "off"
        yield f"thinking was switched {state}, and the model's chat template has no such switch: nothing changes"
    if effort_of(options) not in (None, "none") and not _reads(known, EFFORT):
        yield "a reasoning effort was asked for, and the model's chat template knows no levels: the effort is left out"


def _reads(known: Collection[str], names: tuple[str, ...]) -> bool:
    return any(name in known for name in names)
