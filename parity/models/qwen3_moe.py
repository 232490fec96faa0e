"""Qwen3-MoE: Qwen3's attention and softmax-routed experts."""

from __future__ import annotations

import torch
from torch import nn

from ..stacks.ops import Ops, Routing
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .layers.experts import Experts
from .layers.router import Router
from .layers.sparse_mlp import SparseMLP
from .standard import assemble, dense_mlp, read_sizes, sparse_layers, standard_attention


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A Qwen3-MoE model."""
    fields.expect("use_sliding_window", False)
    fields.skip("sliding_window", "max_window_layers")
    sizes = read_sizes(fields)
    bias = fields.bool("attention_bias", False)
    mixer, ropes = standard_attention(fields, ops, sizes, bias=bias, output_bias=bias, head_norm=True)
    dense = dense_mlp(fields, ops, sizes)
    num_experts, moe_size = fields.int(fields.either("num_experts", "num_local_experts")), fields.size("moe_intermediate_size")
    routing = Routing(fields.size("num_experts_per_tok"), renormalize=fields.bool("norm_topk_prob", False))

    def sparse(layer: int) -> nn.Module:
        router = Router(ops, sizes.hidden, num_experts, routing)
        return SparseMLP(ops, sizes.hidden, router, Experts(ops, num_experts, sizes.hidden, moe_size))

    return assemble(ops, dtype, sizes, ropes, mixer, sparse_layers(fields, num_experts, dense, sparse))


ARCHITECTURE = Architecture(
    model_types=("qwen3_moe",),
    build=build,
    checkpoints="Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder 30B-A3B and 480B-A35B",
    formats="bf16, FP8, GPTQ, GGUF",
    reference="transformers 5.23",
)
