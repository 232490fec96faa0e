"""Whether a tool call's arguments fit the tool's JSON schema, for the keywords that tools use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}


def fault(arguments: str, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with arguments as the model wrote them; None when nothing is.

    Checks `type`, `enum`, `required`, `properties`, `additionalProperties: false` and `items`; other keywords are not read.
    """
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return "the arguments are not JSON"
    if not isinstance(value, dict):
        return "the arguments are not a JSON object"
    return _fault(value, schema, "the arguments", depth=0)


def _fault(value: Any, schema: Mapping[str, Any], where: str, depth: int) -> str | None:
    if depth > 32:
        return None
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{where} should be {' or '.join(kinds)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} should be one of {schema['enum']}"
    inner = _inside_object(value, schema, where, depth) if isinstance(value, dict) else None
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        faults = (_fault(item, schema["items"], f"{where}[{i}]", depth + 1) for i, item in enumerate(value))
        inner = next((found for found in faults if found), None)
    return inner


def _inside_object(value: dict[str, Any], schema: Mapping[str, Any], where: str, depth: int) -> str | None:
    properties = schema.get("properties") or {}
    missing = next((name for name in schema.get("required") or () if name not in value), None)
    if missing is not None:
        return f"{where} lack {missing!r}"
    for name, item in value.items():
        if name in properties:
            found = _fault(item, properties[name], f"{where}.{name}", depth + 1)
            if found:
                return found
        elif schema.get("additionalProperties") is False:
            return f"{where} have the unknown {name!r}"
    return None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))
