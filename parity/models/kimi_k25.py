"""Kimi K2.5 to K2.7 and Kimi-VL, text part: DeepSeek-V3's architecture inside a multimodal checkpoint."""

from __future__ import annotations

import torch

from ..core.weights import Ignore, Rename
from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields, text_fields
from .decoder import Decoder
from .latent import latent_decoder


def build(fields: Fields, ops: Ops, dtype: torch.dtype, *, draft: bool = False) -> Decoder:
    """The text part of a Kimi multimodal model."""
    text = text_fields(fields)
    text.expect("model_type", "kimi_k2", "deepseek_v3")
    return latent_decoder(text, ops, dtype, draft=draft)


ARCHITECTURE = Architecture(
    model_types=("kimi_k25", "kimi_vl"),
    build=build,
    drafts=True,
    rules=(
        Ignore(r"(model\.)?(vision_tower|mm_projector|multi_modal_projector)\.", "vision is not supported: text only"),
        Rename(r"^language_model\.model\.", "model."),
        Rename(r"^language_model\.lm_head\.", "lm_head."),
        Rename(r"^model\.language_model\.", "model."),
    ),
    checkpoints="Kimi-K2.5, K2.6, K2.7-Code; Kimi-VL-A3B",
    formats="bf16, int4 groups",
    reference="transformers 5.23",
    missing="images",
)
