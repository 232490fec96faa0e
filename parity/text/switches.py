"""Thinking on or off, and how hard: one meaning under the several names that the families gave it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

THINKING = ("enable_thinking", "thinking")
EFFORT = ("reasoning_effort", "thinking_effort")


def thinking_of(options: Mapping[str, Any]) -> bool | None:
    """Whether thinking was asked for; None if nothing was said. An effort of `none` turns it off."""
    for name in THINKING:
        if options.get(name) is not None:
            return bool(options[name])
    return False if effort_of(options) == "none" else None


def effort_of(options: Mapping[str, Any]) -> Any:
    """The effort asked for, if any."""
    return next((options[name] for name in EFFORT if options.get(name) is not None), None)


def aliased(options: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The options, with the switches also under the names that a template reads; options that are None are left out."""
    given = {name: value for name, value in options.items() if value is not None}
    meanings: list[tuple[tuple[str, ...], Any]] = [(THINKING, thinking_of(given)), (EFFORT, effort_of(given))]
    for names, value in meanings:
        if value is not None and value != "none":
            given |= {name: value for name in names if name in known and name not in given}
    return given
