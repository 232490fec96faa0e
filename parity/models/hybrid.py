"""The hybrid shape that Qwen3-Next, 3.5, 3.6 and 3.8 share: gated delta layers, and gated attention every fourth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..core.weights import Rename, Rule
from ..stacks.ops import Ops, Routing
from .config import Fields, layer_types
from .decoder import Decoder
from .draft import skipped
from .layers.attention import Attention
from .layers.delta import GatedDeltaNet
from .layers.rope import Rope, make_rope, rope_parameters, rotated_dims
from .layers.sparse import GroupIndexer
from .layers.sparse_mlp import SparseMLP, with_shared_expert
from .standard import Mixer, Sizes, assemble, dense_mlp, read_head_dim, read_sizes

KINDS = ("linear_attention", "full_attention")


def hybrid_mixers(
    fields: Fields,
    ops: Ops,
    sizes: Sizes,
    *,
    packed: bool,
    aliases: tuple[str, ...] = (),
    indexer: Callable[[], GroupIndexer] | None = None,
    activation: str = "silu",
    rotated: float = 0.25,
) -> tuple[Mixer, dict[str, Rope]]:
    """Each layer's mixer, and the rotation.

    Args:
        packed: how the gated delta layers' projections are released.
        aliases: other names of the full attention.
        indexer: makes what chooses the tokens that an attention sees.
        activation: of the gated delta layers' output gate.
        rotated: the part of a head that is, where the config has none.
    """
    fields.expect("mamba_ssm_dtype", "float32")  # as the state is kept
    every = fields.size("full_attention_interval", 4)
    default = [KINDS[(layer + 1) % every == 0] for layer in range(sizes.num_layers)]
    kinds = layer_types(fields, sizes.num_layers, KINDS + aliases, default)
    fields.expect("attention_bias", False)
    fields.expect("attn_output_gate", True, default=True)
    head_dim = read_head_dim(fields, sizes, 256)
    parameters = rope_parameters(fields)
    rope = make_rope(parameters, rotated_dims(parameters, head_dim, rotated), sizes.max_position)
    delta = {
        "num_k_heads": fields.size("linear_num_key_heads", 16),
        "num_v_heads": fields.size("linear_num_value_heads", 32),
        "k_dim": fields.size("linear_key_head_dim", 128),
        "v_dim": fields.size("linear_value_head_dim", 128),
        "width": fields.size("linear_conv_kernel_dim", 4),
    }

    def mixer(layer: int) -> tuple[str, nn.Module]:
        if layer < sizes.num_layers and kinds[layer] == "linear_attention":  # draft layers have the other
            return "linear_attn", GatedDeltaNet(
                ops, hidden_size=sizes.hidden, eps=sizes.eps, packed=packed, activation=activation, **delta
            )
        return "self_attn", Attention(
            ops,
            hidden_size=sizes.hidden,
            num_heads=sizes.num_heads,
            num_kv_heads=sizes.num_kv_heads,
            head_dim=head_dim,
            head_norm=sizes.eps,
            zero_centred=True,
            gate=True,
            indexer=indexer() if indexer else None,
        )

    return mixer, {"default": rope}


def shared_expert_mlp(fields: Fields, ops: Ops, sizes: Sizes, routing: Routing) -> SparseMLP:
    """Routed experts and a gated shared one; called for each layer, so it takes nothing but sizes."""
    moe_size = fields.size("moe_intermediate_size", 512)
    shared_size = fields.size("shared_expert_intermediate_size", 512)
    num_experts = fields.size(fields.either("num_experts", "num_local_experts"))
    return with_shared_expert(ops, sizes.hidden, num_experts, routing, size=moe_size, shared_size=shared_size)


def hybrid_decoder(fields: Fields, ops: Ops, dtype: torch.dtype, *, packed: bool, moe: bool, draft: bool = False) -> Decoder:
    """A whole hybrid model."""
    sizes = read_sizes(fields)
    fields.expect("output_gate_type", "silu", "swish")
    drafts = read_drafts(fields, draft)
    mixer, ropes = hybrid_mixers(fields, ops, sizes, packed=packed)
    if not moe:
        fields.expect("mlp_only_layers", [])
        mlp = dense_mlp(fields, ops, sizes)
        return assemble(ops, dtype, sizes, ropes, mixer, mlp, zero_centred=True, drafts=drafts)
    fields.skip("intermediate_size")
    fields.expect("decoder_sparse_step", 1)
    fields.expect("mlp_only_layers", [])
    fields.expect("norm_topk_prob", True)
    routing = Routing(fields.size("num_experts_per_tok"))
    return assemble(
        ops,
        dtype,
        sizes,
        ropes,
        mixer,
        lambda layer: shared_expert_mlp(fields, ops, sizes, routing),
        zero_centred=True,
        drafts=drafts,
    )


def read_drafts(fields: Fields, draft: bool) -> int:
    """How many draft layers are built: one, if they are asked for; every checkpoint that has any has one."""
    if not draft:
        fields.skip("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")
        return 0
    fields.expect("mtp_use_dedicated_embeddings", False)
    return int(fields.expect("mtp_num_hidden_layers", 0, 1, default=1))


DRAFT_NAMES: tuple[Rule, ...] = (
    skipped(r"mtp\."),
    Rename(r"^mtp\.layers\.(\d+)\.", r"mtp.\1."),
    Rename(r"^mtp\.fc\.", "mtp.0.eh_proj."),
    Rename(r"^mtp\.pre_fc_norm_embedding\.", "mtp.0.enorm."),
    Rename(r"^mtp\.pre_fc_norm_hidden\.", "mtp.0.hnorm."),
    Rename(r"^mtp\.norm\.", "mtp.0.norm."),
)
"""The draft layer's tensors, what stands before and after its block among them."""
