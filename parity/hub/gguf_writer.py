"""Writing GGUF version 3, and translating a Hugging Face config and names to it."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from parity.core.errors import Unsupported
from parity.core.weights import Packed
from parity.formats import FORMATS, rows

from .gguf import ARRAY, BLOCKS, DEFAULT_ALIGNMENT, MAGIC, PLAIN, STRING
from .gguf_checkpoint import gguf_name, hugging_face_name
from .gguf_layouts import LAYOUTS
from .gguf_names import ROPE_FACTORS, SCALING, Layout
from .safetensors import tensor_bytes

_VERSION = 3
_WRITABLE = {"rope_q", "rope_k", "row"}
_ALIASES = {"num_experts": "num_local_experts"}  # newer configs' name
_KINDS = {name: kind for kind, name in BLOCKS.items()}
_KINDS |= {str(dtype).removeprefix("torch."): kind for kind, (_, dtype) in PLAIN.items()}
_ARRAY_KINDS = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12}


@dataclass(frozen=True)
class Later:
    """A tensor that is read or packed only when its turn comes, so that a file may be larger than the memory.

    Args:
        format: a packed format's name, or a torch dtype's such as `bfloat16`.
        read: gives just that.
    """

    format: str
    shape: tuple[int, ...]
    nbytes: int
    read: Callable[[], torch.Tensor | Packed]


Writable: TypeAlias = torch.Tensor | Packed | Later


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Writable]) -> None:
    """Writes a file with GGUF's own keys and names; it appears under its name only when complete.

    Args:
        metadata: strings, booleans, whole numbers (unsigned 32 bits where they fit, else 64), floats (32 bits), lists of
            one kind, numpy arrays (their own dtype).
        tensors: plain, or packed in a GGUF format.

    Raises:
        Unsupported: a tensor's dtype or format has no place in GGUF.
    """
    head = bytearray(MAGIC + struct.pack("<IQQ", _VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        head += _string(key) + _value(value)
    position = 0
    for name, tensor in tensors.items():
        head += _string(name) + struct.pack("<I", len(tensor.shape))
        head += b"".join(struct.pack("<Q", size) for size in reversed(tensor.shape))
        head += struct.pack("<IQ", _kind(name, tensor), position)
        position += tensor.nbytes + -tensor.nbytes % DEFAULT_ALIGNMENT
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            file.write(head + bytes(-len(head) % DEFAULT_ALIGNMENT))
            for name, tensor in tensors.items():
                found = tensor.read() if isinstance(tensor, Later) else tensor
                assert found.nbytes == tensor.nbytes, f"{name} has {found.nbytes} bytes, not {tensor.nbytes}"
                file.write(tensor_bytes(found.arrays["data"] if isinstance(found, Packed) else found))
                file.write(bytes(-tensor.nbytes % DEFAULT_ALIGNMENT))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def export_gguf(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Writable], extra: Mapping[str, Any]) -> None:
    """Writes a model given by Hugging Face's config and names; `extra` is further metadata, such as the tokenizer's.

    Raises:
        Unsupported: GGUF has no such architecture, no name for a tensor, or another value for what it has no key for.
    """
    architecture, layout = layout_for(config)
    for key, value in layout.constants.items():
        if config.get(key) not in (None, value):
            raise Unsupported(f"{key} = {config[key]!r} has no place in GGUF's {architecture}, which computes it as {value!r}")
    metadata: dict[str, Any] = {"general.architecture": architecture, "general.type": "model"}
    for key, target in layout.numbers.items():
        value = config.get(key, config.get(_ALIASES.get(key, key)))
        if value is not None:
            metadata[f"{architecture}.{target}"] = value
    if layout.numbers.get("head_dim") == "attention.key_length" and "head_dim" in config:
        metadata[f"{architecture}.attention.value_length"] = config["head_dim"]
    if layout.numbers.get("head_dim") == "rope.dimension_count" and "head_dim" not in config:
        metadata[f"{architecture}.rope.dimension_count"] = config["hidden_size"] // config["num_attention_heads"]
    metadata |= _scaling(config, architecture)
    written = {}
    for name, tensor in tensors.items():
        if config.get("tie_word_embeddings") and name == "lm_head.weight":
            continue
        target = gguf_name(name, layout)
        if (target == name and name != ROPE_FACTORS) or hugging_face_name(target, layout) != name:
            raise Unsupported(f"GGUF's {architecture} has no name for {name}")
        written[target] = _changed(name, tensor, config, layout)
    write_gguf(path, {**metadata, **extra}, written)


def layout_for(config: Mapping[str, Any]) -> tuple[str, Layout]:
    """(GGUF's name of a config's architecture, its layout).

    Raises:
        Unsupported: it is none that is written.
    """
    for architecture, layout in LAYOUTS.items():
        writable = _WRITABLE.issuperset(layout.changes.values()) and not layout.kind
        if layout.model_type == config["model_type"] and writable:
            return architecture, layout
    raise Unsupported(f"{config['model_type']!r} is not written as GGUF")


def _scaling(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    scaling = {key: value for key, value in (config.get("rope_scaling") or {}).items() if value is not None}
    old = scaling.pop("type", "default")
    kind = scaling.pop("rope_type", old)
    if kind == "default":
        return {}
    if kind not in ("linear", "yarn"):
        raise Unsupported(f"rope scaling {kind!r} is not written as GGUF")
    if kind == "yarn" and "attention_factor" in scaling:
        # GGUF's is a multiple of the temperature that follows from the factor.
        scaling["attn_factor"] = scaling.pop("attention_factor") / (0.1 * math.log(scaling["factor"]) + 1)
    left = sorted(scaling.keys() - SCALING.keys())
    if left:
        raise Unsupported(f"rope scaling {kind!r} with {', '.join(left)} is not written as GGUF, which has no such keys")
    prefix = f"{architecture}.rope.scaling."
    return {prefix + "type": kind} | {prefix + SCALING[key]: value for key, value in scaling.items()}


def _changed(name: str, tensor: Writable, config: Mapping[str, Any], layout: Layout) -> Writable:
    module = name.rpartition(".")[0].split(".", 3)[-1]
    change = layout.changes.get(module, "")
    if isinstance(tensor, Later) and change:
        shape = (math.prod(tensor.shape),) if change == "row" else tensor.shape
        return replace(tensor, shape=shape, read=lambda: _present(_changed(name, tensor.read(), config, layout)))
    if change == "row" and isinstance(tensor, torch.Tensor):
        return tensor.reshape(-1)
    if change not in ("rope_q", "rope_k") or isinstance(tensor, Later):
        return tensor
    heads = config["num_attention_heads"]
    heads = config.get("num_key_value_heads", heads) if change == "rope_k" else heads
    return rows(tensor, torch.arange(tensor.shape[0]).reshape(heads, 2, -1).transpose(1, 2).reshape(-1))


def _present(tensor: Writable) -> torch.Tensor | Packed:
    assert not isinstance(tensor, Later)
    return tensor


def _kind(name: str, tensor: Writable) -> int:
    form = str(tensor.dtype).removeprefix("torch.") if isinstance(tensor, torch.Tensor) else tensor.format
    if form in _KINDS:
        return _KINDS[form]
    raise Unsupported(f"{name}: {form} has no place in GGUF" + ("; expand it first" if form in FORMATS else ""))


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        small = 0 <= value < 2**32
        return struct.pack("<II", 4, value) if small else struct.pack("<Iq", 11, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, np.ndarray):
        kind = _ARRAY_KINDS[value.dtype.str[1:]]
        return struct.pack("<IIQ", ARRAY, kind, value.size) + value.tobytes()
    if isinstance(value, Sequence) and all(isinstance(one, str) for one in value):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_string, value))
    if isinstance(value, Sequence):
        array = np.asarray(value)
        return _value(array.astype(np.float32 if array.dtype.kind == "f" else np.int32))
    raise Unsupported(f"metadata of type {type(value).__name__} has no place in GGUF")
