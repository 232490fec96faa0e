"""The OpenAPI document, made from the very types that bodies are checked against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from .. import __version__
from .auth import OPEN_PATHS
from .refusals import AnthropicError, OpenAIError, speaks_anthropic
from .routes import ApiRoute

_REFERENCES = "#/components/schemas/{name}"
_ALWAYS = {"401": "The API key is missing or wrong", "403": "The host name is not allowed", "500": "The server failed"}
_WITH_BODY = {
    "400": "The request is wrong; the text names the field",
    "404": "No such model or response",
    "408": "The body did not arrive in time",
    "413": "The body is too large",
    "415": "The body is not JSON",
    "429": "Too many requests; see Retry-After",
    "503": "The server is stopping, or its engine has stopped",
    "504": "The deadline passed",
}


def openapi_document(routes: Sequence[ApiRoute]) -> dict[str, Any]:
    """The document of OpenAPI 3.1."""
    types = [kind for route in routes for kind in (route.body, route.answer) if kind is not None]
    schemas, components = msgspec.json.schema_components([*types, OpenAIError, AnthropicError], ref_template=_REFERENCES)
    by_type = dict(zip([id(kind) for kind in (*types, OpenAIError, AnthropicError)], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = route.path.replace(":path", "")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parity", "version": __version__, "description": "OpenAI's and Anthropic's APIs over one model."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _operation(route: ApiRoute, schemas: dict[int, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{route.path.split(':')[0]}".replace("/", "_").replace("{", "").replace("}", ""),
        "summary": (route.endpoint.__doc__ or "").strip().splitlines()[0],
        "responses": _responses(route, schemas),
    }
    if "{" in route.path:
        name = route.path.partition("{")[2].partition("}")[0].partition(":")[0]
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}]
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schemas[id(route.body)]}}}
    return operation


def _responses(route: ApiRoute, schemas: dict[int, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    if route.answer is not None:
        good = {"application/json": {"schema": schemas[id(route.answer)]}}
    if route.streams:
        good["text/event-stream"] = {"schema": {"type": "string"}}
    error = AnthropicError if speaks_anthropic(route.path) else OpenAIError
    content = {"application/json": {"schema": schemas[id(error)]}}
    texts = dict(_ALWAYS) if route.path not in OPEN_PATHS else {}
    if route.body is not None:
        texts |= _WITH_BODY
    elif "{" in route.path:
        texts |= {status: _WITH_BODY[status] for status in ("400", "404")}
    elif route.path == "/ready":
        texts |= {"503": _WITH_BODY["503"]}
    errors = {status: {"description": text, "content": content} for status, text in sorted(texts.items())}
    return {"200": {"description": "The answer", "content": good}, **errors}


class OpenApi:
    """The route of the document."""

    def __init__(self, routes: Sequence[ApiRoute]) -> None:
        self._document = msgspec.json.encode(openapi_document(routes))

    async def get(self, request: Request) -> Response:
        """The document."""
        return Response(self._document, media_type="application/json")
