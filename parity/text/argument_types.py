"""What an argument that was written as plain text is meant to be, by the tool's schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .json_scan import strict_json

ANY = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})
STRING = frozenset({"string"})

_KINDS: tuple[tuple[type, frozenset[str]], ...] = (
    (bool, frozenset({"boolean"})),
    (int, frozenset({"integer", "number"})),
    (float, frozenset({"number"})),
    (str, STRING),
    (list, frozenset({"array"})),
    (dict, frozenset({"object"})),
    (type(None), frozenset({"null"})),
)
_WORDS = {"True": True, "False": False, "None": None}


def property_types(parameters: Mapping[str, Any], name: str) -> frozenset[str]:
    """The JSON types that an argument may have; `string` alone where the schema says nothing of it."""
    properties = parameters.get("properties")
    schema = properties.get(name) if isinstance(properties, Mapping) else None
    return _types(schema, parameters, 0) if isinstance(schema, Mapping) else STRING


def json_text(value: str, types: frozenset[str]) -> str:
    """The JSON text of an argument: what it says where that is of a type allowed, else the text as a string."""
    if types == STRING:
        return json.dumps(value, ensure_ascii=False)
    written = value.strip()
    try:
        parsed = _WORDS[written] if written in _WORDS else strict_json(written)
    except (ValueError, RecursionError):
        return json.dumps(value, ensure_ascii=False)
    allowed = types - STRING
    if isinstance(parsed, float) and parsed.is_integer() and "number" not in allowed and "integer" in allowed:
        return str(int(parsed))
    if kinds(parsed) & allowed:
        return written if written not in _WORDS else json.dumps(parsed)
    return json.dumps(value, ensure_ascii=False)


def kinds(value: Any) -> frozenset[str]:
    """The JSON types of a value."""
    return next((names for kind, names in _KINDS if isinstance(value, kind)), frozenset())


def _types(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> frozenset[str]:
    if depth > 8:
        return ANY
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named}) & ANY or ANY
    if isinstance(named, (list, tuple)):
        return frozenset(name for name in named if isinstance(name, str)) & ANY or ANY
    if isinstance(schema.get("enum"), (list, tuple)):
        return frozenset().union(*(kinds(value) for value in schema["enum"])) or ANY
    if "const" in schema:
        return kinds(schema["const"])
    if isinstance(schema.get("$ref"), str):
        return _types(_resolve(schema["$ref"], root), root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        options = schema.get(key)
        if isinstance(options, (list, tuple)) and options:
            found = [_types(option, root, depth + 1) for option in options if isinstance(option, Mapping)]
            return frozenset.intersection(*found) if key == "allOf" and found else frozenset().union(*found) or ANY
    if "properties" in schema:
        return frozenset({"object"})
    return frozenset({"array"}) if "items" in schema else ANY


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    value: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
