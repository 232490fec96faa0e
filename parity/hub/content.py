"""What a model is, as one hash: the same for any mirror, file order or sharding of the same tensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from parity.core.weights import Packed

from .checkpoint import Checkpoint
from .safetensors import tensor_bytes

VERSION = b"parity-content-1"


def content_root(checkpoint: Checkpoint, progress: Callable[[int, int], None] | None = None) -> str:
    """The Merkle root over the tensors sorted by name, in hexadecimal.

    A leaf is SHA-256 of name, format, shape and bytes; a node is SHA-256 of its two children, an odd last one moving up.
    Leaves and nodes are told apart by a first byte. Tokenizer and config are not in it.

    Args:
        progress: called as (bytes hashed, bytes in all), from this thread.
    """
    return root_of(content_leaves(checkpoint, progress))


def root_of(leaves: Mapping[str, str]) -> str:
    """The Merkle root over leaves by tensor name."""
    return _root([bytes.fromhex(leaves[name]) for name in sorted(leaves)]).hex()


def content_leaves(checkpoint: Checkpoint, progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
    """The leaf of each tensor by name, in hexadecimal; see `content_root`."""
    names = sorted(checkpoint.tensors)
    total = sum(info.nbytes for info in checkpoint.tensors.values())
    done = 0
    leaves = {}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        for name, leaf in zip(names, pool.map(lambda name: _leaf(checkpoint, name), names), strict=True):
            leaves[name] = leaf.hex()
            done += checkpoint.tensors[name].nbytes
            if progress is not None:
                progress(done, total)
    return leaves


def _leaf(checkpoint: Checkpoint, name: str) -> bytes:
    weight = checkpoint.read(name)
    arrays = weight.arrays if isinstance(weight, Packed) else {"data": weight}
    shape = "x".join(map(str, weight.shape))
    kind = weight.format if isinstance(weight, Packed) else _dtype(weight)
    digest = hashlib.sha256(b"\x00" + VERSION)
    for text in (name, kind, shape):
        digest.update(_sized(text.encode()))
    for role in sorted(arrays):
        digest.update(_sized(role.encode()) + _sized(_dtype(arrays[role]).encode()))
        digest.update(arrays[role].nbytes.to_bytes(8, "little"))
        digest.update(tensor_bytes(arrays[role]))
    return digest.digest()


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _sized(raw: bytes) -> bytes:
    return len(raw).to_bytes(8, "little") + raw


def _root(level: list[bytes]) -> bytes:
    if not level:
        return hashlib.sha256(VERSION).digest()
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
    return level[0]
