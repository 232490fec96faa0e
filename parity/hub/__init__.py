"""Bytes in and out: the catalogue and its sources, safetensors and GGUF files, checkpoints and the rules of their names.

Names are imported when first used, so that listing and pulling models need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .catalogue import default_model
    from .checkpoint import Checkpoint, TensorInfo, open_checkpoint
    from .content import content_root
    from .gguf_writer import export_gguf, write_gguf
    from .library import ModelRow, check_pulled, find, list_models, pull, remove, show
    from .safetensors import write_safetensors
    from .settings import HubSettings
    from .weights import Plan, account

__all__ = [
    "Checkpoint",
    "HubSettings",
    "ModelRow",
    "Plan",
    "TensorInfo",
    "account",
    "check_pulled",
    "content_root",
    "default_model",
    "export_gguf",
    "find",
    "list_models",
    "open_checkpoint",
    "pull",
    "remove",
    "show",
    "write_gguf",
    "write_safetensors",
]

_HOMES = {
    "Checkpoint": "checkpoint",
    "HubSettings": "settings",
    "ModelRow": "library",
    "Plan": "weights",
    "TensorInfo": "checkpoint",
    "account": "weights",
    "check_pulled": "library",
    "content_root": "content",
    "default_model": "catalogue",
    "export_gguf": "gguf_writer",
    "find": "library",
    "list_models": "library",
    "open_checkpoint": "checkpoint",
    "pull": "library",
    "remove": "library",
    "show": "library",
    "write_gguf": "gguf_writer",
    "write_safetensors": "safetensors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
