"""Any plain checkpoint as one GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import Unsupported
from ..engine.load import sampling_defaults
from ..hub.checkpoint import Checkpoint
from ..hub.gguf_config import SAMPLING
from ..hub.gguf_writer import Later, Writable, export_gguf, layout_for
from ..hub.pooling import LAST_TOKEN, pools_last
from ..text.gguf_metadata import metadata_of
from ..text.tokenizer import load_tokenizer


def write(path: Path, checkpoint: Checkpoint, name: str) -> None:
    """Writes the file; tensors are read, and packed, one after the other.

    Raises:
        Unsupported: GGUF has no place for the architecture, a tensor, the tokenizer or the method of decoding.
    """
    config = flat_config(checkpoint.config)
    architecture, _ = layout_for(config)
    tokenizer = load_tokenizer(checkpoint.text_source)
    rows = next(info.shape[0] for name, info in checkpoint.tensors.items() if name.endswith("embed_tokens.weight"))
    metadata = {"general.name": name, "general.quantization_version": 2}
    defaults = sampling_defaults(checkpoint.generation_config)
    metadata |= {f"general.sampling.{SAMPLING[ours]}": value for ours, value in defaults.items()}
    if pools_last(checkpoint):
        metadata[f"{architecture}.pooling_type"] = LAST_TOKEN
    export_gguf(path, config, _later(checkpoint), metadata | metadata_of(tokenizer, rows))


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its rotation in the two keys that came first.

    Raises:
        Unsupported: layers rotate in different ways.
    """
    found = dict(config)
    rope = found.pop("rope_parameters", None)
    if rope is None:
        return found
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise Unsupported(f"{config['model_type']}: a rotation for each kind of layer is not written as GGUF")
    found["rope_theta"] = rope.get("rope_theta", found.get("rope_theta"))
    if rope.get("rope_type", "default") != "default":
        found["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return found


def _later(checkpoint: Checkpoint) -> dict[str, Writable]:
    def later(name: str) -> Later:
        info = checkpoint.tensors[name]
        return Later(info.format, info.shape, info.nbytes, lambda: checkpoint.read(name))

    return {name: later(name) for name in checkpoint.tensors}
