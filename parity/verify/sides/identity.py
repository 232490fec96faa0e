"""A model named by what it is: hashes that are the same on any hub, mirror or re-sharding."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..packs.container import canonical_json

_VOLATILE = frozenset({"transformers_version", "_name_or_path", "use_cache", "architectures", "torch_dtype", "dtype"})
_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "parity-llm")


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config, without keys that say how it was saved rather than what is computed."""
    return _hash({key: value for key, value in config.items() if key not in _VOLATILE})


def text_hash(text: str | None) -> str | None:
    """SHA-256 of a text."""
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


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
