"""Whole tiny models with the cuda stack's tables, under Triton's interpreter, against the reference.

`bench/cuda_parity.py --interpreted` does the same for every architecture, in both dtypes: a quarter of an hour.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.engine.engine import Engine
from parity.stacks import registry
from tests.models import tiny
from tests.models.makers import MAKERS

from .interpreted import POINT


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.names()
    monkeypatch.setattr(registry, "names", lambda: {**known, POINT.name: POINT})


@pytest.mark.parametrize("name", ["kimi_linear"])  # latent and linear attention, and experts
def test_a_model_on_our_kernels_is_the_reference(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    reference, ours = tiny.open_engine(tmp_path), tiny.open_engine(tmp_path, stack="interpreted:float32")
    prompts = [tiny.prompt(length, 160, length) for length in (9, 3)]
    error = tiny.relative_error(tiny.logits(ours, prompts[0]), tiny.logits(reference, prompts[0]))
    assert error < 1e-5

    def tokens(engine: Engine) -> list[list[int]]:
        outputs = tiny.finish(engine, [tiny.greedy(str(i), prompt, 2) for i, prompt in enumerate(prompts)])
        return [tiny.generated(outputs[str(i)]) for i in range(len(prompts))]

    assert tokens(ours) == tokens(reference)
