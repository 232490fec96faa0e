"""Work in processes of their own: what ends one costs the item that it was at, and no other."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench"
sys.path.append(str(BENCH))

from cuda_apart import Found, apart, each  # noqa: E402 (found by the line above, in the other process too)


class Work:
    """Items that say what they do."""

    def __init__(self, items: tuple[str, ...]) -> None:
        self.items, self._lost = items, False

    def run(self, item: int) -> Found:
        name = self.items[item]
        if name == "dies":
            os._exit(7)
        if name == "never ends":
            time.sleep(60)
        if name == "loses the device":
            self._lost = True
        if self._lost or name == "fails":
            raise RuntimeError(name)
        return Found(item, os.getpid(), "fine", True)

    def failed(self, item: int, why: str) -> str:
        return why

    def synchronize(self) -> None:
        if self._lost:
            raise RuntimeError("the device is lost")


def done(*items: str, seconds: float = 30.0) -> dict[str, object]:
    make = partial(Work, items)
    return {items[one.item]: one.content for one in apart(make, make(), range(len(items)), time.monotonic() + seconds)}


def test_what_ends_a_process_costs_one_item() -> None:
    found = done("a", "fails", "b", "dies", "c", "loses the device", "d")
    assert found["fails"] == "failed: RuntimeError: fails"
    assert found["dies"] == "failed: its process ended with 7"
    assert found["loses the device"] == "failed: RuntimeError: loses the device"
    assert found["a"] == found["b"] != os.getpid()
    assert len({found["b"], found["c"], found["d"]}) == 3


def test_what_never_ends_is_stopped_in_time() -> None:
    found = done("a", "never ends", "b", seconds=3.0)
    assert isinstance(found["a"], int)
    assert found["never ends"] == "stopped: out of time"
    assert "b" not in found


def test_here_a_lost_device_ends_the_rest() -> None:
    part = Work(("a", "loses the device", "b"))
    assert [part.items[one.item] for one in each(part, range(3))] == ["a", "loses the device"]


@pytest.mark.parametrize("items", [(), ("a",)])
def test_all_that_is_asked_for_is_done(items: tuple[str, ...]) -> None:
    assert set(done(*items)) == set(items)
