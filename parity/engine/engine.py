"""One engine: plan, run, commit. Not thread-safe; `service.py` gives it a thread and a front door."""

from __future__ import annotations

import logging
import time

from ..core.batch import Plan
from ..core.request import Output, Request
from ..core.service import ModelInfo, Stats
from .runner import Runner
from .scheduler import Scheduler

log = logging.getLogger("parity")


class Engine:
    """Steps requests until each has ended.

    Args:
        info: what is run.
        scheduler: decides.
        runner: computes.
    """

    def __init__(self, info: ModelInfo, scheduler: Scheduler, runner: Runner) -> None:
        self.info, self.scheduler, self.runner = info, scheduler, runner

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
            return self._fail(plan, error)
        return self.scheduler.commit(plan, results, time.monotonic())

    def _fail(self, plan: Plan, error: Exception) -> list[Output]:
        text = str(error) or type(error).__name__
        return self.scheduler.fail(plan, f"the engine failed: {text}")

    def stats(self) -> Stats:
        """Counts now and since the start."""
        return self.scheduler.stats()
