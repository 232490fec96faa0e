"""The shape that DeepSeek-V4 and V4.1 share: hyper-connections, one key for all heads with entries pooled from older tokens,
and experts weighed by the root of a softplus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from ..stacks.ops import Ops
from .block import Block, Part
from .compressed_experts import MakeExperts
from .compressed_keys import Streams
from .decoder import Body, Decoder
from .draft import Added, DraftLayer, add_drafts
from .dspark import BlockDrafter, Ends
from .dspark_keys import Spark, Tap
from .layers.block_attention import BlockAttention
from .layers.hyper import HyperHead, HyperSite, HyperWeights, MeanSite, copies
from .layers.linear import Embedding, Linear
from .layers.markov import ConfidenceHead, MarkovHead
from .layers.norm import RMSNorm
from .layers.residual import Site
from .layers.rope import Rope
from .layers.shared_kv import SharedAttention
from .standard import Sizes

Pair: TypeAlias = tuple[nn.Module, nn.Module]
"""A layer's attention and MLP."""


def draft_pair(ops: Ops, spark: Spark | None, attention: Mapping[str, Any], experts: MakeExperts, *, head_norm: bool) -> Pair:
    """The attention and the MLP of a draft layer."""
    if spark is None:
        return SharedAttention(ops, rope="main", head_norm=head_norm, **attention), experts()
    return BlockAttention(ops, block=spark.block, head_norm=head_norm, **attention), experts(counts=spark.experts)


@dataclass(frozen=True)
class Blocks:
    """Makes blocks whose parts are joined by hyper-connections.

    Args:
        lagged: the sites read one site late, and there is no collapse with weights of its own.
    """

    ops: Ops
    sizes: Sizes
    streams: Streams
    lagged: bool

    def weights(self, *, head: bool = False) -> HyperWeights:
        """Of a site, or of the collapse at the end."""
        count, eps, iterations = self.streams.count, self.streams.eps, self.streams.iterations
        return HyperWeights(
            self.ops, self.sizes.hidden, count, norm_eps=self.sizes.eps, eps=eps, iterations=iterations, head=head
        )

    def norm(self) -> RMSNorm:
        """A norm of the hidden state."""
        return RMSNorm(self.ops, self.sizes.hidden, self.sizes.eps)

    def last(self) -> tuple[dict[str, nn.Module], HyperHead]:
        """(the modules at the end, the site that they are)."""
        norm, head = self.norm(), None if self.lagged else self.weights(head=True)
        return {"norm": norm} | ({"hc_head": head} if head else {}), HyperHead(self.ops, norm, head)

    def plain(
        self,
        pair: Pair,
        first: tuple[Site, str, Part] | None = None,
        tap: Tap | None = None,
        *,
        entering: bool = False,
    ) -> Block:
        """A layer; `first` comes before its attention, and `tap` reads the streams there, if `entering`, or at the end."""
        parts: list[tuple[Site, Part]] = []
        modules: dict[str, nn.Module] = {}
        if first:
            site, name, part = first
            parts.append((site, part))
            assert isinstance(part, nn.Module)
            modules[name] = part
        taps: list[tuple[Site, Part]] = [(MeanSite(self.ops), tap)] if tap else []
        parts += taps if entering else []
        for name, hyper_name, norm_name, module in (
            ("self_attn", "attn_hc", "input_layernorm", pair[0]),
            ("mlp", "ffn_hc", "post_attention_layernorm", pair[1]),
        ):
            weights, norm = self.weights(), self.norm()
            modules |= {name: module, hyper_name: weights, norm_name: norm}
            parts.append((HyperSite(weights, norm, lagged=self.lagged), module))
        return Block([*parts, *([] if entering else taps)], modules)

    def draft(self, pair: Pair) -> DraftLayer:
        """A draft layer that guesses one token."""
        inner, (modules, last) = self.plain(pair), self.last()
        join = Added(self.ops, self.sizes.hidden, self.streams.count, self.sizes.eps)
        return DraftLayer(join, inner.parts, dict(inner.named_children()) | modules, last)

    def add_spark(self, model: Decoder, spark: Spark, pairs: Sequence[Pair], dtype: torch.dtype) -> None:
        """Gives a model the draft layers of DSpark."""
        ops, hidden, vocab = self.ops, self.sizes.hidden, self.sizes.vocab
        markov, confidence = MarkovHead(ops, vocab, spark.rank, dtype), ConfidenceHead(ops, hidden, spark.rank)
        modules, last = self.last()
        ends = Ends(Linear(ops, hidden * len(spark.targets), hidden), self.norm(), last, markov, confidence)
        before: dict[str, nn.Module] = {"main_proj": ends.main_proj, "main_norm": ends.main_norm}
        after = modules | {"markov_head": markov, "confidence_head": confidence}
        layers = []
        for index, pair in enumerate(pairs):
            inner = self.plain(pair)
            beside = (before if index == 0 else {}) | (after if index == len(pairs) - 1 else {})
            assert isinstance(pair[0], BlockAttention)
            layers.append((Block(inner.parts, dict(inner.named_children()) | beside), pair[0]))
        model.mtp.extend(block for block, _ in layers)
        model.drafter = BlockDrafter(spark, layers, ends)
        model.tapped = spark.taps


def compressed_decoder(
    ops: Ops,
    dtype: torch.dtype,
    sizes: Sizes,
    streams: Streams,
    ropes: Mapping[str, Rope],
    layers: Sequence[Pair],
    *,
    lagged: bool,
    before: Mapping[int, tuple[Site, str, Part]] | None = None,
    drafts: Sequence[Pair] = (),
    spark: Spark | None = None,
) -> Decoder:
    """A decoder of attentions and MLPs joined by hyper-connections.

    Args:
        layers, drafts: (attention, MLP) of each layer, and of each draft layer.
        lagged: as `Blocks` has it.
        before: by layer, a part that comes before its attention: (site, name, part).
        spark: what the draft layers are, if they are DSpark's.
    """
    make = Blocks(ops, sizes, streams, lagged)
    entering = spark is not None and spark.entering
    blocks = [
        make.plain(pair, (before or {}).get(index), spark.tap(index) if spark else None, entering=entering)
        for index, pair in enumerate(layers)
    ]
    modules, last = make.last()
    model = Decoder(
        ops,
        Body(Embedding(ops, sizes.vocab, sizes.hidden, dtype), blocks, modules),
        None if sizes.tied else Linear(ops, sizes.hidden, sizes.vocab, split="column"),
        last,
        ropes,
        vocab_size=sizes.vocab,
        max_position=sizes.max_position,
        start=copies(ops, streams.count),
    )
    if spark:
        make.add_spark(model, spark, drafts, dtype)
    else:
        add_drafts(model, map(make.draft, drafts))
    return model
