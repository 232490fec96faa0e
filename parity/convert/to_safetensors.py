"""Any checkpoint as a folder of safetensors: plain, or in compressed-tensors' groups of integers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.errors import Unsupported
from ..core.weights import Packed
from ..hub.checkpoint import Checkpoint
from ..hub.pooling import pools_last, write_pooling
from ..hub.safetensors import write_shards
from ..text.byte_pair import BytePairTokenizer
from ..text.gguf_metadata import write_files
from ..text.tokenizer import load_tokenizer

_TEXT_FILES = (
    "tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json", "chat_template*",
    "tiktoken.model", "LICENSE*", "modules.json", "[0-9]_*/config.json", "config_sentence_transformers.json",
)  # fmt: skip
_KINDS = {"int4_group": (4, "pack-quantized"), "int8_group": (8, "int-quantized")}
SHARD_BYTES = 2_000_000_000
"""A shard is held in memory while it is written."""


def write(folder: Path, checkpoint: Checkpoint, dtype: torch.dtype | None) -> None:
    """Fills a folder.

    Args:
        dtype: of the plain tensors, if all are brought to one: it is written into the config.

    Raises:
        Unsupported: a format that safetensors have no standard form for, or a tokenizer that cannot be written.
    """
    write_shards(folder, _arrays(checkpoint), SHARD_BYTES)
    write_json(folder / "config.json", _config(checkpoint, dtype))
    if checkpoint.generation_config:
        write_json(folder / "generation_config.json", checkpoint.generation_config)
    _write_texts(folder, checkpoint)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A file as Hugging Face's are written."""
    path.write_text(json.dumps(dict(content), indent=2, ensure_ascii=False) + "\n", "utf-8")


def _arrays(checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    for name in checkpoint.tensors:
        weight = checkpoint.read(name)
        if isinstance(weight, torch.Tensor):
            yield name, weight
            continue
        if weight.format not in _KINDS:
            raise Unsupported(f"{name}: {weight.format} has no standard form in safetensors; expand it, or write GGUF")
        yield from _compressed(name.removesuffix(".weight"), weight)


def _compressed(stem: str, weight: Packed) -> Iterator[tuple[str, torch.Tensor]]:
    if weight.format == "int8_group":
        yield f"{stem}.weight", weight.arrays["data"]
    else:
        yield f"{stem}.weight_packed", weight.arrays["data"]
        yield f"{stem}.weight_shape", torch.tensor(weight.shape)
    yield f"{stem}.weight_scale", weight.arrays["scale"]


def _config(checkpoint: Checkpoint, dtype: torch.dtype | None) -> dict[str, Any]:
    config = {key: value for key, value in checkpoint.config.items() if key not in ("quantization_config", "torch_dtype")}
    # GGUF has no such key, and engines choose their class by it.
    config.setdefault("architectures", [class_name(str(config["model_type"]))])
    if isinstance(config.get("text_config"), Mapping):
        config["text_config"] = {k: v for k, v in config["text_config"].items() if k != "quantization_config"}
    if dtype is not None:
        config["dtype"] = str(dtype).removeprefix("torch.")
    elif "torch_dtype" in checkpoint.config:
        config["dtype"] = checkpoint.config["torch_dtype"]
    packed = {info.format for info in checkpoint.tensors.values() if info.format in _KINDS}
    if packed:
        config["quantization_config"] = _quantization(checkpoint, packed.pop())
    return config


def class_name(model_type: str) -> str:
    """What transformers calls the class: `Qwen2MoeForCausalLM` for `qwen2_moe`; a part of digits keeps its underscore."""
    parts = model_type.removesuffix("_text").split("_")
    return "".join(f"_{part}" if part.isdecimal() else part.capitalize() for part in parts) + "ForCausalLM"


def _quantization(checkpoint: Checkpoint, form: str) -> dict[str, Any]:
    bits, layout = _KINDS[form]
    plain = [
        name.removesuffix(".weight")
        for name, info in checkpoint.tensors.items()
        if name.endswith(".weight") and len(info.shape) == 2 and info.format != form and "embed_tokens" not in name
    ]
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": 32,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "format": layout}},
        "ignore": plain,
    }


def _write_texts(folder: Path, checkpoint: Checkpoint) -> None:
    source = checkpoint.text_source
    if isinstance(source, Path):
        for pattern in _TEXT_FILES:
            for file in source.glob(pattern):
                if file.is_file() and file.suffix != ".py":
                    copy = folder / file.relative_to(source)
                    copy.parent.mkdir(exist_ok=True)
                    shutil.copyfile(file, copy)
        return
    tokenizer = load_tokenizer(source)
    assert isinstance(tokenizer, BytePairTokenizer)
    write_files(tokenizer, folder)
    if pools_last(checkpoint):
        write_pooling(folder, checkpoint.config["hidden_size"])
