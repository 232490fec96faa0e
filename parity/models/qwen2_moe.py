"""Qwen1.5-MoE and Qwen2-MoE: Qwen2's attention, softmax-routed experts and a gated shared expert."""

from __future__ import annotations

import torch
from torch import nn

from ..stacks.ops import Ops, Routing
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .layers.sparse_mlp import with_shared_expert
from .standard import assemble, dense_mlp, read_sizes, sparse_layers, standard_attention


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A Qwen2-MoE model."""
    fields.expect("use_sliding_window", False)
    fields.skip("sliding_window", "max_window_layers")
    sizes = read_sizes(fields)
    mixer, ropes = standard_attention(fields, ops, sizes, bias=fields.bool("qkv_bias", True))
    dense = dense_mlp(fields, ops, sizes)
    num_experts, moe_size = fields.int(fields.either("num_experts", "num_local_experts")), fields.size("moe_intermediate_size")
    shared_size = fields.size("shared_expert_intermediate_size")
    routing = Routing(fields.size("num_experts_per_tok"), renormalize=fields.bool("norm_topk_prob", False))

    def sparse(layer: int) -> nn.Module:
        return with_shared_expert(ops, sizes.hidden, num_experts, routing, size=moe_size, shared_size=shared_size)

    return assemble(ops, dtype, sizes, ropes, mixer, sparse_layers(fields, num_experts, dense, sparse))


ARCHITECTURE = Architecture(
    model_types=("qwen2_moe",),
    build=build,
    checkpoints="Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
    formats="bf16, GPTQ, GGUF",
    reference="transformers 5.23",
)
