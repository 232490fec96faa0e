"""Qwen2, Qwen2.5 and their kin: grouped-query attention with biases on q, k and v."""

from __future__ import annotations

import torch

from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .standard import standard_decoder


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A Qwen2 model."""
    fields.expect("use_sliding_window", False)
    fields.skip("sliding_window", "max_window_layers")
    return standard_decoder(fields, ops, dtype, bias=True, tied_default=False)


ARCHITECTURE = Architecture(
    model_types=("qwen2",),
    build=build,
    checkpoints="Qwen2, Qwen2.5, Qwen2.5-Coder, QwQ-32B, DeepSeek-R1-Distill-Qwen",
    reference="transformers 5.23",
)
