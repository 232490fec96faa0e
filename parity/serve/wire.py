"""Reading bodies strictly: a field that is not implemented is refused by its name, never accepted and ignored."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from .choices import choices_at, meant_by
from .refusals import Refusal

T = TypeVar("T")

NotSupported: TypeAlias = None
"""The type of a field that the API knows and Parity does not do: null is harmless, any value is refused by name."""

_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_WHERE = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


class Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of everything that a client sends."""


async def read_body(request: Request, timeout_s: float) -> bytes:
    """The body of a POST, which must be JSON.

    Raises:
        Refusal: 415 for another content type (which also keeps other sites' forms out), 408 for a body that does not come.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise Refusal(415, f"the content type must be application/json, not {content_type or 'missing'}")
    try:
        return await asyncio.wait_for(request.body(), timeout_s)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {timeout_s:g} s") from None
    except ClientDisconnect:
        raise Refusal(400, "the client left before its body had arrived") from None


def parse(body: bytes, kind: type[T], prepare: Callable[[Any], Any] | None = None) -> T:
    """A body as `kind`; `prepare` may first bring the plain JSON into a form that `kind` describes.

    Raises:
        Refusal: 400, naming the field and what was expected of it.
    """
    try:
        plain = msgspec.json.decode(body)
        return msgspec.convert(prepare(plain) if prepare else plain, kind)
    except msgspec.ValidationError as error:
        raise explain(str(error), kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply", code="invalid_json") from None


def explain(text: str, kind: Any) -> Refusal:
    """A validation error in the words of the API: which field of `kind`, and what about it."""
    where = _WHERE.search(text)
    path = where.group(1) if where and where.group(1) != "[...]" else ""  # "somewhere": the plain JSON itself is at fault
    what = text[: where.start()] if where else text
    if unknown := _UNKNOWN.fullmatch(what):
        name = ".".join(filter(None, (path, unknown.group(1))))
        meant = meant_by(kind, path, unknown.group(1))
        hint = f"; did you mean {meant}?" if meant else ""
        return Refusal(400, f"{name} is not a field that is supported here{hint}", name, "unsupported_field")
    if missing := _MISSING.fullmatch(what):
        name = ".".join(filter(None, (path, missing.group(1))))
        return Refusal(400, f"{name} is required", name, "missing_field")
    if what.startswith("Expected `null`"):
        return Refusal(400, f"{path} is not supported", path, "unsupported_field")
    if what.startswith(("Invalid value", "Invalid enum value")) and path.rsplit(".")[-1] in ("type", "role"):
        value = what.removeprefix("Invalid ").removeprefix("enum ").removeprefix("value ")
        return Refusal(400, f"{path}: {value} is not supported", path, "unsupported_value")
    what = what[:1].lower() + what[1:].replace("`", "")
    if what.startswith("invalid enum value") and (choices := choices_at(kind, path)):
        value = what.removeprefix("invalid enum value ")
        value = value.lower() if value in ("True", "False") else value
        what = f"{value} is not {'one of ' if len(choices) > 1 else 'supported, only '}{', '.join(choices)}"
    return Refusal(400, f"{path}: {what}" if path else what, path or None)


def json_response(value: Any, status: int = 200) -> Response:
    """A value of wire types as a JSON answer."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")
