"""The kernels run under Triton's interpreter, on the host: that is decided when Triton and they are imported."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator

import pytest
import torch

collect_ignore: list[str] = []

if importlib.util.find_spec("triton") is None:
    collect_ignore += ["test_far.py", "test_kernels.py", "test_models.py", "test_packed.py"]
else:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("parity.stacks.cuda.table")


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _nothing_is_zero_by_chance() -> Iterator[None]:
    """Memory that nobody wrote to is NaN, as it may be on a GPU: it must not be read."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)
