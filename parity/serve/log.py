"""A line for each request: what was called, how it ended and how long it took; never its text."""

from __future__ import annotations

import logging
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .refusals import speaks_anthropic

_LOG = logging.getLogger("parity.serve")
_ANTHROPIC_VERSION = "2023-06-01"
_QUIET = frozenset({"/health", "/ready", "/metrics", "/status"})


class RequestLog:
    """ASGI middleware: gives each request an id, which is sent as `x-request-id`, and logs it."""

    def __init__(self, app: ASGIApp, enabled: bool) -> None:
        self._app = app
        self._enabled = enabled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = request_id = uuid.uuid4().hex
        start_s = time.monotonic()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = headers["request-id"] = request_id
                if speaks_anthropic(scope["path"]):
                    headers["anthropic-version"] = _ANTHROPIC_VERSION
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:  # answered with 500 outside of here
            status = status or 500
            raise
        finally:
            if self._enabled and scope["path"] not in _QUIET:
                took = time.monotonic() - start_s
                _LOG.info("%s %s %s %d %.3f s", request_id[:8], scope["method"], _path(scope), status or 499, took)


def _path(scope: Scope) -> str:
    """The path without what could break the line."""
    path: str = scope["path"]
    return path.encode("unicode_escape").decode()[:200]
