"""The cpu stack where its kernels were not built: the reference's numbers, and one line in the log that says what to do."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator

import pytest
import torch

from parity.core.errors import UsageError
from parity.stacks import cpu
from parity.stacks.cpu import native, products


@pytest.fixture
def _no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    original = importlib.import_module

    def without(name: str, package: str | None = None) -> object:
        if name.endswith("._native"):
            raise ImportError(f"No module named {name!r}")
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    native._load.cache_clear()
    yield
    native._load.cache_clear()


@pytest.mark.usefixtures("_no_kernels")
def test_it_works_and_says_so_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARITY_NATIVE", raising=False)
    with caplog.at_level(logging.WARNING, "parity"):
        stack, again = cpu.open_stack(), cpu.open_stack()
    (record,) = caplog.records
    assert "are not built" in record.message
    assert "apt install g++" in record.message
    assert "slower" in record.message
    assert stack.ops is again.ops is products.REFERENCE_OPS
    assert not stack.formats
    assert all("not built" in stack.notes[name] for name in stack.ops.names())
    x = torch.ones(2, 3)
    assert torch.equal(stack.ops.linear(x, torch.ones(4, 3)), torch.full((2, 4), 3.0))


@pytest.mark.usefixtures("_no_kernels")
def test_switched_off_it_says_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_NATIVE", "0")
    with caplog.at_level(logging.WARNING, "parity"):
        stack = cpu.open_stack()
    assert not caplog.records
    assert "PARITY_NATIVE=0" in stack.notes["linear"]


@pytest.mark.skipif(native.missing() is not None, reason="the kernels are not built")
def test_kernels_older_than_their_sources_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_interface", lambda: "that of other sources")
    native._load.cache_clear()
    with pytest.raises(UsageError, match=r"built from other sources than these: run pip install -e \. again"):
        native.native()
    native._load.cache_clear()
