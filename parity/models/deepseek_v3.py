"""DeepSeek-V3, R1 and V3.1, Kimi K2 and Moonlight: latent attention, experts chosen by biased sigmoid scores in groups."""

from __future__ import annotations

import torch

from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .latent import draft_layers, latent_attention, leading_dense, sigmoid_routing
from .standard import assemble, read_sizes


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A DeepSeek-V3 model."""
    sizes = read_sizes(fields)
    mixer, ropes = latent_attention(fields, ops, sizes)
    mlp = leading_dense(fields, ops, sizes, sigmoid_routing(fields), bias="e_score_correction_bias")
    model = assemble(ops, dtype, sizes, ropes, mixer, mlp)
    model.ignored = draft_layers(fields, sizes)
    return model


ARCHITECTURE = Architecture(
    model_types=("deepseek_v3", "kimi_k2"),
    build=build,
    checkpoints="DeepSeek-V3, R1, V3.1, Kimi-K2, K2-Thinking, Moonlight-16B-A3B",
    reference="transformers 5.23",
    missing="multi-token prediction",
)
