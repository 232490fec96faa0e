"""Qwen3.5, 3.6 and 3.8, dense: gated delta layers and gated attention. The text part of a vision-language checkpoint."""

from __future__ import annotations

import torch

from ..core.weights import Ignore, Rename
from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields, text_fields
from .decoder import Decoder
from .hybrid import DRAFT_NAMES, hybrid_decoder


def build(fields: Fields, ops: Ops, dtype: torch.dtype, *, draft: bool = False) -> Decoder:
    """A Qwen3.5 dense model."""
    return hybrid_decoder(text_fields(fields, "qwen3_5_text"), ops, dtype, packed=False, moe=False, draft=draft)


ARCHITECTURE = Architecture(
    model_types=("qwen3_5", "qwen3_5_text"),
    build=build,
    drafts=True,
    rules=(
        Ignore(r"model\.visual\.", "vision is not supported: text only"),
        Rename(r"^model\.language_model\.", "model."),
        *DRAFT_NAMES,
    ),
    checkpoints="Qwen3.5 0.8B to 27B, Qwen3.6-27B, Qwen3.8-27B",
    formats="bf16, FP8, GPTQ, GGUF",
    reference="transformers 5.23",
    missing="images",
)
