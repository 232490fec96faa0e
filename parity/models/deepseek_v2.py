"""DeepSeek-V2, V2-Lite and V2.5: latent attention and softmax-routed experts."""

from __future__ import annotations

import torch

from ..stacks.ops import Ops, Routing
from .architecture import Architecture
from .config import Fields
from .decoder import Decoder
from .latent import latent_attention, leading_dense
from .standard import assemble, read_sizes


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A DeepSeek-V2 model."""
    fields.expect("mlp_bias", False)
    fields.expect("scoring_func", "softmax", default="softmax")
    sizes = read_sizes(fields)
    mixer, ropes = latent_attention(fields, ops, sizes)
    method = fields.expect("topk_method", "greedy", "group_limited_greedy", default="greedy")
    # The released router never renormalizes, whatever norm_topk_prob says; where it says so, we do not guess.
    fields.expect("norm_topk_prob", False)
    limited = method == "group_limited_greedy"
    groups, top_groups = fields.size("n_group", 1), fields.size("topk_group", 1)
    routing = Routing(
        top_k=fields.size("num_experts_per_tok"),
        score="softmax",
        renormalize=False,
        scale=fields.float("routed_scaling_factor", 1.0),
        num_groups=groups if limited else 1,
        top_groups=top_groups if limited else 1,
        group_score="max",
    )
    return assemble(ops, dtype, sizes, ropes, mixer, leading_dense(fields, ops, sizes, routing, bias=None))


ARCHITECTURE = Architecture(
    model_types=("deepseek_v2",),
    build=build,
    checkpoints="DeepSeek-V2, V2-Lite, V2.5, Coder-V2",
    formats="bf16, GGUF",
    reference="transformers 5.23",
)
