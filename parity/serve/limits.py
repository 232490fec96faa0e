"""Bounds: the size of a body, and how many requests of one key run and wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .refusals import Refusal, error_response, overloaded


class BodyLimit:
    """ASGI middleware: refuses a body larger than `max_bytes` with 413, by its length if announced, else as it comes."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await error_response(self._too_large(), scope["path"])(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body has more than {self._max_bytes} bytes; the limit is --max-body-bytes", code="too_large")


@dataclass(slots=True)
class _Lane:
    """One key's requests: how many run, and who waits, first come first served."""

    num_running: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Lanes:
    """Admits requests key by key, so that one key cannot take the engine from the others.

    Args:
        max_running: requests of one key running at once.
        max_queued: requests of one key that may wait for that; more are refused with 429.
        timeout_s: how long one may wait; then it is refused with 504. None is for ever.
    """

    def __init__(self, max_running: int, max_queued: int, timeout_s: float | None = None) -> None:
        self._max_running = max_running
        self._max_queued = max_queued
        self._timeout_s = timeout_s
        self._lanes: dict[str, _Lane] = {}

    @property
    def num_waiting(self) -> int:
        """Requests held back here, over all keys."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    @asynccontextmanager
    async def admitted(self, owner: str) -> AsyncIterator[None]:
        """Waits for the owner's turn and holds it; a call for several samples counts once.

        Raises:
            Refusal: 429, if too many of the owner's requests wait already; 504, if this one has waited too long.
        """
        lane = self._lanes.setdefault(owner, _Lane())
        await self._enter(lane)
        try:
            yield
        finally:
            self._leave(owner, lane)

    async def _enter(self, lane: _Lane) -> None:
        if lane.num_running < self._max_running and not lane.waiting:
            lane.num_running += 1
            return
        if len(lane.waiting) >= self._max_queued:
            raise overloaded(
                f"this key has {lane.num_running} requests running and {len(lane.waiting)} waiting, the most it may have"
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.waiting.append(turn)
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
        except (asyncio.CancelledError, TimeoutError) as error:
            if turn.done() and not turn.cancelled():
                self._pass_on(lane)
            elif turn in lane.waiting:
                lane.waiting.remove(turn)
            if isinstance(error, TimeoutError):
                text = f"it was not this request's turn within {self._timeout_s:g} s, behind others of its key"
                raise Refusal(504, text, code="timeout") from None
            raise

    def _leave(self, owner: str, lane: _Lane) -> None:
        self._pass_on(lane)
        if not lane.num_running and not lane.waiting:
            self._lanes.pop(owner, None)

    @staticmethod
    def _pass_on(lane: _Lane) -> None:
        """Gives a place to the next in line, or back."""
        while lane.waiting:
            turn = lane.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        lane.num_running -= 1
