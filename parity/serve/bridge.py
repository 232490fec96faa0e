"""From the engine's thread to the event loop and back: what makes every request end, whoever leaves first."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

from ..core.request import Finish, Output, Request, Usage
from ..core.service import Service
from .metrics import Metrics, Watch

_NUM_SUBMITTERS = 64

GRACE_S = 5.0
"""How long after its deadline a request is given up, should the engine not have ended it itself."""


class Bridge:
    """Submits requests to a service from an event loop.

    Outputs of one engine step wake the loop once, however many requests they belong to. A request's queue is bounded by
    the request's own tokens, so a slow reader holds up nobody.
    """

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics
        self._mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = WeakKeyDictionary()
        self._submitters = ThreadPoolExecutor(_NUM_SUBMITTERS, thread_name_prefix="submit")

    async def start(self, requests: Sequence[Request]) -> Run:
        """Submits requests that belong together, such as the samples of one prompt.

        Raises:
            ContextExceeded, RequestError, Overloaded, EngineError: as `Service.submit`; then none of them runs.
        """
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.setdefault(loop, _Mailbox(loop))
        run = Run(self._service, requests, self._metrics.watch(requests))
        try:
            await loop.run_in_executor(self._submitters, self._submit, requests, run, mailbox)
        except BaseException:
            run.abort()
            raise
        return run

    def _submit(self, requests: Sequence[Request], run: Run, mailbox: _Mailbox) -> None:
        """In a thread, since an engine takes requests between two steps."""
        for request in requests:
            if run.is_aborted:
                break
            self._service.submit(request, partial(mailbox.put, run))
        if run.is_aborted:
            for request in requests:
                self._service.abort(request.id)


class _Mailbox:
    """Carries outputs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._outputs: deque[tuple[Run, Output]] = deque()
        self._is_woken = False

    def put(self, run: Run, output: Output) -> None:
        """Called on the engine's thread."""
        self._outputs.append((run, output))
        if not self._is_woken:
            self._is_woken = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._outputs.clear()  # the loop is closed: nobody is left to read

    def _deliver(self) -> None:
        self._is_woken = False
        while self._outputs:
            run, output = self._outputs.popleft()
            run.deliver(output)


@dataclass(slots=True)
class _Progress:
    index: int
    watch: Watch
    usage: Usage = field(default_factory=Usage)


class Run:
    """Requests in the engine: an async iterator of (index, output) that ends when each has ended.

    Leaving its `async with` block aborts what still runs.
    """

    def __init__(self, service: Service, requests: Sequence[Request], watches: Sequence[Watch]) -> None:
        self._service = service
        self._open = {
            request.id: _Progress(index, watch) for index, (request, watch) in enumerate(zip(requests, watches, strict=True))
        }
        self._ids = tuple(request.id for request in requests)
        deadlines = [request.deadline_s for request in requests if request.deadline_s is not None]
        self._give_up: asyncio.TimerHandle | None = None
        if deadlines:
            loop, left_s = asyncio.get_running_loop(), max(deadlines) + GRACE_S - time.monotonic()
            self._give_up = loop.call_later(max(0.0, left_s), self._end_silent)
        self._ready: deque[tuple[int, Output]] = deque()
        self._bell = asyncio.Event()
        self.is_aborted = False

    def deliver(self, output: Output) -> None:
        """Takes an output; those of a request that has ended here already are dropped."""
        progress = self._open.get(output.request_id)
        if progress is None:
            return
        if output.tokens:
            progress.watch.tokens(len(output.tokens))
        progress.usage = output.usage
        if output.finish is not None:
            self._end(output.request_id, output.finish)
        self._ready.append((progress.index, output))
        self._bell.set()

    def stop(self, index: int, finish: Finish) -> None:
        """Ends one request from this side, such as at a stop string; the engine may forget it."""
        request_id = self._ids[index]
        if request_id in self._open:
            self._end(request_id, finish)
            self._service.abort(request_id)
            self._bell.set()

    def abort(self) -> None:
        """Ends whatever still runs."""
        self.is_aborted = True
        if self._give_up is not None:
            self._give_up.cancel()
        for request_id in tuple(self._open):
            self._end(request_id, Finish("abort"))
            self._service.abort(request_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Output]]:
        while self._open or self._ready:
            if not self._ready:
                self._bell.clear()
                await self._bell.wait()
            while self._ready:
                yield self._ready.popleft()

    def _end_silent(self) -> None:
        """Ends with `timeout` what an engine that has gone silent has not ended: nobody waits for ever."""
        for request_id, progress in tuple(self._open.items()):
            finish = Finish("timeout", message="the engine has not answered; the request was given up")
            self._end(request_id, finish)
            self._service.abort(request_id)
            self._ready.append((progress.index, Output(request_id, finish=finish, usage=progress.usage)))
        self._bell.set()

    def _end(self, request_id: str, finish: Finish) -> None:
        progress = self._open.pop(request_id)
        progress.watch.ended(finish, progress.usage)
