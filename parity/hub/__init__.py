"""Bytes in and out: the catalogue and its sources, safetensors and GGUF files, checkpoints and the rules of their names.

Names are imported when first used, so that listing and pulling models need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, TensorInfo, open_checkpoint
    from .gguf_writer import export_gguf, write_gguf
    from .safetensors import write_safetensors
    from .weights import Plan, account

__all__ = [
    "Checkpoint",
    "Plan",
    "TensorInfo",
    "account",
    "export_gguf",
    "open_checkpoint",
    "write_gguf",
    "write_safetensors",
]

_HOMES = {
    "Checkpoint": "checkpoint",
    "Plan": "weights",
    "TensorInfo": "checkpoint",
    "account": "weights",
    "export_gguf": "gguf_writer",
    "open_checkpoint": "checkpoint",
    "write_gguf": "gguf_writer",
    "write_safetensors": "safetensors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
