"""The values that a field of a request may have, and the fields that there are: for the error that says that it is none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import msgspec

_STEP = re.compile(r"\.?([^.\[\]]+)|\[[^\]]*\]")


_ELSEWHERE = {
    "guided_json": "structured_outputs.json",
    "guided_regex": "structured_outputs.regex",
    "guided_choice": "structured_outputs.choice",
    "guided_grammar": "structured_outputs.grammar",
    "repeat_penalty": "repetition_penalty",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "stop": "stop_sequences",
}
"""What fields of other servers are called here."""


def choices_at(kind: Any, path: str) -> list[str]:
    """What a type allows at a path such as `output_config.effort` or `input[0].role`; empty if that is no choice of values."""
    parts = [part for part in _parts_at(kind, path) if isinstance(part, msgspec.inspect.LiteralType)]
    values = [value if isinstance(value, str) else json.dumps(value) for part in parts for value in part.values]
    return list(dict.fromkeys(values))


def meant_by(kind: Any, path: str, name: str) -> str | None:
    """The field that someone may have meant who wrote `name` at a path of a type; None where nothing is near."""
    parts = [part for part in _parts_at(kind, path) if isinstance(part, msgspec.inspect.StructType)]
    fields = [field.encode_name for part in parts for field in part.fields if field.type != msgspec.inspect.NoneType()]
    if (meant := _ELSEWHERE.get(name)) and meant.partition(".")[0] in fields:
        return meant
    return next(iter(get_close_matches(name, fields, n=1, cutoff=0.75)), None)


def _parts_at(kind: Any, path: str) -> list[msgspec.inspect.Type]:
    types = [msgspec.inspect.type_info(kind)]
    for step in _STEP.finditer(path):
        types = [inner for one in types for inner in _within(one, step.group(1))]
    return [part for one in types for part in _parts(one)]


def _parts(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    if isinstance(kind, msgspec.inspect.UnionType):
        for one in kind.types:
            yield from _parts(one)
    else:
        yield kind


def _within(kind: msgspec.inspect.Type, name: str | None) -> Iterator[msgspec.inspect.Type]:
    """The types of a field by its name, or of the elements of a sequence if there is none."""
    for part in _parts(kind):
        if name is None and isinstance(part, (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)):
            yield part.item_type
        if name is not None and isinstance(part, msgspec.inspect.StructType):
            yield from (field.type for field in part.fields if field.encode_name == name)
