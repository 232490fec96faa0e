"""Whether a checkpoint is made for embeddings: sentence-transformers' files beside it say so, or GGUF's pooling type."""

from __future__ import annotations

import json
from pathlib import Path

from ..core.errors import FormatError
from .checkpoint import Checkpoint
from .safetensors import read_json

_MODULES = "modules.json"
_LAST = 3
"""GGUF's number for the last token's hidden state."""


def pools_last(checkpoint: Checkpoint) -> bool:
    """Whether its embeddings are the last token's hidden state: Qwen3-Embedding's are, and no other kind is computed.

    A folder lists a pooling module in modules.json; how it pools stands in a subfolder, which is looked at if it is there.

    Raises:
        FormatError: modules.json is no list of modules.
    """
    source = checkpoint.text_source
    if not isinstance(source, Path):
        return source.get(f"{source.get('general.architecture')}.pooling_type") == _LAST
    if not (source / _MODULES).is_file():
        return False
    try:
        listed = json.loads((source / _MODULES).read_bytes())
        modules = {str(one["type"]).rpartition(".")[2]: Path(one["path"]).name for one in listed}
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"{source / _MODULES} is not a list of modules with a type and a path") from error
    return "Pooling" in modules and _last(source / modules["Pooling"] / "config.json")


def _last(config: Path) -> bool:
    if not config.is_file():
        return True
    values = read_json(config)
    return values.get("pooling_mode") == "lasttoken" or values.get("pooling_mode_lasttoken") is True
