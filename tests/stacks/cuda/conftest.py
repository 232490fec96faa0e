"""The kernels run under Triton's interpreter, on the host: that is decided when Triton and they are imported."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

collect_ignore: list[str] = []

if importlib.util.find_spec("triton") is None:
    collect_ignore += ["test_kernels.py", "test_models.py"]
else:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("parity.stacks.cuda.table")


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
