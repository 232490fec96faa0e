"""Llama 3, for DeepSeek-R1's distilled models."""

from __future__ import annotations

import torch

from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .standard import assemble, dense_mlp, read_sizes, standard_attention


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A Llama model."""
    fields.expect("attention_bias", False)
    fields.expect("mlp_bias", False)
    sizes = read_sizes(fields)
    mixer, ropes = standard_attention(fields, ops, sizes)
    return assemble(ops, dtype, sizes, ropes, mixer, dense_mlp(fields, ops, sizes))


ARCHITECTURE = Architecture(
    model_types=("llama",),
    build=build,
    checkpoints="DeepSeek-R1-Distill-Llama 8B and 70B, Llama 3",
    formats="bf16, GGUF",
    reference="transformers 5.23",
)
