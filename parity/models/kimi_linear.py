"""Kimi Linear: delta attention with a decay for every channel, and unrotated latent attention every few layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..core.errors import ConfigError
from ..core.weights import Rename
from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields, layer_types
from .decoder import Decoder
from .latent import latent_attention, leading_dense, sigmoid_routing
from .layers.kimi_delta import KimiDeltaAttention
from .standard import Sizes, assemble, read_sizes


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A Kimi Linear model."""
    sizes = read_sizes(fields, eps=1e-5)
    fields.expect("mla_use_nope", True)
    fields.expect("use_grouped_topk", True)
    fields.expect("num_nextn_predict_layers", 0)
    fields.skip("rope_theta", "rope_scaling", "rope_parameters")  # nothing is rotated
    linear, kinds = linear_layers(fields, sizes)
    latent, _ = latent_attention(fields, ops, sizes, rotated=False, default_q_rank=None)

    def mixer(layer: int) -> tuple[str, nn.Module]:
        if kinds[layer] == "full_attention":
            return latent(layer)
        return "self_attn", KimiDeltaAttention(ops, hidden_size=sizes.hidden, eps=sizes.eps, **linear)

    routing = sigmoid_routing(fields, groups=1, top_groups=1, scale=2.446)
    mlp = leading_dense(fields, ops, sizes, routing, bias="e_score_correction_bias", first_dense=1)
    return assemble(ops, dtype, sizes, {}, mixer, mlp)


def linear_layers(fields: Fields, sizes: Sizes) -> tuple[dict[str, Any], list[str]]:
    """(sizes of the delta layers, the kind of each layer), from `linear_attn_config` or the flat keys.

    Raises:
        ConfigError: a layer is in none or both of the lists, which count from 1.
    """
    nested = Fields(fields.mapping("linear_attn_config", None) or {}, "linear_attn_config of config.json")
    fields.nested.append(nested)
    found = {
        "num_heads": nested.size("num_heads", None) or fields.size("linear_num_heads", 32),
        "head_dim": nested.size("head_dim", None) or fields.size("linear_head_dim", 128),
        "width": nested.size("short_conv_kernel_size", None) or fields.size("linear_conv_kernel_dim", 4),
        "lower_bound": nested.float("gate_lower_bound", None),
        "full_rank_gate": nested.bool("use_full_rank_gate", False),
    }
    fields.skip("linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim")
    if not fields.has("linear_attn_config"):
        return found, layer_types(fields, sizes.num_layers, ("linear_attention", "full_attention"), ())
    full, linear = nested.list("full_attn_layers", []), nested.list("kda_layers", [])
    if sorted([*full, *linear]) != list(range(1, sizes.num_layers + 1)):
        raise ConfigError(f"linear_attn_config must name each of {sizes.num_layers} layers once, counting from 1")
    fields.skip("layer_types")
    return found, ["full_attention" if layer + 1 in full else "linear_attention" for layer in range(sizes.num_layers)]


EXPERT_NAMES = (
    Rename(r"\.block_sparse_moe\.", ".mlp."),
    Rename(r"\.experts\.(\d+)\.w1\.", r".experts.\1.gate_proj."),
    Rename(r"\.experts\.(\d+)\.w3\.", r".experts.\1.up_proj."),
    Rename(r"\.experts\.(\d+)\.w2\.", r".experts.\1.down_proj."),
)

ARCHITECTURE = Architecture(
    model_types=("kimi_linear",),
    build=build,
    rules=EXPERT_NAMES,
    checkpoints="Kimi-Linear-48B-A3B Base and Instruct",
    formats="bf16, GGUF",
    reference="transformers 5.23",
)
