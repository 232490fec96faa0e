"""The stack's logic on the host, against a device that is none."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.core.errors import UsageError
from parity.stacks import cuda
from parity.stacks.cuda.device import CudaDevice
from parity.stacks.registry import with_table

HAS_TRITON = importlib.util.find_spec("triton") is not None


class FakeCuda:
    """Stands for `torch.cuda`: records the order of what is asked, computes nothing while recording."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.recording: FakeGraph | None = None
        self.fails = False
        self.pools: list[object] = []
        self.streams: list[FakeStream] = []
        self.modes: set[str] = set()
        self.current = FakeStream(self, "main")

    def Stream(self, device: torch.device) -> FakeStream:
        return FakeStream(self, "side")

    def current_stream(self, device: torch.device) -> FakeStream:
        return self.current

    @contextlib.contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def CUDAGraph(self) -> FakeGraph:
        return FakeGraph()

    def graph_pool_handle(self) -> object:
        return object()

    @contextlib.contextmanager
    def graph(self, graph: FakeGraph, pool: object, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        self.pools.append(pool)
        self.streams.append(stream)
        self.modes.add(capture_error_mode)
        graph.memory = pool
        self.recording, before, self.current = graph, self.current, stream
        try:
            yield
        finally:
            self.recording = None
        if self.fails:  # as PyTorch does, which then leaves the stream as it is
            raise RuntimeError("operation not permitted when stream is capturing")
        self.current = before


class FakeStream:
    def __init__(self, owner: FakeCuda, name: str) -> None:
        self.owner, self.name = owner, name

    def wait_stream(self, other: FakeStream) -> None:
        self.owner.log.append(f"{self.name} waits for {other.name}")


class FakeGraph:
    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self.memory: object = None

    def pool(self) -> object:
        return self.memory

    def replay(self) -> None:
        for step in self.steps:
            step()


class Counter:
    """A step with state: the nth run gives x + n."""

    def __init__(self, fake: FakeCuda) -> None:
        self.fake, self.state, self.x = fake, torch.zeros(3), torch.ones(3)

    def __call__(self) -> Tensor:
        out = torch.full((3,), torch.nan)

        def compute() -> None:
            self.state.add_(1)
            out.copy_(self.x + self.state)

        self.fake.log.append(f"run on {self.fake.current.name}")
        if self.fake.recording is None:
            compute()
        else:
            self.fake.recording.steps.append(compute)
        return out


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph_pool_handle", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


def test_recording_moves_the_state_on_once_and_gives_the_result(fake: FakeCuda) -> None:
    step = Counter(fake)
    graph, result = CudaDevice(0, records=True).capture(step)
    assert graph is not None
    assert step.state.tolist() == [1, 1, 1]
    assert result.tolist() == [2, 2, 2]
    assert fake.log == ["side waits for main", "run on side", "main waits for side", "run on side"]
    assert fake.current.name == "main"
    step.x.fill_(10)
    graph.replay()
    assert result.tolist() == [12, 12, 12]
    graph.replay()
    assert result.tolist() == [13, 13, 13]


def test_graphs_that_never_run_at_once_share_a_pool_of_memory(fake: FakeCuda) -> None:
    device = CudaDevice(0, records=True)
    first, result = device.capture(Counter(fake))
    device.capture(Counter(fake), first)
    device.capture(Counter(fake))
    assert fake.pools[0] is fake.pools[1]
    assert fake.pools[2] is not fake.pools[0]
    # PyTorch keeps the memory of a pool apart by streams, and libraries keep some for each stream.
    assert len(set(map(id, fake.streams))) == 1
    assert first is not None
    assert first.num_bytes == result.nbytes


def test_a_step_that_cannot_be_recorded_is_computed_once_and_said(fake: FakeCuda, caplog: pytest.LogCaptureFixture) -> None:
    fake.fails = True
    device, step = CudaDevice(0, records=True), Counter(fake)
    graph, result = device.capture(step)
    assert graph is None
    assert result.tolist() == [2, 2, 2]
    assert step.state.tolist() == [1, 1, 1]
    assert "cannot be recorded: operation not permitted" in caplog.text
    assert fake.current.name == "main"
    device.capture(step)
    assert len(fake.pools) == 1  # it is not tried again


def test_tokens_are_fetched_by_a_copy_of_their_own(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is given before anything later, and only its own event is waited for."""
    log, empty = fake.log, torch.empty

    class Event:
        def record(self, stream: FakeStream) -> None:
            log.append(f"recorded on {stream.name}")

        def synchronize(self) -> None:
            log.append("waited")

    monkeypatch.setattr(torch.cuda, "Event", Event, raising=False)
    monkeypatch.setattr(torch, "empty", lambda shape, *, dtype, pin_memory: empty(shape, dtype=dtype))
    data = torch.tensor([3, 4])
    wait = CudaDevice(0).fetch(data)
    assert log == ["recorded on main"]
    data.fill_(9)  # by a later step
    assert wait().tolist() == [3, 4]
    assert log == ["recorded on main", "waited"]


def test_numbers_are_sent_by_way_of_pinned_memory_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned, sent, empty = list[Tensor](), list[tuple[Tensor, bool]](), torch.empty

    def allocate(shape: torch.Size, *, dtype: torch.dtype, pin_memory: bool) -> Tensor:
        assert pin_memory
        pinned.append(empty(shape, dtype=dtype))
        return pinned[-1]

    def to(data: Tensor, device: torch.device, non_blocking: bool) -> Tensor:
        sent.append((data, non_blocking))
        return data.clone()

    monkeypatch.setattr(torch, "empty", allocate)
    monkeypatch.setattr(Tensor, "to", to)
    data = torch.tensor([[3, 4]], dtype=torch.int32)
    found = CudaDevice(0).send(data)
    data.fill_(9)  # the copy may not have run
    assert found.tolist() == [[3, 4]]
    assert [(source is pinned[0], late) for source, late in sent] == [(True, True)]
    assert pinned[0].dtype == torch.int32


def test_other_threads_do_not_spoil_a_recording(fake: FakeCuda) -> None:
    CudaDevice(0, records=True).capture(Counter(fake))
    assert fake.modes == {"thread_local"}


def test_the_reference_table_is_not_recorded(fake: FakeCuda) -> None:
    graph, result = CudaDevice(0).capture(Counter(fake))
    assert graph is None
    assert result.tolist() == [2, 2, 2]
    assert not fake.pools


def test_without_a_gpu_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"sees no CUDA device: (its build has no CUDA|no device or driver)"):
        cuda.open_stack()


def test_a_device_chosen_for_this_thread_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES=1"):
        cuda.open_stack()


def test_without_triton_the_reference_runs_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "triton" else original(name, *a))
    stack = cuda.open_stack()
    assert {stack.ops.origin(name) for name in stack.ops.names()} == {"parity.stacks.reference"}
    assert all("Triton is not installed" in note for note in stack.notes.values())
    assert set(stack.notes) == set(stack.ops.names())
    assert not stack.formats


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
def test_with_triton_the_tables_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    stack = cuda.open_stack()
    assert stack.ops.origin("attend") == "parity.stacks.cuda.kernels.attend"
    assert stack.formats == {"fp8_block", "int8_group", "int4_group", "mxfp4", "int4_zero", "awq", "gptq"}
    fixed = with_table(stack, "deterministic")
    assert fixed.name == "cuda:deterministic"
    assert fixed.ops.linear is not stack.ops.linear
    assert fixed.ops.origin("linear") == "parity.stacks.cuda.kernels.linear"
    assert with_table(stack, "reference").ops.origin("attend") == "parity.stacks.reference"


def test_memory_that_pytorch_holds_unused_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: dict[str, Any] = {"mem_get_info": (100, 1000), "memory_reserved": 300, "memory_allocated": 250}
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    memory = CudaDevice(0).memory()
    assert (memory.total, memory.free) == (1000, 150)
