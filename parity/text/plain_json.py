"""JSON values as the dicts and lists that `json` and templates know, whatever mappings and sequences they came as."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from parity.core.errors import RequestError

MAX_DEPTH = 100
"""Levels of nesting, far above what schemas and arguments have and far below what exhausts the stack."""


def plain_json(value: Any, text: Callable[[str], str] = str, depth: int = 0) -> Any:
    """The value in dicts and lists; `text` changes every string, keys among them.

    Raises:
        RequestError: it is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise RequestError(f"a tool's parameters, or a schema, are nested more than {MAX_DEPTH} levels deep", field="tools")
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return {text(str(key)): plain_json(inner, text, depth + 1) for key, inner in value.items()}
    return [plain_json(inner, text, depth + 1) for inner in value] if isinstance(value, (list, tuple)) else value
