"""Qwen3.8-Flash-Next (the preview of Qwen4): gated residual streams, gated delta layers, attention to chosen groups of tokens,
experts, and memory of n-grams in some layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..core.errors import ConfigError
from ..core.weights import Ignore, Rename
from ..stacks.ops import Ops, Routing
from .architecture import Architecture
from .block import Block, Part
from .config import Fields, divides, text_fields
from .decoder import Body, Decoder
from .draft import Added, DraftLayer, add_drafts
from .hybrid import DRAFT_NAMES, hybrid_mixers, read_drafts, shared_expert_mlp
from .layers.gated_streams import GatedSite, GatedStreams
from .layers.hyper import StreamsSite, copies
from .layers.linear import Embedding, Linear
from .layers.ngram import HostTable, NgramHash, primes_after
from .layers.ple import PerLayerEmbedding, multipliers
from .layers.residual import Site
from .layers.sparse import GroupIndexer
from .standard import Sizes, read_sizes


def build(fields: Fields, ops: Ops, dtype: torch.dtype, *, draft: bool = False) -> Decoder:
    """A Qwen4-exp model."""
    fields = text_fields(fields, "qwen4_exp_text")
    sizes = read_sizes(fields)
    fields.skip("number_of_conv_states", "intermediate_size", "mtp")
    drafts = read_drafts(fields, draft)
    fields.expect("norm_topk_prob", True)
    every, indexer = _indexer(fields, ops, sizes)
    activation = fields.expect("output_gate_type", "silu", "sigmoid", default="silu")
    names = ("indexed_attention",)
    mixer, ropes = hybrid_mixers(
        fields, ops, sizes, packed=False, aliases=names, indexer=indexer, activation=activation, rotated=1.0
    )
    if ropes["default"].dims > fields.size("indexer_head_dim"):
        raise ConfigError(f"indexer_head_dim must be at least the {ropes['default'].dims} rotated dimensions")
    ropes["groups"] = ropes["default"].grouped(every)
    routing = Routing(fields.size("num_experts_per_tok", 10))
    count, rank = fields.size("hc_count", 4), fields.size("hc_lowrank", 320)
    memories = _memories(fields, ops, sizes, dtype, count)

    def streams(*, writes: bool = True) -> GatedStreams:
        return GatedStreams(ops, sizes.hidden, count, rank, sizes.eps, writes=writes)

    def block(layer: int) -> Block:
        name, attention = mixer(layer)
        mlp = shared_expert_mlp(fields, ops, sizes, routing)
        gates = {"attn_hyper_connection": streams(), "mlp_hyper_connection": streams()}
        sites = [GatedSite(gate) for gate in gates.values()]
        parts: list[tuple[Site, Part]] = [(sites[0], attention), (sites[1], mlp)]
        modules: dict[str, nn.Module] = {name: attention, "mlp": mlp, **gates}
        if layer in memories:
            modules["ple"] = memories[layer]
            parts.insert(0, (StreamsSite(ops), memories[layer]))
        return Block(parts, modules)

    def draft_layer(layer: int) -> DraftLayer:
        inner, last = block(layer), streams(writes=False)
        join = Added(ops, sizes.hidden, count, sizes.eps, zero_centred=True, together=True)
        modules = {**dict(inner.named_children()), "hyper_connection_mixer": last}
        return DraftLayer(join, inner.parts, modules, GatedSite(last))

    last = streams(writes=False)
    embedding = Embedding(ops, sizes.vocab, sizes.hidden, dtype)
    model = Decoder(
        ops,
        Body(embedding, [block(layer) for layer in range(sizes.num_layers)], {"hyper_connection_mixer": last}),
        None if sizes.tied else Linear(ops, sizes.hidden, sizes.vocab, split="column"),
        GatedSite(last),
        ropes,
        vocab_size=sizes.vocab,
        max_position=sizes.max_position,
        start=copies(ops, count),
    )
    add_drafts(model, (draft_layer(sizes.num_layers + index) for index in range(drafts)))
    return model


def _indexer(fields: Fields, ops: Ops, sizes: Sizes) -> tuple[int, Callable[[], GroupIndexer]]:
    """(tokens in a group, what chooses among the groups)."""
    fields.expect("indexer_kv_heads", 1)
    every, budget = fields.size("indexer_compress_ratio"), fields.size("indexer_budget")
    divides(fields, "indexer_budget", budget, "indexer_compress_ratio", every)
    settings = {"num_heads": fields.size("indexer_n_heads"), "dim": fields.size("indexer_head_dim")}

    def make() -> GroupIndexer:
        return GroupIndexer(
            ops,
            hidden_size=sizes.hidden,
            budget=budget,
            every=every,
            eps=sizes.eps,
            rope="default",
            group_rope="groups",
            **settings,
        )

    return every, make


def _memories(fields: Fields, ops: Ops, sizes: Sizes, dtype: torch.dtype, count: int) -> dict[int, PerLayerEmbedding]:
    """The n-gram memories by layer; the config counts layers from 1."""
    layers = sorted(set(fields.list("ple_layer_ids", [])))
    width, heads = fields.size("ngram_size", 3), fields.size("heads_per_ngram", 8)
    dim, taps = fields.size("ple_embed_dim", sizes.hidden), fields.size("ple_conv_kernel_size", 4)
    base, divisor = fields.size("ngram_vocab_size_base", 20_000_000), fields.size("make_ngram_vocab_size_divisible_by", 128)
    seed, num_parts = fields.int("seed", 1234), fields.size("split_ngram_parts", 512)
    if not layers:
        return {}
    if width < 2 or not all(type(layer) is int and 1 <= layer <= sizes.num_layers for layer in layers):
        raise ConfigError(f"ple_layer_ids = {layers!r} with ngram_size = {width} do not fit {sizes.num_layers} layers")
    total = (width - 1) * heads
    row = divides(fields, "ple_embed_dim", dim, "the number of n-gram heads", total)
    stop = fields.tokens("eos_token_id")[0]
    primes = primes_after(base - 1, total * len(layers))
    names = ("layer_multipliers", "ngram_heads_vocab_sizes", "ngram_heads_offsets")
    made = {}
    for index, layer in enumerate(layers):
        hashing = NgramHash(
            multipliers(sizes.vocab, width, index, seed), primes[index * total : (index + 1) * total], stop, stop, names
        )
        table = HostTable(-(-hashing.num_rows // divisor) * divisor, row, dtype, num_parts=num_parts)
        made[layer - 1] = PerLayerEmbedding(ops, sizes.hidden, count, dim, taps, sizes.eps, hashing, table)
    return made


ARCHITECTURE = Architecture(
    model_types=("qwen4_exp", "qwen4_exp_text"),
    build=build,
    drafts=True,
    rules=(
        Ignore(r"model\.visual\.", "vision is not supported: text only"),
        Rename(r"^model\.language_model\.", "model."),
        Ignore(r"mtp\.hyper_connection_mixer\.block_inject_weight\.", "nothing is written after the draft layer"),
        *DRAFT_NAMES,
        Rename(r"^mtp\.hyper_connection_mixer\.", "mtp.0.hyper_connection_mixer."),
        Rename(r"^mtp\.fc_embedding\.", "mtp.0.e_proj."),
        Rename(r"^mtp\.fc_hidden\.", "mtp.0.h_proj."),
    ),
    checkpoints="Qwen3.8-Flash-Next",
    formats="bf16, FP8, GGUF",
    reference="transformers 5.23",
    missing="images; llama.cpp attends to up to ratio - 1 tokens of one more block, transformers and Parity to whole blocks",
)
