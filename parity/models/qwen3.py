"""Qwen3 dense: as Qwen2, with RMSNorms on the heads of q and k instead of biases."""

from __future__ import annotations

import torch

from ..core.weights import Rename
from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .standard import assemble, dense_mlp, read_sizes, standard_attention


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A Qwen3 model."""
    fields.expect("use_sliding_window", False)
    fields.skip("sliding_window", "max_window_layers")
    sizes = read_sizes(fields)
    bias = fields.bool("attention_bias", False)
    mixer, ropes = standard_attention(fields, ops, sizes, bias=bias, output_bias=bias, head_norm=True, head_dim=128)
    return assemble(ops, dtype, sizes, ropes, mixer, dense_mlp(fields, ops, sizes))


ARCHITECTURE = Architecture(
    model_types=("qwen3",),
    build=build,
    # Qwen3-Embedding's files are those of the model without its head.
    rules=(Rename(r"^(embed_tokens|layers|norm)\.", r"model.\1."),),
    checkpoints="Qwen3 0.6B to 32B, Qwen3-Embedding and Qwen3-Reranker, DeepSeek-R1-0528-Qwen3-8B",
    formats="bf16, FP8, AWQ, GPTQ, GGUF",
    reference="transformers 5.23",
)
