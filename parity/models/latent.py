"""The shape that DeepSeek-V2, V3, V3.2, Kimi K2 and Moonlight share: latent attention, dense layers first, then experts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..core.errors import ConfigError
from ..core.weights import Rename, Rule
from ..stacks.ops import Activation, Ops, Routing
from .config import Fields
from .decoder import Decoder
from .draft import shared, skipped
from .layers.experts import Experts
from .layers.mla import LatentAttention
from .layers.mlp import SILU, GatedMLP
from .layers.rope import Rope, make_rope, rope_parameters
from .layers.router import Router
from .layers.sparse_mlp import LatentSpace, SparseMLP
from .standard import Mixer, Sizes, assemble, read_sizes


def latent_attention(
    fields: Fields,
    ops: Ops,
    sizes: Sizes,
    *,
    indexer: Callable[[], nn.Module] | None = None,
    default_q_rank: int | None = 1536,
    rotated: bool = True,
    gate: bool = False,
) -> tuple[Mixer, dict[str, Rope]]:
    """Latent attention in every layer, and its rotation.

    Args:
        indexer: makes what chooses each layer's entries.
        default_q_rank: where the config has no rank for queries.
        rotated: the rope dimensions are rotated; `gate`: the output has a gate.
    """
    nope, rope_dim = fields.size("qk_nope_head_dim", 128), fields.size("qk_rope_head_dim", 64)
    fields.skip("head_dim", "qk_head_dim")
    rope = make_rope(rope_parameters(fields), rope_dim, sizes.max_position) if rotated else None
    settings = {
        "hidden_size": sizes.hidden,
        "num_heads": sizes.num_heads,
        "q_rank": fields.size("q_lora_rank", default_q_rank if not fields.has("q_lora_rank") else None),
        "kv_rank": fields.size("kv_lora_rank", 512),
        "nope_dim": nope,
        "rope_dim": rope_dim,
        "value_dim": fields.size("v_head_dim", 128),
        "scale": (nope + rope_dim) ** -0.5 * (rope.mscale**2 if rope else 1.0),
        "rope": "default" if rope else None,
        "interleaved": fields.bool("rope_interleave", True),
        "bias": fields.bool("attention_bias", False),
        "gate": gate,
    }

    def mixer(layer: int) -> tuple[str, nn.Module]:
        return "self_attn", LatentAttention(ops, indexer=indexer() if indexer else None, **settings)

    return mixer, {"default": rope} if rope else {}


def leading_dense(
    fields: Fields,
    ops: Ops,
    sizes: Sizes,
    routing: Routing,
    *,
    bias: str | None,
    activation: Activation = SILU,
    first_dense: int = 0,
    latent: LatentSpace | None = None,
) -> Callable[[int], nn.Module]:
    """Dense MLPs in the first layers, then experts beside a shared MLP; `bias` names the router's correction.

    `latent` is where the experts compute, if not on the hidden state.
    """
    first = fields.int("first_k_dense_replace", first_dense)
    every = fields.size("moe_layer_freq", 1)
    default = ["sparse" if n >= first and n % every == 0 else "dense" for n in range(sizes.num_layers)]
    kinds = fields.list("mlp_layer_types", None) or default
    if len(kinds) != sizes.num_layers or not set(kinds) <= {"dense", "sparse"}:
        raise ConfigError(f"mlp_layer_types must name dense or sparse for each of {sizes.num_layers} layers, not {kinds!r}")
    intermediate = fields.size("intermediate_size")
    num_experts = fields.size(fields.either("n_routed_experts", "num_local_experts", "num_experts"))
    moe_size = fields.size("moe_intermediate_size")
    num_shared = fields.int(fields.either("n_shared_experts", "num_shared_experts"), 0)

    def mlp(layer: int) -> nn.Module:
        if layer < sizes.num_layers and kinds[layer] == "dense":  # draft layers always have experts
            return GatedMLP(ops, sizes.hidden, intermediate, activation)
        shared = ("shared_experts", GatedMLP(ops, sizes.hidden, moe_size * num_shared, activation)) if num_shared else None
        return SparseMLP(
            ops,
            sizes.hidden,
            Router(ops, sizes.hidden, num_experts, routing, bias=bias),
            Experts(ops, num_experts, latent.width if latent else sizes.hidden, moe_size, activation),
            shared=shared,
            latent=latent,
        )

    return mlp


def sigmoid_routing(fields: Fields, *, groups: int = 8, top_groups: int = 4, scale: float = 2.5) -> Routing:
    """DeepSeek-V3's routing; the group counts and the scale are the architecture's defaults."""
    fields.expect(fields.either("scoring_func", "moe_router_activation_func"), "sigmoid")
    fields.expect("topk_method", "noaux_tc")
    return Routing(
        top_k=fields.size(fields.either("num_experts_per_tok", "num_experts_per_token"), 8),
        score="sigmoid",
        renormalize=fields.bool(fields.either("norm_topk_prob", "moe_renormalize"), True),
        scale=fields.float("routed_scaling_factor", scale),
        num_groups=fields.size(fields.either("n_group", "num_expert_group"), groups),
        top_groups=fields.size("topk_group", top_groups),
        group_score="top2",
    )


def latent_decoder(
    fields: Fields,
    ops: Ops,
    dtype: torch.dtype,
    *,
    indexer: Callable[[Sizes], nn.Module] | None = None,
    draft: bool = False,
) -> Decoder:
    """A whole model of the V3 kind; `indexer` makes what chooses the entries of one layer."""
    sizes = read_sizes(fields)
    make = None if indexer is None else lambda: indexer(sizes)
    mixer, ropes = latent_attention(fields, ops, sizes, indexer=make)
    mlp = leading_dense(fields, ops, sizes, sigmoid_routing(fields), bias="e_score_correction_bias")
    drafts = fields.int("num_nextn_predict_layers", 0) or fields.int("num_mtp_layers", 0)
    model = assemble(ops, dtype, sizes, ropes, mixer, mlp, drafts=drafts if draft else 0)
    model.rules = draft_rules(sizes, drafts)
    return model


def draft_rules(sizes: Sizes, count: int) -> tuple[Rule, ...]:
    """Draft layers stand after the model's own in its checkpoint."""
    rules: list[Rule] = []
    for index in range(count):
        place = rf"model\.layers\.{sizes.num_layers + index}\."
        rules += [shared(rf"{place}(embed_tokens|shared_head\.head)\."), skipped(place)]
        rules += [Rename(f"^{place}", f"mtp.{index}."), Rename(rf"^mtp\.{index}\.shared_head\.norm\.", f"mtp.{index}.norm.")]
    return tuple(rules)
