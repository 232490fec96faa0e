"""Qwen3-Next: gated delta layers with packed projections, gated attention, and experts with a shared one in every layer."""

from __future__ import annotations

import torch

from ..core.weights import Ignore
from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .hybrid import hybrid_decoder


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A Qwen3-Next model."""
    return hybrid_decoder(fields, ops, dtype, packed=True, moe=True)


ARCHITECTURE = Architecture(
    model_types=("qwen3_next",),
    build=build,
    rules=(Ignore(r"mtp\.", "draft layers for speculative decoding"),),
    checkpoints="Qwen3-Next-80B-A3B, Qwen3-Coder-Next",
    reference="transformers 5.23",
    missing="multi-token prediction",
)
