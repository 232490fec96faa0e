"""A GGUF file, or a split one, as a checkpoint under Hugging Face's names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from parity.core.errors import FormatError
from parity.core.weights import Packed
from parity.formats import expand

from .checkpoint import TensorInfo
from .gguf import PLAIN, GgufTensor, open_parts
from .gguf_changes import joined_kv_b, shape_after, undo
from .gguf_config import generation_config, hugging_face_config, layout_of, ngram_constants
from .gguf_names import FUSED_EXPERTS, NGRAM_TABLE, ROPE_FACTORS, TOP, Change, Layout

_BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)")
INDEX = ".indexer.index_qk_proj.weight"
_DTYPES = {format: str(dtype).removeprefix("torch.") for format, dtype in PLAIN.values()}


@contextmanager
def _fitting(where: str) -> Iterator[None]:
    """Damaged files lack tensors beside others, or have them in shapes that no change fits."""
    try:
        yield
    except (LookupError, ValueError) as error:
        raise FormatError(f"{where}: its tensors do not fit together ({type(error).__name__}: {error})") from None


class GgufCheckpoint:
    """Experts come stacked, as `mlp.experts.gate_proj.weight` [experts, out, in] and so on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = self._parts = open_parts(path)
        self.text_source: Mapping[str, Any] = parts[0].metadata
        self._layout = layout_of(self.text_source, str(path))
        self._files = {name: part for part in parts for name in part.tensors}
        if "token_embd.weight" not in self._files:
            raise FormatError(f"{path} has no token_embd.weight")
        with _fitting(str(path)):
            self.config: Mapping[str, Any] = self._config()
            self._sources = self._named()
            self._constants = ngram_constants(self.text_source, self._layout)
            made = {name: TensorInfo(name, tuple(value.shape), "int64", 0, path) for name, value in self._constants.items()}
            self.tensors: Mapping[str, TensorInfo] = {name: self._info(name) for name in self._sources} | made

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """End tokens, and sampling defaults where the file has them."""
        return generation_config(self.text_source)

    def read(self, name: str) -> torch.Tensor | Packed:
        """A tensor: a view of the mapped file where GGUF left the values as they were, else a copy put right."""
        if name in self._constants:
            return self._constants[name]
        sources = self._sources[name]
        with _fitting(f"{self.path}: {name}"):
            if len(sources) > 1 and name.endswith(INDEX):
                return torch.cat([expand(self._raw(source)) for source in sources])
            if len(sources) > 1:
                return joined_kv_b(*(self._raw(source) for source in sources))
            return undo(self._change(name), self._raw(sources[0]), self.config, f"{self.path}: {name}")

    def release(self, name: str | None = None) -> None:
        """Gives back the memory of what was read."""
        if name is None:
            for file in self._parts:
                file.release()
            return
        for source in self._sources[name]:
            self._files[source].release(source)

    def _raw(self, source: str) -> torch.Tensor | Packed:
        return self._files[source].read(source)

    def _tensor(self, source: str) -> GgufTensor:
        return self._files[source].tensors[source]

    def _config(self) -> dict[str, Any]:
        factors = expand(self._raw(ROPE_FACTORS)) if ROPE_FACTORS in self._files else None
        vocab_size = self._tensor("token_embd.weight").shape[0]
        tied = "output.weight" not in self._files
        config = hugging_face_config(self.text_source, vocab_size, tied, factors, str(self.path))
        if NGRAM_TABLE in self._files:  # padded, by how much only its height says
            config["make_ngram_vocab_size_divisible_by"] = self._tensor(NGRAM_TABLE).shape[0]
        return config

    def _named(self) -> dict[str, tuple[str, ...]]:
        """Hugging Face's name of every tensor, to the names it is made from; unknown ones stay: loading refuses them."""
        found: dict[str, tuple[str, ...]] = {
            hugging_face_name(name, self._layout, self.config["num_hidden_layers"]): (name,)
            for name in self._files
            if name != ROPE_FACTORS
        }
        for name in [name for name in found if name.endswith("_res_proj.weight")]:
            found[name.replace("_proj.", "_norm.")] = found[name]
        for name in [name for name in found if name.endswith(".mlp.experts.gate_up_proj")]:  # then both are without an ending
            down = name.replace("gate_up", "down")
            found[down] = found.pop(f"{down}.weight")
        if NGRAM_TABLE in found and self.config.get("ple_layer_ids"):
            layer = self.config["ple_layer_ids"][0] - 1
            found[f"model.layers.{layer}.ple.ple_embedding.ngram_embedding.weight"] = found.pop(NGRAM_TABLE)
        if (both := found.pop("mtp.eh_proj.weight", None)) is not None:
            found["mtp.fc_embedding.weight"] = found["mtp.fc_hidden.weight"] = both
        for name in [name for name in found if name.endswith(".indexer.index_q.weight")]:
            stem = name.removesuffix("index_q.weight")
            found[f"{stem}index_qk_proj.weight"] = (*found.pop(name), *found.pop(f"{stem}index_k.weight", ()))
        for name in [name for name in found if name.endswith(".self_attn.k_b.weight")]:
            stem = name.removesuffix("k_b.weight")
            if f"{stem}v_b.weight" in found:
                found[f"{stem}kv_b_proj.weight"] = (*found.pop(name), *found.pop(f"{stem}v_b.weight"))
        return found

    def _change(self, name: str) -> Change:
        place = name.split(".", 3)[-1] if name.startswith(("model.layers.", "mtp.layers.")) else name
        changes = self._layout.changes
        return changes.get(place) or changes.get(place.rpartition(".")[0], "")

    def _info(self, name: str) -> TensorInfo:
        sources = self._sources[name]
        tensors = [self._tensor(source) for source in sources]
        shape, format = tensors[0].shape, _DTYPES.get(tensors[0].format, tensors[0].format)
        if len(sources) > 1 and name.endswith(INDEX):
            shape, format = (shape[0] + tensors[1].shape[0], shape[1]), "float32"
        elif len(sources) > 1:
            heads, rank, nope = shape
            shape, format = (heads * (nope + tensors[1].shape[1]), rank), "float32"
        else:
            shape = shape_after(self._change(name), shape)
        return TensorInfo(name, shape, format, sum(t.nbytes for t in tensors), self._files[sources[0]].path)


def hugging_face_name(name: str, layout: Layout, num_layers: int | None = None) -> str:
    """Hugging Face's name of a tensor in the file; unknown names come back as they are.

    Layers from `num_layers` on are draft layers.
    """
    module, _, kind = name.rpartition(".")
    if name in layout.top:
        return layout.top[name]
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    match = _BLOCK.fullmatch(name)
    if not match:
        return name
    stem, inner = f"model.layers.{match[1]}.", match[2].rpartition(".")[0]
    if num_layers is not None and int(match[1]) >= num_layers:
        if layout.draft:
            stem = f"{layout.draft}{int(match[1]) - num_layers}."
        if inner in layout.drafts:
            beside = layout.drafts[inner]
            return f"{'' if layout.draft else stem}{beside}.{kind}"
    if match[2] in layout.whole:
        return stem + layout.whole[match[2]]
    if match[2] == FUSED_EXPERTS:
        return f"{stem}mlp.experts.gate_up_proj"
    return f"{stem}{layout.layer[inner]}.{kind}" if inner in layout.layer else name


def gguf_name(name: str, layout: Layout) -> str:
    """The inverse of `hugging_face_name`; names that GGUF has no other for come back as they are."""
    module, _, kind = name.rpartition(".")
    top = {theirs: ours for ours, theirs in TOP.items()}
    if module in top:
        return f"{top[module]}.{kind}"
    if not name.startswith("model.layers."):
        return name
    number, _, place = name.removeprefix("model.layers.").partition(".")
    whole = {theirs: ours for ours, theirs in layout.whole.items()}
    if place in whole:
        return f"blk.{number}.{whole[place]}"
    inner = {theirs: ours for ours, theirs in layout.layer.items()}
    module = place.rpartition(".")[0]
    return f"blk.{number}.{inner[module]}.{kind}" if module in inner else name
