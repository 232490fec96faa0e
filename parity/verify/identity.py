"""A model named by what it is: hashes that are the same on any hub, mirror or re-sharding."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..core.weights import Packed
from .container import canonical_json

_VOLATILE = frozenset({"transformers_version", "_name_or_path", "use_cache", "architectures", "torch_dtype", "dtype"})
_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "parity-llm")


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config, without keys that say how it was saved rather than what is computed."""
    return _hash({key: value for key, value in config.items() if key not in _VOLATILE})


def text_hash(text: str | None) -> str | None:
    """SHA-256 of a text."""
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def leaf(name: str, tensor: Any) -> str:
    """SHA-256 of one tensor's name, format, shape and bytes."""
    digest = hashlib.sha256()
    if isinstance(tensor, Packed):
        digest.update(canonical_json([name, tensor.format, list(tensor.shape), dict(tensor.meta)]))
        for role in sorted(tensor.arrays):
            digest.update(role.encode())
            digest.update(_bytes(tensor.arrays[role]))
    else:
        digest.update(canonical_json([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]))
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Any) -> memoryview:
    import torch

    return memoryview(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy())


def content_root(names: Iterable[str], read: Callable[[str], Any]) -> tuple[str, dict[str, str]]:
    """The Merkle root over all tensors by name, and the leaves."""
    leaves = {name: leaf(name, read(name)) for name in sorted(names)}
    return merkle_root(list(leaves.values())), leaves


def merkle_root(leaves: list[str]) -> str:
    """The root of a binary tree of SHA-256 over hex leaves; an odd one out moves up as it is."""
    if not leaves:
        return hashlib.sha256(b"").hexdigest()
    while len(leaves) > 1:
        pairs = [leaves[i : i + 2] for i in range(0, len(leaves), 2)]
        leaves = [hashlib.sha256("".join(pair).encode()).hexdigest() if len(pair) == 2 else pair[0] for pair in pairs]
    return leaves[0]


def environment() -> dict[str, str]:
    """Versions and hardware of this process."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _hash(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()
