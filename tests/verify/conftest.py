"""Small packs with known contents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parity.verify.packs import PackWriter
from parity.verify.record import Answer, Exact, Identity, Layers, Plan, Positions, Record
from parity.verify.statistics.divergence import Top

PLAN = Plan("test", "0" * 64, "1" * 64, top_k=4)


def make_record(name: str, rng: np.random.Generator, n: int = 6) -> Record:
    ids = np.argsort(rng.random((n, 50)), axis=1)[:, :4].astype(np.int32)
    p = -np.sort(-rng.dirichlet(np.ones(5), n)[:, :4], axis=1)
    top = Top(ids, np.log(p).astype(np.float32), np.log1p(-p.sum(1)).astype(np.float32))
    at = np.arange(n, dtype=np.int32)
    sketch = rng.normal(size=(n, 32)).astype(np.float32)
    positions = Positions(at, top, rng.random(n).astype(np.float32), sketch)
    answer = Answer("four", "stop", tuple(int(i) for i in ids[:, 0]), top, n, (("add", '{"a": 1}'),))
    tokens = rng.integers(0, 50, n).astype(np.int32)
    return Record(name, tokens, n, {"one_shot": positions, "stepwise": positions}, answer, tokens[None], {"prefill": 0.5})


@pytest.fixture
def make_pack(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "a.pack", records: int = 3, seed: int = 1) -> Path:
        rng = np.random.Generator(np.random.Philox(key=seed))
        identity = Identity("cpu", "local", "tiny", "qwen2", "cpu", "float32", "ab" * 32, {"w": "cd" * 32})
        with PackWriter(tmp_path / name, made_by="test", identity=identity, plan=PLAN) as writer:
            for index in range(records):
                writer.add(make_record(f"p{index}", rng))
            writer.add_exact({"matmul": Exact("ee" * 32, "ee" * 32)})
            tokens = np.arange(4, dtype=np.int32)
            value = rng.normal(size=(4, 8)).astype(np.float32)
            writer.add_layers(Layers(tokens, ((0, "stream"), (1, "stream")), (value, value + 1)))
            writer.unreached["level 6"] = "no chat"
        return tmp_path / name

    return make
