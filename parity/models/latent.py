"""The shape that DeepSeek-V2, V3, V3.2, Kimi K2 and Moonlight share: latent attention, dense layers first, then experts."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..core.errors import ConfigError
from ..core.weights import Ignore
from ..stacks.ops import Activation, Ops, Routing
from .config import Fields
from .layers.experts import Experts, Router, SparseMLP
from .layers.mla import LatentAttention
from .layers.mlp import SILU, GatedMLP
from .layers.rope import Rope, make_rope, rope_parameters
from .standard import Mixer, Sizes


def latent_attention(
    fields: Fields,
    ops: Ops,
    sizes: Sizes,
    *,
    indexer: Callable[[], nn.Module] | None = None,
    default_q_rank: int | None = 1536,
) -> tuple[Mixer, dict[str, Rope]]:
    """Latent attention in every layer, and its rotation; `indexer` makes what chooses each layer's entries."""
    nope, rope_dim = fields.size("qk_nope_head_dim", 128), fields.size("qk_rope_head_dim", 64)
    fields.skip("head_dim", "qk_head_dim")
    rope = make_rope(rope_parameters(fields), rope_dim, sizes.max_position)
    settings = {
        "hidden_size": sizes.hidden,
        "num_heads": sizes.num_heads,
        "q_rank": fields.size("q_lora_rank", default_q_rank if not fields.has("q_lora_rank") else None),
        "kv_rank": fields.size("kv_lora_rank", 512),
        "nope_dim": nope,
        "rope_dim": rope_dim,
        "value_dim": fields.size("v_head_dim", 128),
        "scale": (nope + rope_dim) ** -0.5 * rope.mscale**2,
        "interleaved": fields.bool("rope_interleave", True),
        "bias": fields.bool("attention_bias", False),
    }

    def mixer(layer: int) -> tuple[str, nn.Module]:
        return "self_attn", LatentAttention(ops, indexer=indexer() if indexer else None, **settings)

    return mixer, {"default": rope}


def leading_dense(
    fields: Fields, ops: Ops, sizes: Sizes, routing: Routing, *, bias: str | None, activation: Activation = SILU
) -> Callable[[int], nn.Module]:
    """Dense MLPs in the first layers, then experts beside a shared MLP; `bias` names the router's correction."""
    first = fields.int("first_k_dense_replace", 0)
    every = fields.size("moe_layer_freq", 1)
    default = ["sparse" if n >= first and n % every == 0 else "dense" for n in range(sizes.num_layers)]
    kinds = fields.list("mlp_layer_types", None) or default
    if len(kinds) != sizes.num_layers or not set(kinds) <= {"dense", "sparse"}:
        raise ConfigError(f"mlp_layer_types must name dense or sparse for each of {sizes.num_layers} layers, not {kinds!r}")
    intermediate = fields.size("intermediate_size")
    num_experts, moe_size = fields.size(fields.either("n_routed_experts", "num_local_experts")), fields.size("moe_intermediate_size")
    num_shared = fields.int("n_shared_experts", 0)

    def mlp(layer: int) -> nn.Module:
        if kinds[layer] == "dense":
            return GatedMLP(ops, sizes.hidden, intermediate, activation)
        shared = ("shared_experts", GatedMLP(ops, sizes.hidden, moe_size * num_shared, activation)) if num_shared else None
        return SparseMLP(
            ops,
            sizes.hidden,
            Router(ops, sizes.hidden, num_experts, routing, bias=bias),
            Experts(ops, num_experts, sizes.hidden, moe_size, activation),
            shared=shared,
        )

    return mlp


def sigmoid_routing(fields: Fields, *, groups: int = 8, top_groups: int = 4) -> Routing:
    """DeepSeek-V3's routing; the group counts are the architecture's defaults."""
    fields.expect("scoring_func", "sigmoid", default="sigmoid")
    fields.expect("topk_method", "noaux_tc", default="noaux_tc")
    return Routing(
        top_k=fields.size("num_experts_per_tok", 8),
        score="sigmoid",
        renormalize=fields.bool("norm_topk_prob", True),
        scale=fields.float("routed_scaling_factor", 2.5),
        num_groups=fields.size("n_group", groups),
        top_groups=fields.size("topk_group", top_groups),
        group_score="top2",
    )


def draft_layers(fields: Fields, sizes: Sizes) -> tuple[Ignore, ...]:
    """Draft layers stand after the model's own in its checkpoint."""
    count = fields.int("num_nextn_predict_layers", 0) or fields.int("num_mtp_layers", 0)
    names = "|".join(str(sizes.num_layers + n) for n in range(count))
    return (Ignore(rf"model\.layers\.({names})\.", "draft layers for speculative decoding"),) if count else ()
