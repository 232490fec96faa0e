"""What the engine relies on of a device: its memory is zeroed, numbers come back, a step is computed once and replayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise

import torch

from ..base import Graph, Memory, Stack
from .report import Failure, OpReport


def check_device(stack: Stack) -> OpReport:
    """One line for the device, as an op has one."""
    failures = []
    for name, case in CASES.items():
        try:
            with torch.inference_mode():
                problems = list(case(stack))
        except Exception as problem:  # a device is others' code: whatever it raises is its failure
            problems = [f"raised {type(problem).__name__}: {problem}"]
        failures += [Failure("device", name, "any dtype", what) for what in problems]
    origin = type(stack.device).__module__
    return OpReport("device", origin, len(CASES), tuple(failures), math.inf if failures else 0.0, None)


def _memory(stack: Stack) -> Iterator[str]:
    found = stack.device.memory()
    if not isinstance(found, Memory) or not 0 <= found.free <= found.total:
        yield f"memory() gave {found!r}: free must be between 0 and total"


def _zeros(stack: Stack) -> Iterator[str]:
    place = stack.device.torch_device
    for dtype in (torch.float32, torch.bfloat16, torch.int8, torch.int32):
        for shape in ((3, 5), (0, 4)):
            found = stack.device.zeros(shape, dtype)
            if (found.shape, found.dtype, found.device.type) != (torch.Size(shape), dtype, place.type):
                yield f"zeros({shape}, {dtype}) gave {found.dtype} {tuple(found.shape)} on {found.device}"
            elif found.cpu().any():
                yield f"zeros({shape}, {dtype}) holds other numbers"


def _staging(stack: Stack) -> Iterator[str]:
    found = stack.device.staging((7,), torch.int32)
    if found.device.type != "cpu" or found.dtype != torch.int32 or found.shape != (7,) or found.any():
        yield f"staging((7,), torch.int32) gave {found}: zeroed memory of the host is wanted"
    found.numpy()[:] = range(7)  # as batches are written
    if stack.device.zeros((7,), torch.int32).copy_(found).cpu().tolist() != list(range(7)):
        yield "what is copied from staging memory to the device is not what was written there"


def _send(stack: Stack) -> Iterator[str]:
    found = stack.device.send(torch.arange(5))
    if found.device.type != stack.device.torch_device.type or not torch.equal(found.cpu(), torch.arange(5)):
        yield f"send gave {found}, not the numbers on the device"


def _fetch(stack: Stack) -> Iterator[str]:
    found = stack.device.fetch(torch.arange(5).to(stack.device.torch_device))()
    if found.device.type != "cpu" or found.tolist() != list(range(5)):
        yield f"fetch gave {found}, not the numbers on the host"


def _capture(stack: Stack) -> Iterator[str]:
    """Captured, and replayed where it was recorded, over numbers that change meanwhile; a second one shares its memory."""
    graph: Graph | None = None
    for _ in range(2):
        x, one = stack.device.zeros((2, 8), torch.float32), stack.device.zeros((2, 8), torch.float32).fill_(1.0)
        graph, result = stack.device.capture(partial(stack.ops.add, x, one), graph)
        stack.device.synchronize()
        if not (result.cpu() == 1).all():
            yield "capture did not give what the step computes"
        if graph is None:
            stack.device.capture(partial(x.add_, one))
            stack.device.synchronize()
            if not (x.cpu() == 1).all():
                yield "capture does not compute a step exactly once, and each time moves state on"
            return
        x.fill_(2.0)
        graph.replay()
        stack.device.synchronize()
        if not (result.cpu() == 3).all():
            yield "a replay does not compute over what stands in the step's tensors by then"
        if graph.num_bytes < 0:
            yield f"a recorded step holds {graph.num_bytes} bytes"


def _rows(stack: Stack) -> Iterator[str]:
    rows = list(stack.device.recorded_rows)
    if any(row < 1 for row in rows) or any(one >= two for one, two in pairwise(rows)):
        yield f"recorded_rows must rise from 1 on, not {rows[:8]}"


def _describe(stack: Stack) -> Iterator[str]:
    found = stack.device.describe()
    if not isinstance(found, Mapping) or not all(isinstance(text, str) for pair in found.items() for text in pair):
        yield f"describe() gave {found!r}: names and texts are wanted"


def _read(stack: Stack) -> Iterator[str]:
    stack.device.read(torch.ones(1024, device=stack.device.torch_device))
    yield from ()


CASES: Mapping[str, Callable[[Stack], Iterator[str]]] = {
    "memory": _memory,
    "zeros": _zeros,
    "staging": _staging,
    "send": _send,
    "fetch": _fetch,
    "capture": _capture,
    "recorded_rows": _rows,
    "describe": _describe,
    "read": _read,
}
"""What is tried, by the member that it is about."""
