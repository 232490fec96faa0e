"""Recorded steps of the cpu stack."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from parity.formats import pack
from parity.stacks.cpu.native import missing

if missing() is not None:
    pytest.skip(f"the cpu stack's kernels: {missing()}", allow_module_level=True)

from parity.stacks.cpu import open_stack
from parity.stacks.cpu.native import native
from parity.stacks.ops import Activation

STACK = open_stack()
OPS = STACK.ops


def weights() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(512, 128, generator=generator), torch.randn(128, 256, generator=generator)
    return STACK.prepare(pack(up, "q5_0")), STACK.prepare(pack(down, "q8_0"))  # type: ignore[return-value]


def step(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """A few layers with views between them."""
    for _ in range(3):
        y, x = OPS.add_rms_norm(x, x, None, 1e-6)
        hidden = OPS.linear(y, up).unflatten(-1, (2, -1)).flatten(-2)
        x = OPS.linear(OPS.gated_activation(hidden, Activation()), down)
    return x


@torch.inference_mode()
def test_a_replay_computes_on_what_stands_in_the_tensors_now() -> None:
    up, down = weights()
    x = torch.randn(3, 128)
    captured = STACK.device.capture(lambda: step(x, up, down))
    graph, result = captured
    assert graph is not None
    assert torch.equal(result, step(x, up, down))
    for seed in range(5):
        x.copy_(torch.randn(3, 128, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        assert torch.equal(result, step(x, up, down))


@torch.inference_mode()
def test_memory_is_given_out_again_within_a_step() -> None:
    up, down = weights()
    x = torch.randn(3, 128)
    captured = STACK.device.capture(lambda: step(x, up, down))
    layer = 4 * 3 * (128 + 128 + 512 + 256 + 128)  # bytes of the arrays that one of the three makes
    assert captured[0].memory.num_bytes < 2 * layer  # type: ignore[union-attr]


@torch.inference_mode()
def test_a_step_with_a_foreign_operator_is_not_recorded(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(3, 128)
    with caplog.at_level("INFO", logger="parity"):
        graph, result = STACK.device.capture(lambda: OPS.rms_norm(x * 2, None, 1e-6))
    assert graph is None
    assert torch.equal(result, OPS.rms_norm(x * 2, None, 1e-6))
    assert "aten.mul" in caplog.text


@torch.inference_mode()
def test_other_threads_are_not_recorded() -> None:
    up, down = weights()
    x, other = torch.randn(3, 128), torch.randn(3, 128)

    def run() -> torch.Tensor:
        thread = threading.Thread(target=lambda: step(other, up, down))
        thread.start()
        thread.join()
        return step(x, up, down)

    captured, alone = STACK.device.capture(run), STACK.device.capture(lambda: step(x, up, down))
    assert len(captured[0]) == len(alone[0])  # type: ignore[arg-type]


def test_runs_on_several_threads_are_equal_to_the_bit() -> None:
    before = native().threads()
    up, down = weights()
    x = torch.randn(5, 128)
    try:
        native().set_threads(1)
        expected = step(x, up, down)
        native().set_threads(4)
        with torch.inference_mode():
            captured = STACK.device.capture(lambda: step(x, up, down))
            for _ in range(300):
                captured[1].zero_()
                captured[0].replay()
                assert torch.equal(captured[1], expected)
    finally:
        native().set_threads(before)


def rows_of(count: int) -> torch.Tensor:
    """Activations of so many rows."""
    return torch.randn(count, 128, generator=torch.Generator().manual_seed(count))


@torch.inference_mode()
def test_steps_that_never_run_at_once_work_in_the_same_memory() -> None:
    up, down = weights()
    inputs = [rows_of(count) for count in (2, 7, 3)]
    before, recorded = None, []
    for x in inputs:
        before, result = STACK.device.capture(lambda x=x: step(x, up, down), before)  # type: ignore[misc]
        recorded.append((before, result))
    alone = STACK.device.capture(lambda: step(inputs[1], up, down))[0]
    memories = [graph.memory for graph, _ in recorded]  # type: ignore[union-attr]
    assert memories[0] is memories[1] is memories[2]
    assert memories[0].num_bytes == alone.memory.num_bytes, "more than the largest step takes"  # type: ignore[union-attr]
    assert alone.memory is not memories[0]  # type: ignore[union-attr]
    for x, (graph, result) in [*zip(inputs, recorded, strict=True)] * 2:
        for region in memories[0].regions:
            region.fill(255)  # not a number
        graph.replay()  # type: ignore[union-attr]
        assert torch.equal(result, step(x, up, down))


@torch.inference_mode()
def test_what_is_computed_without_a_recording_lies_elsewhere() -> None:
    up, down = weights()
    x = rows_of(700)
    expected = step(x, up, down)
    kept = expected.clone()
    graph, result = STACK.device.capture(lambda: step(x, up, down))
    for region in graph.memory.regions:  # type: ignore[union-attr]
        region.fill(255)
    assert torch.equal(expected, kept)
    assert not torch.equal(result, kept)


@torch.inference_mode()
def test_a_step_that_keeps_an_array_is_not_recorded(caplog: pytest.LogCaptureFixture) -> None:
    x, kept = rows_of(3), []

    def run() -> torch.Tensor:
        kept.append(OPS.rms_norm(x, None, 1e-6))
        return OPS.rms_norm(kept[0], None, 1e-6)

    with caplog.at_level("INFO", logger="parity"):
        graph, result = STACK.device.capture(run)
    assert graph is None
    assert torch.equal(result, OPS.rms_norm(kept[0], None, 1e-6))
    assert "keeps arrays that the next would overwrite" in caplog.text


FORK = """
import array, importlib.util, os, sys
spec = importlib.util.spec_from_file_location("_native", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
native.set_threads(2)
x, out = array.array("f", [1.0]) * (1 << 20), array.array("f", [0.0]) * (1 << 20)
rows = (x.buffer_info()[0], 1 << 10, 1, 0)

def doubled():
    out[-1] = 0.0
    native.add(rows, rows, out.buffer_info()[0], 1 << 10, 1 << 10)
    return out[-1] == 2.0

assert doubled()
child = os.fork()
if child == 0:
    os._exit(0 if doubled() and doubled() and native.threads() == 2 else 1)
assert os.waitpid(child, 0)[1] == 0 and doubled()
"""


def test_a_forked_process_has_threads_of_its_own() -> None:
    result = subprocess.run([sys.executable, "-c", FORK, native().__file__], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
