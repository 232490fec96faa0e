"""A GGUF file, or a split one, as a checkpoint under Hugging Face's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from parity.core.errors import FormatError
from parity.core.weights import Packed
from parity.formats import expand, rows

from .checkpoint import TensorInfo
from .gguf import PLAIN, GgufTensor, open_parts
from .gguf_config import generation_config, hugging_face_config, layout_of
from .gguf_names import ROPE_FACTORS, TOP, Change, Layout

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_DTYPES = {format: str(dtype).removeprefix("torch.") for format, dtype in PLAIN.values()}
_CORRECTION = "mlp.gate.e_score_correction"


class GgufCheckpoint:
    """Experts come stacked, as `mlp.experts.gate_proj.weight` [experts, out, in] and so on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = open_parts(path)
        self.text_source: Mapping[str, Any] = parts[0].metadata
        self._layout = layout_of(self.text_source, str(path))
        self._files = {name: part for part in parts for name in part.tensors}
        if "token_embd.weight" not in self._files:
            raise FormatError(f"{path} has no token_embd.weight")
        self.config: Mapping[str, Any] = self._config()
        self._sources = self._named()
        self.tensors: Mapping[str, TensorInfo] = {name: self._info(name) for name in self._sources}

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """End tokens, and sampling defaults where the file has them."""
        return generation_config(self.text_source)

    def read(self, name: str) -> torch.Tensor | Packed:
        """A tensor: a view of the mapped file, but for llama's interleaved rows (copied) and a split kv_b (expanded)."""
        sources = self._sources[name]
        if len(sources) > 1:
            return self._joined(*(self._raw(source) for source in sources))
        weight = self._raw(sources[0])
        change = self._change(name)
        if change in ("rope_q", "rope_k"):
            return rows(weight, self._halves(weight.shape, change))
        if change == "row" and isinstance(weight, torch.Tensor):
            return weight.reshape(1, -1)
        return weight

    def _raw(self, source: str) -> torch.Tensor | Packed:
        return self._files[source].read(source)

    def _tensor(self, source: str) -> GgufTensor:
        return self._files[source].tensors[source]

    def _config(self) -> dict[str, Any]:
        factors = expand(self._raw(ROPE_FACTORS)) if ROPE_FACTORS in self._files else None
        vocab_size = self._tensor("token_embd.weight").shape[0]
        return hugging_face_config(self.text_source, vocab_size, "output.weight" not in self._files, factors, str(self.path))

    def _named(self) -> dict[str, tuple[str, ...]]:
        """Hugging Face's name of every tensor, to the names it is made from; unknown ones stay: loading refuses them."""
        found: dict[str, tuple[str, ...]] = {
            hugging_face_name(name, self._layout): (name,) for name in self._files if name != ROPE_FACTORS
        }
        for name in [name for name in found if name.endswith(".self_attn.k_b.weight")]:
            stem = name.removesuffix("k_b.weight")
            if f"{stem}v_b.weight" in found:
                found[f"{stem}kv_b_proj.weight"] = (*found.pop(name), *found.pop(f"{stem}v_b.weight"))
        return found

    def _change(self, name: str) -> Change:
        module = name.rpartition(".")[0].split(".", 3)[-1] if name.startswith("model.layers.") else name
        return self._layout.changes.get(module, "")

    def _info(self, name: str) -> TensorInfo:
        sources = self._sources[name]
        tensors = [self._tensor(source) for source in sources]
        shape, format = tensors[0].shape, _DTYPES.get(tensors[0].format, tensors[0].format)
        if len(sources) > 1:
            heads, rank, nope = shape
            shape, format = (heads * (nope + tensors[1].shape[1]), rank), "float32"
        elif self._change(name) == "row":
            shape = (1, *shape)
        return TensorInfo(name, shape, format, sum(t.nbytes for t in tensors), self._files[sources[0]].path)

    def _halves(self, shape: tuple[int, ...], change: Change) -> torch.Tensor:
        """Rows in the order that has each head's two halves apart; the file has them interleaved."""
        key = "num_attention_heads" if change == "rope_q" else "num_key_value_heads"
        heads = self.config.get(key, self.config["num_attention_heads"])
        if shape[0] % (2 * heads):
            raise FormatError(f"{self.path}: {shape[0]} rows do not divide into {heads} heads of two halves")
        return torch.arange(shape[0]).reshape(heads, -1, 2).transpose(1, 2).reshape(-1)

    def _joined(self, keys: torch.Tensor | Packed, values: torch.Tensor | Packed) -> torch.Tensor:
        """kv_b_proj [heads * (nope + v), rank] from its halves: keys [heads, rank, nope], values [heads, v, rank]."""
        return torch.cat((expand(keys).transpose(1, 2), expand(values)), 1).flatten(0, 1)


def hugging_face_name(name: str, layout: Layout) -> str:
    """Hugging Face's name of a tensor in the file; unknown names come back as they are."""
    module, _, kind = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    match = _BLOCK.fullmatch(module)
    if not match or match[2] not in layout.layer:
        return name
    place = layout.layer[match[2]]
    return f"model.layers.{match[1]}.{place}_bias" if place == _CORRECTION else f"model.layers.{match[1]}.{place}.{kind}"


def gguf_name(name: str, layout: Layout) -> str:
    """The inverse of `hugging_face_name`."""
    if name.endswith(f"{_CORRECTION}_bias"):
        return name.replace("model.layers.", "blk.").replace(f"{_CORRECTION}_bias", "exp_probs_b.bias")
    module, _, kind = name.rpartition(".")
    top = {theirs: ours for ours, theirs in TOP.items()}
    if module in top:
        return f"{top[module]}.{kind}"
    if not module.startswith("model.layers."):
        return name
    number, _, place = module.removeprefix("model.layers.").partition(".")
    inner = {theirs: ours for ours, theirs in layout.layer.items()}
    return f"blk.{number}.{inner[place]}.{kind}" if place in inner else name
