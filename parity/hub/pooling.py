"""Whether a checkpoint is made for embeddings: sentence-transformers' files beside it say so, or GGUF's pooling type."""

from __future__ import annotations

import json
from pathlib import Path

from ..core.errors import FormatError, Unsupported
from .checkpoint import Checkpoint
from .safetensors import read_json

_MODULES = "modules.json"
_CONFIG = "config.json"
_KNOWN = {"Transformer", "Pooling", "Normalize"}
LAST_TOKEN = 3
"""GGUF's number for the last token's hidden state."""


def pools_last(checkpoint: Checkpoint) -> bool:
    """Whether its embeddings are the last token's hidden state: Qwen3-Embedding's are, and no other kind is computed.

    A folder lists a pooling module in modules.json; how it pools stands in a subfolder, which is looked at if it is there.

    Raises:
        FormatError: modules.json is no list of modules.
        Unsupported: something else is computed from the hidden state.
    """
    source = checkpoint.text_source
    if not isinstance(source, Path):
        return source.get(f"{source.get('general.architecture')}.pooling_type") == LAST_TOKEN
    if not (source / _MODULES).is_file():
        return False
    try:
        listed = json.loads((source / _MODULES).read_bytes())
        modules = {str(one["type"]).rpartition(".")[2]: Path(one["path"]).name for one in listed}
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"{source / _MODULES} is not a list of modules with a type and a path") from error
    if "Pooling" not in modules or not _last(source / modules["Pooling"] / _CONFIG):
        return False
    if others := modules.keys() - _KNOWN:
        names = ", ".join(sorted(others))
        raise Unsupported(f"{source / _MODULES}: embeddings go through {names}, which Parity does not compute")
    return True


def write_pooling(folder: Path, hidden_size: int) -> None:
    """The files by which sentence-transformers knows that embeddings are the last token's hidden state, brought to length 1."""
    steps = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(steps)
    ]
    pooling = {"word_embedding_dimension": hidden_size, "pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}
    for name, content in ((_MODULES, modules), (f"1_Pooling/{_CONFIG}", pooling)):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _last(config: Path) -> bool:
    if not config.is_file():
        return True
    values = read_json(config)
    return values.get("pooling_mode") == "lasttoken" or values.get("pooling_mode_lasttoken") is True
