from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from parity import hub
from parity.cli import main

from .fake_llm import FakeLLM

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeLLM]:
    """The command line opens this instead of a model."""
    monkeypatch.setitem(sys.modules, "parity.llm", SimpleNamespace(LLM=FakeLLM))
    monkeypatch.setattr(hub, "pull", lambda name, **_: name, raising=False)
    FakeLLM.calls.clear()
    return FakeLLM


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs one command in this process: (exit code, standard output, standard error)."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run
