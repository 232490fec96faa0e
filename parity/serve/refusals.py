"""What a client is told when it does not get an answer, in the shape of the API that it speaks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from ..core.errors import ContextExceeded, EngineError, Overloaded, ParityError, RequestError, Unsupported
from ..core.request import Finish

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Refusal(Exception):
    """An HTTP error.

    Args:
        status: the HTTP status.
        message: what was wrong and what to do.
        field: the field of the request that caused it.
        code: a word for programs.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        field: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.code = code
        self.headers = dict(headers or {})


class OpenAIErrorBody(msgspec.Struct, rename={"type_": "type"}):
    """What was wrong."""

    message: str
    type_: str
    param: str | None = None
    code: str | None = None


class OpenAIError(msgspec.Struct):
    """An error as OpenAI's API has it."""

    error: OpenAIErrorBody


class AnthropicErrorBody(msgspec.Struct, rename={"type_": "type"}):
    """What was wrong."""

    type_: str
    message: str


class AnthropicError(msgspec.Struct, tag="error"):
    """An error as Anthropic's API has it."""

    error: AnthropicErrorBody
    request_id: str | None = None


def refusal_of(error: BaseException) -> Refusal:
    """The refusal that an exception means. Texts of unforeseen exceptions stay on the server."""
    match error:
        case Refusal():
            return error
        case ContextExceeded():
            return Refusal(400, str(error), error.field, "context_length_exceeded")
        case RequestError():
            return Refusal(400, str(error), error.field)
        case Unsupported():
            return Refusal(400, str(error), code="unsupported")
        case Overloaded():
            return overloaded(str(error), error.retry_after_s)
        case EngineError():
            return Refusal(500, f"the engine failed: {error}", code="engine_error")
        case ParityError():
            return Refusal(500, str(error))
        case _:
            return Refusal(500, "something went wrong in the server; its log has the details", code="internal_error")


def refusal_of_finish(finish: Finish) -> Refusal | None:
    """The refusal that an end means, or None for an end with an answer."""
    match finish.reason:
        case "timeout":
            return Refusal(504, finish.message or "the request did not finish within its deadline", code="timeout")
        case "error":
            return Refusal(500, finish.message or "the engine failed and gave no reason", code="engine_error")
        case "abort":
            text = finish.message or "the request was ended by the server, which is stopping"
            return Refusal(503, text, code="aborted", headers={"Retry-After": "5"})
        case _:
            return None


def overloaded(message: str, retry_after_s: float = 1.0) -> Refusal:
    """A 429 that says when to try again."""
    return Refusal(429, message, code="overloaded", headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})


def speaks_anthropic(path: str) -> bool:
    """Whether a path belongs to Anthropic's API."""
    return path.startswith("/v1/messages")


def error_body(refusal: Refusal, path: str, request_id: str | None = None) -> OpenAIError | AnthropicError:
    """The body that says what was wrong, in the shape of the API at `path`."""
    if speaks_anthropic(path):
        kind = _ANTHROPIC_TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "api_error")
        named = refusal.field is None or refusal.message.startswith(refusal.field)
        text = refusal.message if named else f"{refusal.field}: {refusal.message}"
        return AnthropicError(AnthropicErrorBody(kind, text), request_id)
    kind = _OPENAI_TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    return OpenAIError(OpenAIErrorBody(refusal.message, kind, refusal.field, refusal.code))


def error_response(refusal: Refusal, path: str, request_id: str | None = None) -> Response:
    """The whole HTTP answer of a refusal."""
    body = msgspec.json.encode(error_body(refusal, path, request_id))
    return Response(body, refusal.status, refusal.headers, "application/json")
