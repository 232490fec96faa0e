"""Llama 3, for DeepSeek-R1's distilled models."""

from __future__ import annotations

import torch

from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .standard import standard_decoder


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A Llama model."""
    fields.expect("attention_bias", False)
    fields.expect("mlp_bias", False)
    return standard_decoder(fields, ops, dtype, theta=10000.0, eps=1e-6)


ARCHITECTURE = Architecture(
    model_types=("llama",),
    build=build,
    checkpoints="DeepSeek-R1-Distill-Llama 8B and 70B, Llama 3",
    reference="transformers 5.23",
)
