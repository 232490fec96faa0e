"""Faults on the engine's thread: every request ends, the state is built anew over the same weights, and not for ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import transformers

from parity.core.errors import EngineError
from parity.engine import service as module
from parity.engine.engine import Engine
from parity.engine.service import EngineService
from parity.models.layers.weight import Parameter
from tests.models import tiny
from tests.models.test_dense import SIZES

from .test_service import Inbox


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen2")
    tiny.save(transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**SIZES), path)
    return path


def addresses(engine: Engine) -> dict[str, int]:
    """Where each weight lies."""
    return {
        f"{path}.{name}": place.tensor.data_ptr()
        for path, module in engine.runner.model.named_modules()
        for name, place in vars(module).items()
        if isinstance(place, Parameter)
    }


def break_once(engine: Engine, place: str) -> None:
    """Makes one call of a part raise; the part that a restart builds is whole."""
    part = engine.runner if place == "start" else engine.scheduler

    def broken(*given: object) -> object:
        raise RuntimeError(f"{place} broke")

    setattr(part, place, broken)


def slow(engine: Engine) -> None:
    start = engine.runner.start

    def slowly(*step: object) -> object:
        time.sleep(0.005)
        return start(*step)  # type: ignore[arg-type]

    engine.runner.start = slowly  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("place", ["plan", "commit", "stats", "abort"])
def test_whatever_breaks_the_engine_is_restarted(folder: Path, place: str) -> None:
    engine = tiny.open_engine(folder, max_num_seqs=2)
    slow(engine)
    weights = addresses(engine)
    assert len(weights) > 10
    service = EngineService(engine)
    inboxes = [Inbox() for _ in range(4)]  # two run, two wait
    for n, inbox in enumerate(inboxes):
        service.submit(tiny.greedy(str(n), [5, 6, n], 100), inbox)
    service.call(lambda: break_once(engine, place))
    service.abort("0")
    assert [inbox.finish() for inbox in inboxes] == ["error"] * 4
    assert f"{place} broke" in str(inboxes[0].outputs[-1].finish)
    fine, alone = Inbox(), tiny.finish(tiny.open_engine(folder), [tiny.greedy("fine", [5, 6], 8)])["fine"]
    service.submit(tiny.greedy("fine", [5, 6], 8), fine)
    assert fine.finish() == "length"
    assert fine.tokens == tiny.generated(alone)
    assert service.is_running
    assert (service.stats().num_restarts, service.stats().num_pages_used, service.stats().num_running) == (1, 0, 0)
    assert addresses(engine) == weights
    service.close()
    engine.scheduler.check()


def test_steps_that_go_on_failing_are_the_states_fault(folder: Path) -> None:
    engine = tiny.open_engine(folder)
    service = EngineService(engine)
    service.call(lambda: break_once(engine, "start"))
    for n in range(module.MAX_FAILURES_IN_A_ROW):
        assert service.stats().num_restarts == 0
        broken = Inbox()
        service.submit(tiny.greedy(str(n), [5, 6], 8), broken)
        assert broken.finish() == "error"
    fine = Inbox()
    service.submit(tiny.greedy("fine", [5, 6], 8), fine)
    assert fine.finish() == "length"
    assert service.stats().num_restarts == 1
    service.close()


def test_an_engine_that_cannot_be_mended_stays_stopped_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny.open_engine(folder)
    service = EngineService(engine)
    tries = []

    def hopeless(self: Engine) -> None:
        tries.append(1)
        raise EngineError("the device is lost")

    monkeypatch.setattr(Engine, "restart", hopeless)
    broken = Inbox()
    service.submit(tiny.greedy("broken", [5, 6], 1000), broken)
    service.call(lambda: break_once(engine, "plan"))
    assert broken.finish() == "error"
    service._thread.join(10)
    assert len(tries) == module.MAX_RESTARTS
    assert not service.is_running
    with pytest.raises(EngineError, match="stopped"):
        service.submit(tiny.greedy("late", [5, 6], 8), Inbox())
    service.close()


def test_restarts_are_counted_over_a_while(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTART_WINDOW_S", 0.0)
    engine = tiny.open_engine(folder)
    service = EngineService(engine)
    for n in range(module.MAX_RESTARTS + 2):
        service.call(lambda: break_once(engine, "plan"))
        broken = Inbox()
        service.submit(tiny.greedy(str(n), [5, 6], 8), broken)
        assert broken.finish() == "error"
    assert service.call(lambda: service.stats().num_restarts) == module.MAX_RESTARTS + 2
    assert service.is_running
    service.close()


def test_a_call_that_ends_the_thread_does_not_hang_its_caller(folder: Path) -> None:
    def leave() -> None:
        raise SystemExit(3)

    service = EngineService(tiny.open_engine(folder))
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            service.call(leave)
        except EngineError as error:
            errors.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    caller.join(10)
    assert len(errors) == 1
    fine = Inbox()
    service.submit(tiny.greedy("fine", [5, 6], 8), fine)
    assert fine.finish() == "length"
    service.close()
