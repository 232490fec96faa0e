"""The engine's thread and front door: requests come from any thread, steps happen in one."""

from __future__ import annotations

import atexit
import logging
import queue
import secrets
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..core.errors import EngineError, RequestError
from ..core.request import Finish, Output, Request
from ..core.service import ModelInfo, Stats
from .engine import Engine

log = logging.getLogger("parity")

_running: weakref.WeakSet[EngineService] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread that is still in a kernel when Python ends would take the process down with it."""
    for service in list(_running):
        service.close()


Emit = Callable[[Output], None]

MAX_RESTARTS = 3
RESTART_WINDOW_S = 300.0
"""An engine that fails is restarted, but at most this many times in this many seconds: then it stays stopped."""
MAX_FAILURES_IN_A_ROW = 3
"""Steps that may fail one after the other before the state, and not a request, is held to be at fault."""
_COUNTERS = (
    "num_prompt_tokens",
    "num_cached_tokens",
    "num_generated_tokens",
    "num_preemptions",
    "num_steps",
    "num_step_tokens",
    "step_s",
)


class EngineService:
    """A `core.service.Service` over one engine.

    A step that raises ends its own requests. If steps go on failing, or anything else on the engine's thread raises, every
    request ends with an error and the engine is restarted with its state built anew.

    Args:
        engine: stepped by the service's own thread and by nothing else from now on.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._emits: dict[str, Emit] = {}
        self._closing = threading.Event()
        self._stop_at_s: float | None = None
        self._before = Stats()
        self._stats = engine.stats()
        self._restarts_s: list[float] = []
        self._thread = threading.Thread(target=self._loop, name="parity-engine", daemon=True)
        self._thread.start()
        _running.add(self)

    @property
    def info(self) -> ModelInfo:
        """What is being run."""
        return self._engine.info

    @property
    def is_running(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._closing.is_set()

    def submit(self, request: Request, emit: Emit) -> None:
        """Queues a request; see `core.service.Service.submit`. Waits for at most the step in progress."""
        self.submit_all([request], emit)

    def submit_all(self, requests: Sequence[Request], emit: Emit) -> None:
        """Queues requests between two steps, so that they start together; if one is refused, none of them runs."""
        ready = [self._checked(request) for request in requests]
        self.call(lambda: self._add_all(ready, emit))

    def _checked(self, request: Request) -> Request:
        top = max(request.tokens, default=0)
        if top >= self.info.vocab_size or min(request.tokens, default=0) < 0:
            bad = top if top >= self.info.vocab_size else min(request.tokens)
            raise RequestError(f"token id {bad} is not in the vocabulary of {self.info.vocab_size}", field="prompt")
        foreign = next((token for token in request.params.logit_bias if token >= self.info.vocab_size), None)
        if foreign is not None:
            text = f"logit_bias names token {foreign}, which is not in the vocabulary of {self.info.vocab_size}"
            raise RequestError(text, field="logit_bias")
        if request.adapter is not None:
            raise RequestError(f"there is no adapter {request.adapter!r}: the model runs as it was loaded", field="adapter")
        if request.params.seed is None and request.params.temperature > 0:
            request = replace(request, params=request.params.replace(seed=secrets.randbits(63)))
        return request

    def _add_all(self, requests: Sequence[Request], emit: Emit) -> None:
        added: list[str] = []
        try:
            for request in requests:
                if request.id in self._emits:  # until its last output is delivered, it is somebody's
                    raise RequestError(f"a request with the id {request.id!r} has not ended yet; choose another", field="id")
                self._engine.add(request)
                added.append(request.id)
        except Exception:
            for request_id in added:
                self._engine.abort(request_id)
            raise
        self._emits.update(dict.fromkeys(added, emit))

    def abort(self, request_id: str) -> None:
        """Ends a request with `abort`; unknown ids are ignored."""
        self._calls.put(lambda: self._engine.abort(request_id))

    def stats(self) -> Stats:
        """Counts after the latest step."""
        return self._stats

    def call(self, work: Callable[[], Any]) -> Any:
        """Runs `work` on the engine's thread between two steps and returns, or raises, what it does.

        Raises:
            EngineError: the engine has stopped.
        """
        answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def answered() -> None:
            try:
                answer.put((work(), None))
            except Exception as error:
                answer.put((None, error))
            except BaseException as error:  # ends the thread's work as well, but nobody may wait for ever
                answer.put((None, EngineError(f"the engine failed: {error!r}")))
                raise

        if self._closing.is_set():
            raise EngineError("the engine has stopped; open the model again")
        self._calls.put(answered)
        while True:
            try:
                value, error = answer.get(timeout=1.0)
                break
            except queue.Empty:
                if not self._thread.is_alive():
                    raise EngineError("the engine has stopped; open the model again") from None
        if error is not None:
            raise error
        return value

    def close(self, timeout_s: float = 0.0) -> None:
        """Stops: what still runs after `timeout_s` ends with `abort`. A second call does nothing."""
        if self._closing.is_set():
            return
        self._stop_at_s = time.monotonic() + timeout_s
        self._closing.set()
        self._calls.put(None)
        self._thread.join()

    # On the engine's thread

    def _loop(self) -> None:
        try:
            while not self._done():
                try:
                    self._turn()
                except BaseException as error:
                    self._restart(error)
        except BaseException as error:
            log.exception("the engine's thread stopped")
            self._end_all(Finish("error", message=f"the engine stopped: {error}"))
        finally:
            self._closing.set()
            self._end_all(Finish("abort"))
            self._take_calls(wait=False)

    def _turn(self) -> None:
        self._take_calls(wait=not self._engine.has_work and not self._closing.is_set())
        if self._engine.has_work:
            self._deliver(self._engine.step())
            self._stats = self._count()
            if self._engine.num_failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
                raise EngineError(f"{MAX_FAILURES_IN_A_ROW} steps failed one after the other")

    def _restart(self, error: BaseException) -> None:
        """Ends every request and builds the engine's state anew.

        Raises:
            BaseException: `error`, if the engine was restarted too often, or what the last restart raised.
        """
        self._end_all(Finish("error", message=f"the engine failed: {error}"))
        while True:
            now_s = time.monotonic()
            self._restarts_s = [start_s for start_s in self._restarts_s if now_s - start_s < RESTART_WINDOW_S]
            if len(self._restarts_s) >= MAX_RESTARTS:
                raise error
            self._restarts_s.append(now_s)
            log.error("the engine failed and is restarted with empty state: %r", error, exc_info=error)
            self._before = replace(self._stats, num_restarts=self._stats.num_restarts + 1)
            self._stats = replace(self._before, num_running=0, num_waiting=0, num_pages_used=0)
            traceback.clear_frames(error.__traceback__)  # which hold the old state's memory
            try:
                self._engine.restart()
            except Exception as again:
                error = again
                continue
            return

    def _count(self) -> Stats:
        """The engine's counts, with those from before its restarts."""
        stats, before = self._engine.stats(), self._before
        totals = {name: getattr(stats, name) + getattr(before, name) for name in _COUNTERS}
        by_tokens = tuple(map(sum, zip(stats.steps_by_tokens, before.steps_by_tokens, strict=True)))
        return replace(stats, **totals, steps_by_tokens=by_tokens, num_restarts=before.num_restarts)

    def _done(self) -> bool:
        if not self._closing.is_set():
            return False
        return not self._engine.has_work or time.monotonic() >= (self._stop_at_s or 0.0)

    def _take_calls(self, *, wait: bool) -> None:
        while True:
            try:
                call = self._calls.get(block=wait)
            except queue.Empty:
                return
            wait = False
            if call is not None:
                call()

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            emit = self._emits.pop(output.request_id, None) if output.finish else self._emits.get(output.request_id)
            if emit is None:
                continue
            try:
                emit(output)
            except Exception:
                log.exception("the receiver of request %s failed; the request is aborted", output.request_id)
                self._engine.abort(output.request_id)

    def _end_all(self, finish: Finish) -> None:
        for request_id, emit in list(self._emits.items()):
            del self._emits[request_id]
            try:
                emit(Output(request_id, finish=finish))
            except Exception:
                log.exception("the receiver of request %s failed", request_id)
