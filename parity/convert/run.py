"""A conversion from beginning to end."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..core.errors import Unsupported
from ..core.whole import naming
from ..engine.load import accounted
from ..formats import FORMATS
from ..hub.checkpoint import Checkpoint, open_checkpoint
from ..hub.quantised import QuantisedCheckpoint, recipe_for
from ..stacks.registry import dtype_of, open_stack
from . import to_gguf, to_safetensors
from .place import check_place, folder_when_whole
from .relaid import expanded, named, with_experts

log = logging.getLogger("parity")

Target = Literal["gguf", "safetensors"]
_FORMATS: dict[Target, frozenset[str]] = {
    "gguf": frozenset({"q8_0", "q5_0", "q4_k", "q6_k"}),
    "safetensors": frozenset({"int8_group", "int4_group"}),
}
_REFERENCE = "cpu:reference:float32"


@dataclass(frozen=True)
class Converted:
    """What was written.

    Args:
        source_bytes, nbytes: of the weights, before and after.
        num_weights: numbers in all matrices and vectors.
    """

    path: Path
    source_bytes: int
    nbytes: int
    num_weights: int

    @property
    def bits(self) -> float:
        """For one weight, everything counted."""
        return 8 * self.nbytes / self.num_weights


def convert(
    source: Path,
    target: Path,
    to: Target,
    *,
    name: str,
    quantize: str | None = None,
    dtype: str | None = None,
    force: bool = False,
) -> Converted:
    """Writes a model in another form.

    Args:
        source: its files.
        target: the GGUF file, or the folder.
        name: what the model is called in the file.
        quantize: `q8` or `q4`; None keeps plain weights plain and expands packed ones.
        dtype: of plain matrices; None keeps theirs, and takes bfloat16 for packed ones.
        force: replace what is there.

    Raises:
        ParityError: it cannot be read or written; nothing is left under the target's name that was not there before.
    """
    checkpoint = open_checkpoint(source)
    plain = None if dtype is None else dtype_of(dtype)
    prepared = _prepared(checkpoint, to, quantize, plain)
    size = sum(info.nbytes for info in prepared.tensors.values())
    check_place(target, checkpoint.path, size, folder=to == "safetensors", force=force)
    with naming(target):
        if to == "gguf":
            to_gguf.write(target, prepared, name)
        else:
            with folder_when_whole(target) as folder:
                to_safetensors.write(folder, prepared, plain or _only_dtype(prepared))
    return Converted(
        target,
        sum(info.nbytes for info in checkpoint.tensors.values()),
        size,
        sum(torch.Size(info.shape).numel() for info in prepared.tensors.values()),
    )


def _prepared(checkpoint: Checkpoint, to: Target, quantize: str | None, dtype: torch.dtype | None) -> Checkpoint:
    """The tensors as they will be written, made when read."""
    packed = sorted({info.format for info in checkpoint.tensors.values() if info.format in FORMATS})
    if packed and quantize is not None:
        log.warning("%s is packed already (%s): packing it again loses more than packing the original", checkpoint.path, packed)
    stack, _ = open_stack(_REFERENCE)
    places = accounted(checkpoint, stack, torch.float32)
    if to == "gguf" and places.plan.sources.keys() != checkpoint.tensors.keys():
        # Under the names that GGUF's follow from, and without what the model leaves out.
        checkpoint = named(checkpoint, places.plan.sources)
        places = accounted(checkpoint, stack, torch.float32)
    # Experts are cut out of a stack before they are expanded, each by itself; those of several formats are stacked after that.
    found = checkpoint if to == "gguf" else with_experts(checkpoint, "single")
    if packed or dtype is not None or to == "gguf":
        found = _plain(found, to, dtype or (torch.bfloat16 if packed else None), places.exact)
    if to == "gguf":
        found = with_experts(found, "stacked")
    if quantize is None:
        return found
    kept = accounted(found, stack, torch.float32).exact
    if to == "safetensors":
        # The standard form is of linear layers alone, and by its readers' custom not of the head.
        kept |= {name for name, info in found.tensors.items() if "embed_tokens" in name or "lm_head" in name}
        kept |= {name for name, info in found.tensors.items() if len(info.shape) != 2}
    result = QuantisedCheckpoint(found, recipe_for(quantize, _FORMATS[to]), kept, tied=places.model.tied)
    log.info("%s: %s", quantize, result.describe())
    return result


def _plain(checkpoint: Checkpoint, to: Target, dtype: torch.dtype | None, exact: frozenset[str]) -> Checkpoint:
    """Expanded; in GGUF vectors and routers are float32, which its readers ask for."""
    vectors = frozenset(name for name, info in checkpoint.tensors.items() if len(info.shape) == 1)
    return expanded(checkpoint, dtype, exact | vectors if to == "gguf" else frozenset())


def _only_dtype(checkpoint: Checkpoint) -> torch.dtype | None:
    """The dtype of all plain matrices, if they have one."""
    found = {info.format for info in checkpoint.tensors.values() if len(info.shape) > 1 and info.format not in FORMATS}
    if len(found) != 1:
        return None
    try:
        return dtype_of(found.pop())
    except Unsupported:
        return None
