"""Qwen3-Next: gated delta layers with packed projections, gated attention, and experts with a shared one in every layer."""

from __future__ import annotations

import torch

from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .hybrid import DRAFT_NAMES, hybrid_decoder


def build(fields: Fields, ops: Ops, dtype: torch.dtype, *, draft: bool = False) -> Decoder:
    """A Qwen3-Next model."""
    return hybrid_decoder(fields, ops, dtype, packed=True, moe=True, draft=draft)


ARCHITECTURE = Architecture(
    model_types=("qwen3_next",),
    build=build,
    drafts=True,
    rules=DRAFT_NAMES,
    checkpoints="Qwen3-Next-80B-A3B, Qwen3-Coder-Next",
    formats="bf16, FP8, GGUF",
    reference="transformers 5.23",
)
