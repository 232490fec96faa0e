"""How the server is: `/health`, `/ready`, `/version`, `/status` and `/metrics`."""

from __future__ import annotations

import time
from typing import Literal

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from .. import __version__
from .desk import Desk
from .refusals import Refusal
from .wire import json_response


class Health(msgspec.Struct):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(msgspec.Struct):
    """The engine takes requests."""

    status: Literal["ready"] = "ready"


class Version(msgspec.Struct):
    """Which Parity this is."""

    version: str


class Status(msgspec.Struct):
    """What runs, and how busy it is. `tokens_per_s` is the mean since the last call, at least a second ago."""

    version: str
    model: str
    architecture: str
    stack: str
    dtype: str
    max_model_len: int
    num_pages: int
    num_pages_used: int
    page_size: int
    num_running: int
    num_waiting: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated_tokens: int
    num_restarts: int
    tokens_per_s: float
    uptime_s: float


class StatusRoutes:
    """The routes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._start_s = self._last_s = time.monotonic()
        self._last_tokens = 0
        self._rate = 0.0

    async def health(self, request: Request) -> Response:
        """Answers as long as the process does."""
        return json_response(Health())

    async def ready(self, request: Request) -> Response:
        """Answers 503 when the server is stopping, or its engine has stopped."""
        if self._desk.is_stopping:
            raise Refusal(503, "the server is stopping", code="stopping")
        self._desk.check_engine()
        return json_response(Ready())

    async def version(self, request: Request) -> Response:
        """The version."""
        return json_response(Version(__version__))

    async def metrics(self, request: Request) -> Response:
        """Counts and times for Prometheus."""
        return Response(self._desk.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def status(self, request: Request) -> Response:
        """What the chat page's status view shows."""
        info, stats = self._desk.info, self._desk.service.stats()
        now = time.monotonic()
        if now - self._last_s >= 1.0:
            self._rate = (stats.num_generated_tokens - self._last_tokens) / (now - self._last_s)
            self._last_s, self._last_tokens = now, stats.num_generated_tokens
        return json_response(
            Status(
                version=__version__,
                model=self._desk.names[0],
                architecture=info.architecture,
                stack=info.stack,
                dtype=info.dtype,
                max_model_len=info.max_model_len,
                num_pages=stats.num_pages or info.num_pages,
                num_pages_used=stats.num_pages_used,
                page_size=info.page_size,
                num_running=stats.num_running,
                num_waiting=stats.num_waiting + self._desk.lanes.num_waiting,
                num_prompt_tokens=stats.num_prompt_tokens,
                num_cached_tokens=stats.num_cached_tokens,
                num_generated_tokens=stats.num_generated_tokens,
                num_restarts=stats.num_restarts,
                tokens_per_s=self._rate,
                uptime_s=now - self._start_s,
            )
        )
