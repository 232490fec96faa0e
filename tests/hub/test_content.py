"""The content root: one hash for the same tensors however they are filed."""

from __future__ import annotations

from pathlib import Path

import torch

from parity.hub import content_root, open_checkpoint, write_safetensors

CONFIG = {"model_type": "qwen2"}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"layers.{i}.weight": torch.randn(8, i + 1, generator=generator) for i in range(7)}


def root(path: Path, values: dict[str, torch.Tensor], shard_bytes: int = 10**9) -> str:
    write_safetensors(path, CONFIG, values, shard_bytes)
    return content_root(open_checkpoint(path))


def test_the_same_for_any_sharding_and_order(tmp_path: Path) -> None:
    values = tensors()
    backwards = dict(reversed(values.items()))
    assert root(tmp_path / "a", values) == root(tmp_path / "b", backwards) == root(tmp_path / "c", values, 100)


def test_any_difference_changes_it(tmp_path: Path) -> None:
    values = tensors()
    roots = {root(tmp_path / "0", values)}
    flipped = dict(values)
    flipped["layers.6.weight"] = flipped["layers.6.weight"].clone()
    flipped["layers.6.weight"][7, 6] = flipped["layers.6.weight"][7, 6].nextafter(torch.tensor(9.0))
    renamed = {name.replace("layers.3", "layers.9"): tensor for name, tensor in values.items()}
    reshaped = values | {"layers.1.weight": values["layers.1.weight"].reshape(2, 8)}
    retyped = values | {"layers.1.weight": values["layers.1.weight"].view(torch.int32)}
    fewer = dict(list(values.items())[:-1])
    for number, other in enumerate((flipped, renamed, reshaped, retyped, fewer), 1):
        roots.add(root(tmp_path / str(number), other))
    assert len(roots) == 6


def test_progress(tmp_path: Path) -> None:
    values = tensors()
    write_safetensors(tmp_path, CONFIG, values)
    seen: list[tuple[int, int]] = []
    content_root(open_checkpoint(tmp_path), lambda done, total: seen.append((done, total)))
    total = sum(tensor.nbytes for tensor in values.values())
    assert seen[-1] == (total, total)
    assert len(seen) == len(values)
