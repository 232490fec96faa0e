"""One engine: plan, run, commit. Not thread-safe; `service.py` gives it a thread and a front door."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

from ..core.batch import Plan
from ..core.errors import EngineError
from ..core.request import Output, Request, SamplingParams
from ..core.service import ModelInfo, Stats
from .runner import Runner
from .scheduler import Scheduler

log = logging.getLogger("parity")


class Engine:
    """Steps requests until each has ended.

    Args:
        info: what is run.
        build: makes a scheduler, which decides, and a runner, which computes, with empty state over the loaded weights.
    """

    scheduler: Scheduler
    runner: Runner

    def __init__(self, info: ModelInfo, build: Callable[[], tuple[Scheduler, Runner]]) -> None:
        self.info, self._build = info, build
        self.scheduler, self.runner = build()
        self.num_failures_in_a_row = 0
        """Steps that raised since the last that did not."""

    def add(self, request: Request) -> None:
        """Queues a request; raises as `Scheduler.add` does."""
        self.scheduler.add(request)

    def abort(self, request_id: str) -> None:
        """Ends a request with `abort`; the next step reports it."""
        self.scheduler.abort(request_id)

    @property
    def has_work(self) -> bool:
        """Whether another step would do or report anything."""
        return self.scheduler.has_work

    def step(self) -> list[Output]:
        """Computes one step; an error in it ends the requests of the step with `error` and no others."""
        plan = self.scheduler.plan(time.monotonic())
        try:
            results = self.runner.run(plan) if plan else []
        except Exception as error:  # whatever a kernel raises must not lose a request
            log.exception("a step failed; its %d request(s) end with an error", len(plan.chunks))
            self.num_failures_in_a_row += 1
            return self._fail(plan, error)
        if plan:
            self.num_failures_in_a_row = 0
        return self.scheduler.commit(plan, results, time.monotonic())

    def restart(self) -> None:
        """Forgets every request and all state, graphs included, and builds them anew; a trial token must come out.

        The weights stay: no step writes to them.

        Raises:
            EngineError: it does not compute any more.
        """
        for part in ("scheduler", "runner"):  # gone before their memory is asked for again
            vars(self).pop(part, None)
        gc.collect()
        self.scheduler, self.runner = self._build()
        self.num_failures_in_a_row = 0
        self.add(Request("trial", (0,), SamplingParams(temperature=0.0, max_tokens=1), cache=False))
        outputs = self.step()
        if self.has_work or not outputs or outputs[-1].finish is None or outputs[-1].finish.reason == "error":
            why = outputs[-1].finish if outputs else None
            raise EngineError(f"the engine does not compute after a restart: {why and why.message}")

    def _fail(self, plan: Plan, error: Exception) -> list[Output]:
        text = str(error) or type(error).__name__
        return self.scheduler.fail(plan, f"the engine failed: {text}")

    def stats(self) -> Stats:
        """Counts now and since the start."""
        return self.scheduler.stats()
