"""Recording a step: the native calls that it makes, over memory that stays where it is.

Only native calls are recorded. PyTorch may give out memory and look at it in other shapes; an operator of its own that
computes would be missing from the replay, so a step that uses one is not recorded at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .arena import Arena, Memory, recording
from .native import native

log = logging.getLogger("parity")

_aten = torch.ops.aten


class TorchThreads:
    """Keeps PyTorch's threads off the cores while ours replay steps.

    What PyTorch still does in such a step is small, and its threads and ours waiting for the same cores cost more than half
    of the step again.
    """

    def __init__(self) -> None:
        self._before: int | None = None

    @property
    def count(self) -> int:
        """Its threads while they do not rest."""
        return torch.get_num_threads() if self._before is None else self._before

    def rest(self) -> None:
        """One thread from now on."""
        if self._before is None:
            self._before = torch.get_num_threads()
            torch.set_num_threads(1)

    def use(self, count: int) -> None:
        """So many, but while they rest."""
        if self._before is None:
            torch.set_num_threads(count)
        else:
            self._before = count

    def restore(self) -> None:
        """As many as before `rest`, for a stack that computes with PyTorch."""
        if self._before is not None:
            torch.set_num_threads(self._before)
            self._before = None


TORCH_THREADS = TorchThreads()


class _Watch(TorchDispatchMode):
    """Notes the first operator that computes; what is only asked for as memory lies with the step's own arrays.

    Args:
        arena: of the step.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing here is compiled, and guarding against it would import the compiler: a second, at the second token.
        return False

    def __init__(self, arena: Arena) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's has no types
        self.foreign: str | None = None
        self._arena = arena

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _aten.empty.memory_format and kwargs.get("device") in (None, torch.device("cpu")):
            return self._arena.empty(args[0], kwargs.get("dtype") or torch.get_default_dtype())
        result = func(*args, **kwargs)
        if self.foreign is None and not _looks(func, args, result):
            self.foreign = str(func)
        return result


def _looks(func: Any, args: tuple[Any, ...], result: Any) -> bool:
    """Whether an operator only looked at its first argument's memory in another shape."""
    if func._schema.is_mutable or not args or not isinstance(args[0], Tensor):
        return False
    memory = args[0].untyped_storage().data_ptr()
    results = result if isinstance(result, (tuple, list)) else (result,)
    return all(isinstance(one, Tensor) and one.untyped_storage().data_ptr() == memory for one in results)


class RecordedStep:
    """A list of native calls over memory that other recorded steps may overwrite."""

    def __init__(self, recording: Any, memory: Memory) -> None:
        self._recording, self.memory = recording, memory
        """Where its arrays lie, its result among them."""

    @property
    def num_bytes(self) -> int:
        calls: int = self._recording.num_bytes
        return calls

    def replay(self) -> None:
        self._recording.replay()

    def timed(self, repeats: int = 10) -> list[tuple[str, float]]:
        """Seconds of each call in order, averaged over some replays."""
        seconds: list[tuple[str, float]] = self._recording.timed(repeats)
        return seconds

    def __len__(self) -> int:
        return len(self._recording)


def capture(run: Callable[[], Tensor], beside: RecordedStep | None = None) -> tuple[RecordedStep | None, Tensor]:
    """Runs once, recording; no step, said once by name, if the step computes with anything but native kernels.

    Args:
        run: the step. What it computes on and leaves behind, its result apart, was there before.
        beside: a step whose memory this one may overwrite.
    """
    recorded, arena = native().Recording(), Arena(beside.memory if beside is not None else None)
    watch = _Watch(arena)
    recorded.start()
    try:
        with recording(), watch:
            result = run()
    finally:
        recorded.stop()
    why = f"uses {watch.foreign}" if watch.foreign is not None else None
    if why is None and not arena.keeps_only(result):
        why = "keeps arrays that the next would overwrite"
    if why is not None:
        log.info("cpu: the step is not recorded, since it %s", why)
        return None, result.clone()
    TORCH_THREADS.rest()
    return RecordedStep(recorded, arena.memory), result
