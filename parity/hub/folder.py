"""A Hugging Face folder as a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from parity.core.errors import ConfigError
from parity.core.weights import Packed

from .checkpoint import TensorInfo
from .folding import Folded, fold
from .safetensors import open_shards, read_json


class FolderCheckpoint:
    """config.json, safetensors and tokenizer files of one folder. A matrix and its scales are one tensor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config: Mapping[str, Any] = read_json(path / "config.json")
        if not isinstance(self.config.get("model_type"), str):
            raise ConfigError(f"{path / 'config.json'} has no model_type")
        generation = path / "generation_config.json"
        self.generation_config: Mapping[str, Any] = read_json(generation) if generation.is_file() else {}
        self.text_source = path
        self._shards = open_shards(path)
        entries = {name: file.entries[name] for name, file in self._shards.items()}
        self._folded: Mapping[str, Folded] = fold(entries, self.config)
        self.tensors: Mapping[str, TensorInfo] = {name: self._info(name, it) for name, it in self._folded.items()}

    def _info(self, name: str, folded: Folded) -> TensorInfo:
        sources = [self._shards[source] for source in folded.sources.values()]
        entries = [file.entries[source] for source, file in zip(folded.sources.values(), sources, strict=True)]
        format = folded.format or str(entries[0].dtype).removeprefix("torch.")
        return TensorInfo(name, folded.shape, format, sum(e.stop - e.start for e in entries), sources[0].path)

    def read(self, name: str) -> torch.Tensor | Packed:
        """A tensor: a view of the mapped file."""
        folded = self._folded[name]
        arrays = {role: self._shards[source].read(source) for role, source in folded.sources.items()}
        if folded.format is None:
            return arrays["data"]
        if folded.one_scale:
            arrays["scale"] = arrays["scale"].view(1, 1)
        return Packed(folded.format, folded.shape, arrays, folded.meta)

    def release(self, name: str | None = None) -> None:
        """Gives back the memory of what was read."""
        if name is None:
            for file in set(self._shards.values()):
                file.release()
            return
        for source in self._folded[name].sources.values():
            self._shards[source].release(source)
