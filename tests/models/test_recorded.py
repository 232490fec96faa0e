"""Decode steps of every architecture on the cpu stack: computed by native kernels alone, recorded, and replayed to the bit."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from parity.core.batch import Result
from parity.core.errors import UsageError
from parity.core.request import Output
from parity.engine.engine import Engine
from parity.engine.runner import Started
from parity.models import registry
from parity.stacks.cpu.native import missing, native

from . import tiny
from .makers import AS_OTHERS, MAKERS

if missing() is not None:
    pytest.skip(f"the cpu stack's kernels: {missing()}", allow_module_level=True)

from parity.stacks.cpu.device import NativeDevice
from parity.stacks.cpu.graph import TORCH_THREADS


def test_every_architecture_is_here() -> None:
    for one in registry.architectures():
        assert any(name in MAKERS or name in AS_OTHERS for name in one.model_types), one.model_types


def decoded(engine: Engine) -> dict[str, list[Output]]:
    """Prompts of several lengths, so that steps of one, two and three sequences are decoded."""
    requests = [tiny.greedy(str(count), tiny.prompt(9 + 7 * count, 160, count), 5 + 6 * count) for count in range(3)]
    return tiny.finish(engine, requests)


def values(outputs: dict[str, list[Output]]) -> dict[str, list[object]]:
    """Tokens and log-probabilities."""
    return {name: [(one.tokens, one.logprobs) for one in some] for name, some in outputs.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_replayed_steps_are_the_same_to_the_bit(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    MAKERS[name](tmp_path)
    with caplog.at_level(logging.INFO, logger="parity"):
        recording = tiny.open_engine(tmp_path, stack="cpu")
        found = decoded(recording)
    assert "the reference computes it" not in caplog.text
    assert set(recording.runner.recorded) == {1, 2, 3}, caplog.text
    expected = decoded(tiny.open_engine(tmp_path, stack="cpu", enforce_eager=True))
    assert values(found) == values(expected)
    # Once more, in other pages and slots.
    assert values(decoded(recording)) == values(expected)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama."""
    folder = tmp_path_factory.mktemp("llama")
    MAKERS["llama"](folder)
    return folder


def test_a_recording_outlives_another_number_of_threads(llama: Path) -> None:
    engine, before = tiny.open_engine(llama, stack="cpu"), native().threads()
    expected = values(decoded(engine))
    try:
        for threads in (1, 3):
            native().set_threads(threads)
            assert values(decoded(engine)) == expected
    finally:
        native().set_threads(before)


def test_threads_are_as_many_as_asked(llama: Path) -> None:
    before, of_torch = native().threads(), torch.get_num_threads()
    try:
        for count in (1, 2):
            engine = tiny.open_engine(llama, stack="cpu", threads=count)
            assert native().threads() == count
            assert TORCH_THREADS.count == count
        decoded(engine)
        assert torch.get_num_threads() == 1, "two pools share the processors"
        tiny.open_engine(llama, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        native().set_threads(before)
        torch.set_num_threads(of_torch)


@pytest.mark.parametrize("count", [0, -1, 100_000])
def test_impossible_numbers_of_threads_are_refused(llama: Path, count: int) -> None:
    with pytest.raises(UsageError, match=rf"threads must be 1 to \d+, the processors of this machine, not {count}"):
        tiny.open_engine(llama, stack="cpu", threads=count)


def test_a_probe_sees_steps_that_are_recorded(llama: Path) -> None:
    engine = tiny.open_engine(llama, stack="cpu")
    expected = values(decoded(engine))
    seen: list[int] = []
    engine.runner.probe = lambda layer, site, value: seen.append(len(value))  # type: ignore[func-returns-value]
    assert values(decoded(engine)) == expected
    assert set(seen) >= {1, 2, 3}
    engine.runner.probe = None
    seen.clear()
    assert values(decoded(engine)) == expected
    assert not seen


def test_more_sequences_than_are_recorded_are_computed_all_the_same(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = values(decoded(tiny.open_engine(llama, stack="cpu")))
    monkeypatch.setattr(NativeDevice, "recorded_rows", (1, 2))
    engine = tiny.open_engine(llama, stack="cpu")
    assert values(decoded(engine)) == expected
    assert set(engine.runner.recorded) == {1, 2}


@pytest.mark.parametrize("name", ["llama", "qwen3_next", "deepseek_v32", "deepseek_v4", "kimi_k3"])
def test_rows_that_fill_a_step_up_change_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MAKERS[name](tmp_path)
    expected = values(decoded(tiny.open_engine(tmp_path, stack="cpu", enforce_eager=True)))
    monkeypatch.setattr(NativeDevice, "recorded_rows", (2, 5))
    engine = tiny.open_engine(tmp_path, stack="cpu")
    for _ in range(2):
        assert values(decoded(engine)) == expected
        assert set(engine.runner.recorded) == {2, 5}


@pytest.mark.parametrize("name", ["llama", "qwen3_next", "deepseek_v4"])
def test_recordings_share_memory_and_carry_nothing_over_in_it(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    expected = values(decoded(tiny.open_engine(tmp_path, stack="cpu", enforce_eager=True)))
    engine = tiny.open_engine(tmp_path, stack="cpu")
    decoded(engine)
    recorded = engine.runner.recorded
    assert set(recorded) == {1, 2, 3}
    memories = {id(one.graph.memory): one.graph.memory for one in recorded.values()}  # type: ignore[attr-defined]
    assert len(memories) == 1
    (memory,) = memories.values()
    largest = recorded[3].logits.nbytes
    assert largest < memory.num_bytes
    assert sum(one.logits.nbytes for one in recorded.values()) == 2 * largest, "sizes that show nothing"
    for one in recorded.values():
        start = one.logits.data_ptr() - memory.regions[0].ctypes.data
        assert 0 <= start <= memory.num_bytes - one.logits.nbytes
    finish = engine.runner.finish

    def poisoned(started: Started) -> list[Result]:
        """What a step computed is overwritten as soon as its results are read."""
        results = finish(started)
        for region in memory.regions:
            region.fill(255)
        return results

    engine.runner.finish = poisoned  # type: ignore[method-assign]
    assert values(decoded(engine)) == expected


def test_the_recordings_not_used_for_longest_make_room(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny.open_engine(llama, stack="cpu")
    expected = values(decoded(engine))
    each = max(recorded.graph.num_bytes for recorded in engine.runner.recorded.values())
    monkeypatch.setattr("parity.engine.recordings._MOST_BYTES", 2 * each)
    monkeypatch.setattr("parity.engine.recordings._MOST_SHARE", 0)
    engine = tiny.open_engine(llama, stack="cpu")
    for _ in range(2):
        assert values(decoded(engine)) == expected
        assert list(engine.runner.recorded) == [2, 1]
