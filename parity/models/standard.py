"""The common shape: pre-norm blocks of grouped-query attention and a dense MLP."""

from __future__ import annotations

import torch

from ..stacks.ops import Ops
from .config import Fields, divides, layer_types
from .decoder import Body, Decoder, plain_block
from .layers.attention import Attention
from .layers.linear import Embedding, Linear
from .layers.mlp import GatedMLP
from .layers.norm import RMSNorm
from .layers.residual import PlainSite
from .layers.rope import make_rope, rope_parameters


def standard_decoder(
    fields: Fields,
    ops: Ops,
    dtype: torch.dtype,
    *,
    bias: bool = False,
    output_bias: bool = False,
    head_norm: bool = False,
    head_dim: int | None = None,
    theta: float = 1e6,
    eps: float = 1e-6,
    tied_default: bool = False,
) -> Decoder:
    """A decoder whose layers are all alike.

    Args:
        bias: q, k and v have biases.
        output_bias: so has the attention's output.
        head_norm: the heads of q and k are normed.
        head_dim: the default if the config has none; None means hidden_size / heads.
    """
    hidden, vocab = fields.size("hidden_size"), fields.size("vocab_size")
    heads = fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", heads)
    divides(fields, "num_attention_heads", heads, "num_key_value_heads", kv_heads)
    head_dim = fields.size("head_dim", head_dim) or divides(fields, "hidden_size", hidden, "num_attention_heads", heads)
    num_layers, intermediate = fields.size("num_hidden_layers"), fields.size("intermediate_size")
    layer_types(fields, num_layers, ["full_attention"], ["full_attention"] * num_layers)
    norm_eps = fields.float("rms_norm_eps", eps)
    max_position = fields.size("max_position_embeddings")
    fields.expect("hidden_act", "silu", default="silu")
    rope = make_rope(rope_parameters(fields, theta), head_dim, max_position)

    def block():  # type: ignore[no-untyped-def]  # -> Block
        mixer = Attention(
            ops,
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            bias=bias,
            output_bias=output_bias,
            head_norm=norm_eps if head_norm else None,
        )
        mlp = GatedMLP(ops, hidden, intermediate)
        return plain_block(mixer, mlp, RMSNorm(ops, hidden, norm_eps), RMSNorm(ops, hidden, norm_eps))

    norm = RMSNorm(ops, hidden, norm_eps)
    tied = fields.bool("tie_word_embeddings", tied_default)
    return Decoder(
        ops,
        Body(Embedding(ops, vocab, hidden, dtype), [block() for _ in range(num_layers)], {"norm": norm}),
        None if tied else Linear(ops, hidden, vocab, split="column"),
        PlainSite(norm),
        {"default": rope},
        vocab_size=vocab,
        max_position=max_position,
    )
