"""Server-sent events: a stream of lines that notices a client that left, or that has stopped reading."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .refusals import Refusal
from .settings import Settings

T = TypeVar("T")

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
        lines: AsyncGenerator[bytes, None],
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
        assert main is not None
        writer = _Writer(send)
        watch = asyncio.create_task(_watch(receive, main))
        tend = asyncio.create_task(_tend(writer, self._idle, self._settings, main))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            async with aclosing(self._lines) as lines:
                async for line in lines:
                    await writer.write(line)
            await writer.end()
        except asyncio.CancelledError:
            if writer.is_stalled:
                _LOG.info("a client read nothing for %g s and was given up", self._settings.stall_timeout_s)
            elif not watch.done():
                raise
        finally:
            for task in (watch, tend):
                task.cancel()
            try:
                await asyncio.gather(watch, tend, return_exceptions=True)
            finally:
                await self._close()


class _Writer:
    """Writes chunks one at a time, and says since when. A timer for each write would cost more than the write."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self.began_s: float | None = None
        """When the write in progress began."""
        self.last_s = self._loop.time()
        """When the last one ended."""
        self.is_stalled = False

    async def write(self, chunk: bytes) -> None:
        await self._send_body({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        await self._send_body({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_body(self, message: dict[str, Any]) -> None:
        async with self._lock:
            self.began_s = self._loop.time()
            await self._send(message)
            self.began_s, self.last_s = None, self._loop.time()


async def _watch(receive: Receive, main: asyncio.Task[Any]) -> None:
    """Cancels `main` once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
    main.cancel()


async def _tend(writer: _Writer, idle: bytes, settings: Settings, main: asyncio.Task[Any]) -> None:
    """Writes `idle` where nothing else is written, and cancels `main` after a write of one to two times `stall_timeout_s`."""
    loop = asyncio.get_running_loop()
    beat: asyncio.Task[None] | None = None
    try:
        while True:
            if writer.began_s is not None:
                left_s = writer.began_s + settings.stall_timeout_s - loop.time()
                if left_s <= 0:
                    writer.is_stalled = True
                    main.cancel()
                    return
            else:
                left_s = writer.last_s + settings.keepalive_s - loop.time()
                if left_s <= 0:
                    beat = asyncio.create_task(writer.write(idle))  # which may stall like any other
                    left_s = settings.keepalive_s
            await asyncio.sleep(max(0.01, min(left_s, settings.stall_timeout_s)))
    finally:
        if beat is not None:
            beat.cancel()


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled if the client leaves before it is done.

    Raises:
        Refusal: 499, which nobody reads: the client has left.
    """
    main = asyncio.ensure_future(work)
    watch = asyncio.create_task(_watch(receive, main))
    try:
        return await main
    except asyncio.CancelledError:
        if not watch.done():
            main.cancel()
            raise
        raise Refusal(499, "the client left before it was answered") from None
    finally:
        watch.cancel()
        await asyncio.gather(watch, main, return_exceptions=True)
