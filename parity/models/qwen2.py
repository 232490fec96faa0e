"""Qwen2, Qwen2.5 and their kin: grouped-query attention with biases on q, k and v."""

from __future__ import annotations

import torch

from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .standard import assemble, dense_mlp, read_sizes, standard_attention


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A Qwen2 model."""
    fields.expect("use_sliding_window", False)
    fields.skip("sliding_window", "max_window_layers")
    sizes = read_sizes(fields)
    mixer, ropes = standard_attention(fields, ops, sizes, bias=True)
    return assemble(ops, dtype, sizes, ropes, mixer, dense_mlp(fields, ops, sizes))


ARCHITECTURE = Architecture(
    model_types=("qwen2",),
    build=build,
    checkpoints="Qwen2, Qwen2.5, Qwen2.5-Coder, QwQ-32B, DeepSeek-R1-Distill-Qwen",
    formats="bf16, fp16, AWQ, GPTQ, GGUF",
    reference="transformers 5.23",
)
