"""Server-sent events: a stream of lines that notices a client that left, or that has stopped reading."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .settings import Settings

_LOG = logging.getLogger(__name__)
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

DONE = b"data: [DONE]\n\n"


def data(value: Any) -> bytes:
    """One event without a name."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def named(name: str, value: Any) -> bytes:
    """One event with a name."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"


class EventStream(Response):
    """Sends `lines` until they end, the client leaves, or it reads nothing for `stall_timeout_s`; then calls `close`.

    Args:
        lines: what is sent, event by event.
        close: ends the requests behind the lines; called once whatever happens.
        idle: what is sent when nothing has been for `keepalive_s`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        lines: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
        settings: Settings,
        idle: bytes = b": still here\n\n",
    ) -> None:
        super().__init__()
        self._lines = lines
        self._close = close
        self._settings = settings
        self._idle = idle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        main = asyncio.current_task()
        writer = _Writer(send, self._settings.stall_timeout_s)
        beside = [
            asyncio.create_task(_watch(receive, main)),
            asyncio.create_task(_keep_alive(writer, self._idle, self._settings.keepalive_s)),
        ]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            async with aclosing(self._lines) as lines:  # type: ignore[type-var]
                async for line in lines:
                    await writer.write(line)
            await writer.end()
        except TimeoutError:
            _LOG.info("a client read nothing for %g s and was given up", self._settings.stall_timeout_s)
        except asyncio.CancelledError:
            if not beside[0].done():
                raise
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await self._close()


class _Writer:
    """Writes chunks one at a time, each within a time limit."""

    def __init__(self, send: Send, stall_timeout_s: float) -> None:
        self._send = send
        self._stall_timeout_s = stall_timeout_s
        self._lock = asyncio.Lock()
        self.last_s = asyncio.get_running_loop().time()

    async def write(self, chunk: bytes) -> None:
        await self._send_body({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        await self._send_body({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_body(self, message: dict[str, Any]) -> None:
        async with self._lock, asyncio.timeout(self._stall_timeout_s):
            await self._send(message)
        self.last_s = asyncio.get_running_loop().time()


async def _watch(receive: Receive, main: asyncio.Task[Any] | None) -> None:
    """Cancels `main` once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if main is not None:
        main.cancel()


async def _keep_alive(writer: _Writer, idle: bytes, every_s: float) -> None:
    loop = asyncio.get_running_loop()
    with suppress(TimeoutError):
        while True:
            await asyncio.sleep(max(0.01, writer.last_s + every_s - loop.time()))
            if loop.time() - writer.last_s >= every_s:
                await writer.write(idle)


async def while_connected(receive: Receive, work: Awaitable[Response]) -> Response:
    """The result of `work`, which is cancelled if the client leaves before it is done."""
    main = asyncio.ensure_future(work)
    watch = asyncio.create_task(_watch(receive, main))
    try:
        return await main
    except asyncio.CancelledError:
        if not watch.done():
            main.cancel()
            raise
        return Response(status_code=499)
    finally:
        watch.cancel()
        await asyncio.gather(watch, main, return_exceptions=True)
