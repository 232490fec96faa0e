"""Loading gives back the memory of what it has copied, and leaves what is used in place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parity.hub import once, open_checkpoint, write_safetensors


def test_memory_is_given_back_when_nobody_holds_a_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "_SWEPT_BYTES", 1000)
    names = [f"w{number}" for number in range(6)]
    write_safetensors(tmp_path, {"model_type": "x"}, {name: torch.zeros(256) for name in names})
    checkpoint = open_checkpoint(tmp_path)
    released: list[str] = []
    monkeypatch.setattr(checkpoint, "release", released.append)
    weights = once.ReadOnce(checkpoint)
    held = [weights.read(name) for name in names[:3]]
    weights.read("w3")
    assert not released
    del held[1]
    weights.read("w4")
    assert released == ["w1", "w3"]
    del held
    weights.read("w5")
    weights.sweep()
    assert sorted(released) == names
    assert len(released) == len(names)


def test_what_was_given_back_reads_the_same(tmp_path: Path) -> None:
    values = torch.arange(10_000.0)
    write_safetensors(tmp_path, {"model_type": "x"}, {"w": values})
    weights = once.ReadOnce(open_checkpoint(tmp_path))
    kept = weights.read("w")
    assert isinstance(kept, torch.Tensor)
    view = kept.view(100, 100)
    del kept
    weights.sweep()
    assert torch.equal(view.flatten(), values)
