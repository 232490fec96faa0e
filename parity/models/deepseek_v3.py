"""DeepSeek-V3, R1 and V3.1, Kimi K2 and Moonlight: latent attention, experts chosen by biased sigmoid scores in groups."""

from __future__ import annotations

import torch

from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .latent import latent_decoder


def build(fields: Fields, ops: Ops, dtype: torch.dtype, *, draft: bool = False) -> Decoder:
    """A DeepSeek-V3 model."""
    return latent_decoder(fields, ops, dtype, draft=draft)


ARCHITECTURE = Architecture(
    model_types=("deepseek_v3", "kimi_k2"),
    build=build,
    drafts=True,
    checkpoints="DeepSeek-V3, R1, V3.1, Kimi-K2, K2-Thinking, Moonlight-16B-A3B",
    formats="bf16, FP8, int4 groups, MXFP4, GGUF",
    reference="transformers 5.23",
)
