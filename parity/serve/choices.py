"""The values that a field of a request may have, for the error that says that it has none of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

_STEP = re.compile(r"\.?([^.\[\]]+)|\[[^\]]*\]")


def choices_at(kind: Any, path: str) -> list[str]:
    """What a type allows at a path such as `output_config.effort` or `input[0].role`; empty if that is no choice of values."""
    types = [msgspec.inspect.type_info(kind)]
    for step in _STEP.finditer(path):
        types = [inner for one in types for inner in _within(one, step.group(1))]
    parts = [part for one in types for part in _parts(one) if isinstance(part, msgspec.inspect.LiteralType)]
    return [str(value) for part in parts for value in part.values]


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
