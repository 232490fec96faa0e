"""A checkpoint: config, tensors under Hugging Face's names, and what the tokenizer is built from, whatever the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from parity.core.errors import ModelNotFound, Unsupported
from parity.core.weights import Packed

from .file_names import PICKLES

TextSource: TypeAlias = Path | Mapping[str, Any]
"""A folder with tokenizer files, or the metadata of a GGUF file."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One logical tensor: a matrix with its scales is one, under the name of the matrix.

    Args:
        name: Hugging Face's name.
        shape: the logical shape, [..., out, in] for matrices.
        format: a packed format's name, or a torch dtype's such as `bfloat16`.
        nbytes: bytes in the file, scales included.
        file: where the bytes are.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    nbytes: int
    file: Path


class Checkpoint(Protocol):
    """An opened model. Opening reads headers only."""

    @property
    def path(self) -> Path:
        """The folder or file."""

    @property
    def config(self) -> Mapping[str, Any]:
        """As in config.json: `model_type` and the rest."""

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """As in generation_config.json; empty if there is none."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name."""

    @property
    def text_source(self) -> TextSource:
        """What the tokenizer and the chat template are built from."""

    def read(self, name: str) -> torch.Tensor | Packed:
        """A tensor: a view of the mapped file wherever the format allows."""

    def release(self, name: str | None = None) -> None:
        """Gives back the memory that a mapped tensor took when it was looked at, or, without a name, all of the files, headers
        too; looking again reads the disk."""


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a folder with config.json and safetensors files, or a `.gguf` file (any part of a split one).

    Raises:
        ModelNotFound: nothing is there, or a file of it is missing.
        FormatError: a file is truncated or corrupt.
        Unsupported: pickles, or a format or architecture that Parity does not read.
    """
    from .folder import FolderCheckpoint
    from .gguf_checkpoint import GgufCheckpoint

    path = Path(path).expanduser()
    if path.is_dir():
        if (path / "config.json").is_file():
            return FolderCheckpoint(path)
        return GgufCheckpoint(_only_gguf(path))
    if not path.exists():
        raise ModelNotFound(f"{path} does not exist")
    if path.suffix == ".gguf":
        return GgufCheckpoint(path)
    if path.suffix in PICKLES:
        raise Unsupported(f"{path} is a pickle, which can run code when read; convert it to safetensors")
    if path.name.endswith(".safetensors"):
        raise Unsupported(f"{path} holds tensors without a config; name its folder instead")
    raise Unsupported(f"{path} is no model: Parity reads folders with config.json, and .gguf files")


def _only_gguf(folder: Path) -> Path:
    files = sorted(folder.glob("*.gguf"))
    firsts = [file for file in files if "-of-" not in file.name or "-00001-of-" in file.name]
    if len(firsts) == 1:
        return firsts[0]
    if firsts:
        raise ModelNotFound(f"{folder} has {len(firsts)} models; name one: {', '.join(file.name for file in firsts[:8])}")
    raise ModelNotFound(f"{folder} has no config.json and no .gguf file")
