"""One engine: plan, run, commit. Not thread-safe; `service.py` gives it a thread and a front door."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..core.batch import Plan
from ..core.errors import EngineError
from ..core.request import Output, Request, SamplingParams
from ..core.service import ModelInfo, Stats
from .runner import Runner, Started
from .scheduler import Scheduler

log = logging.getLogger("parity")


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was chosen, and what the device was given: nothing for an empty plan, an error if it could not be given."""

    plan: Plan
    started: Started | Exception | None


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
        self._ahead: Step | None = None
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
        return self.scheduler.has_work or self._ahead is not None

    def step(self) -> list[Output]:
        """Computes one step; an error in it ends the requests of the step with `error` and no others.

        Where the device runs on by itself, the step after it is started before its tokens are read, if that can be.
        """
        step, self._ahead = self._ahead, None
        if step is None:
            step = self._start(self.scheduler.plan(time.monotonic()))
        if isinstance(step.started, Started) and self.runner.runs_ahead:
            plan = self.scheduler.ahead(step.plan, time.monotonic())
            if plan is not None:
                self._ahead = self._start(plan, step.started)
        return self._finish(step)

    def _start(self, plan: Plan, before: Started | None = None) -> Step:
        try:
            return Step(plan, self.runner.start(plan, before) if plan else None)
        except Exception as error:  # reported when the step's turn comes
            return Step(plan, error)

    def _finish(self, step: Step) -> list[Output]:
        try:
            if isinstance(step.started, Exception):
                raise step.started
            results = [] if step.started is None else self.runner.finish(step.started)
        except Exception as error:  # whatever a kernel raises must not lose a request
            log.exception("a step failed; its %d request(s) end with an error", len(step.plan.chunks))
            self.num_failures_in_a_row += 1
            return self._fail(step.plan, error)
        if step.plan:
            self.num_failures_in_a_row = 0
        return self.scheduler.commit(step.plan, results, time.monotonic())

    def restart(self) -> None:
        """Forgets every request and all state, graphs included, and builds them anew; a trial token must come out.

        The weights stay: no step writes to them.

        Raises:
            EngineError: it does not compute any more.
        """
        self._ahead = None
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
