"""What nearly every architecture's file begins with: the sizes, the usual attention, and pre-norm blocks put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..core.errors import ConfigError
from ..stacks.ops import Ops
from .block import Block, plain_block
from .config import Fields, divides
from .decoder import Body, Decoder
from .draft import Concatenated, DraftLayer, add_drafts
from .layers.attention import Attention
from .layers.linear import Embedding, Linear
from .layers.mlp import GatedMLP
from .layers.norm import RMSNorm
from .layers.residual import PlainSite
from .layers.rope import Rope, make_rope, rope_parameters


@dataclass(frozen=True)
class Sizes:
    """The keys that all configs share."""

    hidden: int
    vocab: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    eps: float
    max_position: int
    tied: bool


def read_sizes(fields: Fields, *, eps: float = 1e-6, activation: str = "silu") -> Sizes:
    """Takes the shared keys; `eps` is the architecture's default, `activation` the one that it computes.

    Raises:
        ConfigError: one is missing, or does not fit another.
    """
    heads = fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", heads)
    divides(fields, "num_attention_heads", heads, "num_key_value_heads", kv_heads)
    fields.expect("hidden_act", activation)
    norm_eps = fields.float("rms_norm_eps", eps)
    if norm_eps < 0:
        raise ConfigError(f"rms_norm_eps must not be negative, not {norm_eps}")
    return Sizes(
        hidden=fields.size("hidden_size"),
        vocab=fields.size("vocab_size"),
        num_layers=fields.size("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        eps=norm_eps,
        max_position=fields.size(fields.either("max_position_embeddings", "model_max_length")),
        tied=fields.bool("tie_word_embeddings", False),
    )


def read_head_dim(fields: Fields, sizes: Sizes, default: int | None = None) -> int:
    """`head_dim`, or its default, or the hidden size divided among the heads."""
    given: int | None = fields.size("head_dim", default)
    return given or divides(fields, "hidden_size", sizes.hidden, "num_attention_heads", sizes.num_heads)


Mixer = Callable[[int], tuple[str, nn.Module]]
"""layer index -> (checkpoint name, mixer)."""


def assemble(
    ops: Ops,
    dtype: torch.dtype,
    sizes: Sizes,
    ropes: Mapping[str, Rope],
    mixer: Mixer,
    mlp: Callable[[int], nn.Module],
    *,
    zero_centred: bool = False,
    drafts: int = 0,
) -> Decoder:
    """A decoder of pre-norm blocks, with the mixer and the MLP of each layer.

    Args:
        drafts: draft layers of the same shape; `mixer` and `mlp` give theirs as those of further layers.
    """

    def norm() -> RMSNorm:
        return RMSNorm(ops, sizes.hidden, sizes.eps, zero_centred=zero_centred)

    def block(layer: int) -> Block:
        name, module = mixer(layer)
        return plain_block(module, mlp(layer), norm(), norm(), mixer_name=name)

    def draft(layer: int) -> DraftLayer:
        inner, last = block(layer), norm()
        join = Concatenated(ops, sizes.hidden, sizes.eps, zero_centred=zero_centred)
        return DraftLayer(join, inner.parts, {**dict(inner.named_children()), "norm": last}, PlainSite(last))

    blocks, last = [block(layer) for layer in range(sizes.num_layers)], norm()
    model = Decoder(
        ops,
        Body(Embedding(ops, sizes.vocab, sizes.hidden, dtype), blocks, {"norm": last}),
        None if sizes.tied else Linear(ops, sizes.hidden, sizes.vocab, split="column"),
        PlainSite(last),
        ropes,
        vocab_size=sizes.vocab,
        max_position=sizes.max_position,
    )
    add_drafts(model, (draft(sizes.num_layers + index) for index in range(drafts)))
    return model


def standard_attention(
    fields: Fields,
    ops: Ops,
    sizes: Sizes,
    *,
    bias: bool = False,
    output_bias: bool = False,
    head_norm: bool = False,
    head_dim: int | None = None,
) -> tuple[Mixer, dict[str, Rope]]:
    """Grouped-query attention that is the same in every layer, and its rotation.

    Args:
        bias: q, k and v have biases; `output_bias`: so has the output.
        head_norm: the heads of q and k are normed.
        head_dim: the default if the config has none.
    """
    dim = read_head_dim(fields, sizes, head_dim)
    fields.expect("layer_types", None, ["full_attention"] * sizes.num_layers)

    def mixer(layer: int) -> tuple[str, nn.Module]:
        return "self_attn", Attention(
            ops,
            hidden_size=sizes.hidden,
            num_heads=sizes.num_heads,
            num_kv_heads=sizes.num_kv_heads,
            head_dim=dim,
            bias=bias,
            output_bias=output_bias,
            head_norm=sizes.eps if head_norm else None,
        )

    return mixer, {"default": make_rope(rope_parameters(fields), dim, sizes.max_position)}


def dense_mlp(fields: Fields, ops: Ops, sizes: Sizes) -> Callable[[int], nn.Module]:
    """The dense MLP that is the same in every layer."""
    intermediate = fields.size("intermediate_size")
    return lambda layer: GatedMLP(ops, sizes.hidden, intermediate)


def sparse_layers(
    fields: Fields, num_experts: int, dense: Callable[[int], nn.Module], sparse: Callable[[int], nn.Module]
) -> Callable[[int], nn.Module]:
    """The MLP of each layer: `sparse` in every `decoder_sparse_step`th but those of `mlp_only_layers`, else `dense`."""
    step, dense_layers = fields.size("decoder_sparse_step", 1), fields.list("mlp_only_layers", [])

    def mlp(layer: int) -> nn.Module:
        return dense(layer) if layer in dense_layers or num_experts == 0 or (layer + 1) % step else sparse(layer)

    return mlp
