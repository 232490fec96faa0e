"""Kimi Linear: delta attention with a decay for every channel, and unrotated latent attention every few layers."""

from __future__ import annotations

import torch
from torch import nn

from ..stacks.ops import Ops
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .kimi import EXPERT_NAMES, linear_layers
from .latent import latent_attention, leading_dense, sigmoid_routing
from .layers.kimi_delta import KimiDeltaAttention
from .standard import assemble, read_sizes


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A Kimi Linear model."""
    sizes = read_sizes(fields, eps=1e-5)
    linear, kinds = linear_layers(fields, sizes)
    latent, _ = latent_attention(fields, ops, sizes, rotated=False, default_q_rank=None)

    def mixer(layer: int) -> tuple[str, nn.Module]:
        if kinds[layer] == "full_attention":
            return latent(layer)
        return "self_attn", KimiDeltaAttention(ops, hidden_size=sizes.hidden, eps=sizes.eps, **linear)

    routing = sigmoid_routing(fields, groups=1, top_groups=1, scale=2.446)
    mlp = leading_dense(fields, ops, sizes, routing, bias="e_score_correction_bias", first_dense=1)
    return assemble(ops, dtype, sizes, {}, mixer, mlp)


ARCHITECTURE = Architecture(
    model_types=("kimi_linear",),
    build=build,
    rules=EXPERT_NAMES,
    checkpoints="Kimi-Linear-48B-A3B Base and Instruct",
    formats="bf16, GGUF",
    reference="transformers 5.23",
)
