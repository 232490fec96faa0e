"""Qwen3.5, 3.6 and 3.8 with experts: gated delta layers, gated attention, and a gated shared expert in every layer."""

from __future__ import annotations

import torch

from ..core.weights import Ignore, Rename
from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields, text_fields
from .decoder import Decoder
from .hybrid import DRAFT_NAMES, hybrid_decoder


def build(fields: Fields, ops: Ops, dtype: torch.dtype, *, draft: bool = False) -> Decoder:
    """A Qwen3.5 model with experts."""
    return hybrid_decoder(text_fields(fields, "qwen3_5_moe_text"), ops, dtype, packed=False, moe=True, draft=draft)


ARCHITECTURE = Architecture(
    model_types=("qwen3_5_moe", "qwen3_5_moe_text"),
    build=build,
    drafts=True,
    rules=(
        Ignore(r"model\.visual\.", "vision is not supported: text only"),
        Rename(r"^model\.language_model\.", "model."),
        *DRAFT_NAMES,
    ),
    checkpoints="Qwen3.5 35B-A3B, 122B-A10B and 397B-A17B, Qwen3.6-35B-A3B, Qwen3.8-2.4T-A95B",
    formats="bf16, FP8, GPTQ, GGUF",
    reference="transformers 5.23",
    missing="images",
)
