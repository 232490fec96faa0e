"""Flags that fill in a value's fields. Each is said once: its spellings, its help, and the field that it becomes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Parser = argparse.ArgumentParser | argparse._ArgumentGroup


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of the command line that stands for a field.

    Args:
        field: the name that the value goes by, in the parsed arguments and in what they become.
        spellings: such as `--page-size` and its aliases; the first is the one that documents name.
        options: for argparse.
        become: brings the parsed value into the form that the field has.
    """

    field: str
    spellings: tuple[str, ...]
    options: Mapping[str, Any]
    become: Callable[[Any], Any] | None = None


def flag(field: str, *spellings: str, become: Callable[[Any], Any] | None = None, **options: Any) -> Flag:
    """A flag; without spellings it is spelled as its field, with dashes. What is not given is None."""
    return Flag(field, spellings or ("--" + field.replace("_", "-"),), {"default": None, **options}, become)


def add_flags(parser: Parser, flags: Sequence[Flag]) -> None:
    """Lets a parser, or a group of one, take flags."""
    for each in flags:
        parser.add_argument(*each.spellings, dest=each.field, **each.options)


def given(arguments: argparse.Namespace, flags: Sequence[Flag]) -> dict[str, Any]:
    """The fields whose flags were given, with their values."""
    values = ((each, getattr(arguments, each.field)) for each in flags)
    return {each.field: each.become(value) if each.become else value for each, value in values if value is not None}


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def positive_seconds(text: str) -> float:
    """A time above 0."""
    if (time_s := _seconds(text)) is None or time_s == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return time_s


def seconds(text: str) -> float:
    """A time, which may be 0."""
    if (time_s := _seconds(text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of at least 0")
    return time_s


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return number


def _seconds(text: str) -> float | None:
    try:
        time_s = float(text)
    except ValueError:
        return None
    return time_s if 0 <= time_s < float("inf") else None


def json_object(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value
