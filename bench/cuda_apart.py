"""Work in processes of their own: an error that a device does not get over, or a step that never ends, costs one item of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol


@dataclass(frozen=True)
class Found:
    """What one item gave.

    Args:
        item: its number.
        content: what is kept of it.
        line: what is printed.
        fine: whether it is as it should be.
    """

    item: int
    content: Any
    line: str
    fine: bool


class Part(Protocol):
    """Items that can be done one by one."""

    items: Sequence[str]

    def run(self, item: int) -> Found:
        """Does one."""

    def failed(self, item: int, why: str) -> Any:
        """What is kept of one that was not done."""

    def synchronize(self) -> None:
        """Raises where the device computes no more."""


def missed(part: Part, item: int, why: str) -> Found:
    """What stands for an item that gave nothing."""
    return Found(item, part.failed(item, why), why, False)


def each(part: Part, items: Iterable[int]) -> Iterator[Found]:
    """What the items give, in order; ends early where the device computes no more."""
    for item in items:
        try:
            yield part.run(item)
        except Exception as error:  # one item's failure is a line of the table
            yield missed(part, item, f"failed: {type(error).__name__}: {str(error)[:200]}")
            try:
                part.synchronize()
            except Exception:  # so it is with all that this process would still do
                return


def _serve(make: Callable[[], Part], items: Sequence[int], results: Connection) -> None:
    for found in each(make(), items):
        results.send(found)


def apart(make: Callable[[], Part], part: Part, left: Sequence[int], end: float) -> Iterator[Found]:
    """`each` in a process of its own, and in another where that one ends before its items.

    Args:
        make: makes the part in another process; it goes there by name.
        part: the same one, here.
        left: what to do.
        end: when what runs is stopped, by `time.monotonic`.
    """
    left, context = list(left), get_context("spawn")
    while left and time.monotonic() < end:
        here, there = context.Pipe(duplex=False)
        worker = context.Process(target=_serve, args=(make, tuple(left), there), daemon=True)
        worker.start()
        there.close()
        number = len(left)
        try:
            why = "stopped: out of time"
            while left and here.poll(max(0.0, end - time.monotonic())):
                found = here.recv()
                left.remove(found.item)
                yield found
        except EOFError:
            worker.join()
            # It may have given up after an item that is accounted for; else the item that it was at is lost.
            why = "" if worker.exitcode == 0 and len(left) < number else f"failed: its process ended with {worker.exitcode}"
        finally:
            worker.kill()
            worker.join()
        if left and why:
            yield missed(part, left.pop(0), why)
