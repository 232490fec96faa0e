"""Kimi K3, text part: Kimi Linear's two kinds of attention with gates, experts in a latent space, and attention residuals."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.weights import Ignore, Rename
from ..stacks.ops import Activation, Ops
from .architecture import Architecture
from .block import Block
from .config import Fields, text_fields
from .decoder import Body, Decoder
from .kimi import EXPERT_NAMES, linear_layers
from .latent import latent_attention, leading_dense, sigmoid_routing
from .layers.attention_residual import BlockMix, MixedSite
from .layers.kimi_delta import KimiDeltaAttention
from .layers.linear import Embedding, Linear
from .layers.norm import RMSNorm
from .layers.residual import Stream
from .layers.sparse_mlp import LatentSpace
from .standard import read_sizes


def build(fields: Fields, ops: Ops, dtype: torch.dtype) -> Decoder:
    """A Kimi K3 model."""
    text = text_fields(fields)
    text.expect("model_type", "kimi_linear", "kimi_k3")
    sizes = read_sizes(text, eps=1e-5, activation="situ")
    linear, kinds = linear_layers(text, sizes)
    gate = text.bool("mla_use_output_gate", False)
    latent, _ = latent_attention(text, ops, sizes, rotated=False, default_q_rank=None, gate=gate)
    activation = Activation("situ", beta=text.float("activation_situ_beta"), linear=text.float("activation_situ_linear_beta"))
    width, normed = text.size("routed_expert_hidden_size", None), text.bool("latent_moe_use_norm", False)
    mlp = leading_dense(
        text,
        ops,
        sizes,
        sigmoid_routing(text, groups=1, top_groups=1, scale=1.0),
        bias="e_score_correction_bias",
        activation=activation,
        latent=LatentSpace(width, sizes.eps if normed else None) if width else None,
    )
    every = text.size("attn_res_block_size")

    def norm() -> RMSNorm:
        return RMSNorm(ops, sizes.hidden, sizes.eps)

    def mix(name: str) -> BlockMix:
        return BlockMix(ops, sizes.hidden, sizes.eps, name)

    def block(layer: int) -> Block:
        delta = kinds[layer] == "linear_attention"
        mixer = KimiDeltaAttention(ops, hidden_size=sizes.hidden, eps=sizes.eps, **linear) if delta else latent(layer)[1]
        norms = {"input_layernorm": norm(), "post_attention_layernorm": norm()}
        mixes = {"self_attention_res": mix("self_attention_res"), "mlp_res": mix("mlp_res")}
        parts: dict[str, nn.Module] = {"self_attn": mixer, "mlp": mlp(layer)}
        before = MixedSite(mixes["self_attention_res"], norms["input_layernorm"], starts=layer % every == 0)
        between = MixedSite(mixes["mlp_res"], norms["post_attention_layernorm"])
        return Block([(before, parts["self_attn"]), (between, parts["mlp"])], {**parts, **norms, **mixes})

    last, exit_mix = norm(), mix("output_attn_res")
    modules = {"norm": last, "output_attn_res": exit_mix}
    blocks = [block(layer) for layer in range(sizes.num_layers)]
    return Decoder(
        ops,
        Body(Embedding(ops, sizes.vocab, sizes.hidden, dtype), blocks, modules),
        None if sizes.tied else Linear(ops, sizes.hidden, sizes.vocab, split="column"),
        MixedSite(exit_mix, last),
        {},
        vocab_size=sizes.vocab,
        max_position=sizes.max_position,
        start=_only,
    )


def _only(x: Tensor) -> Stream:
    """No block is finished yet, and the embedding is what is under way."""
    return (x,)


ARCHITECTURE = Architecture(
    model_types=("kimi_k3",),
    build=build,
    rules=(
        Ignore(
            r"(model\.)?(vision_tower|vision_model|mm_projector|multi_modal_projector)\.", "vision is not supported: text only"
        ),
        Rename(r"^language_model\.model\.", "model."),
        Rename(r"^language_model\.lm_head\.", "lm_head."),
        *EXPERT_NAMES,
    ),
    checkpoints="Kimi-K3",
    formats="MXFP4, GGUF",
    reference="mlx-lm 0.32.2",
    missing="images",
)
