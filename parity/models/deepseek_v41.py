"""DeepSeek-V4.1: as V4, with pooled entries, index keys and choices shared between layers, a residual that is read one site
late, and memory of n-grams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ConfigError, Unsupported
from ..core.weights import Rename
from ..stacks.ops import Ops
from .architecture import Architecture
from .compressed import compressed_decoder, draft_pair
from .compressed_experts import compressed_experts
from .compressed_keys import VENDOR_NAMES, attention_settings, index_settings, read_drafts, read_ropes, read_streams
from .config import Fields, text_fields
from .decoder import Decoder
from .layers.engram import Engram, fold_tokens, multipliers
from .layers.hyper import StreamsSite
from .layers.ngram import HostTable, NgramHash, primes_after
from .layers.pooled import Compressor, SharingIndexer
from .layers.shared_kv import SharedAttention
from .standard import Sizes, read_sizes


def build(fields: Fields, ops: Ops, dtype: torch.dtype, *, draft: bool = False) -> Decoder:
    """A DeepSeek-V4.1 model."""
    fields = text_fields(fields, "deepseek_v41_text")
    sizes = read_sizes(fields, eps=1e-20)
    drafts, spark = read_drafts(fields, sizes, draft, entering=True)
    if drafts and not spark:
        raise Unsupported(
            "without dspark_target_layer_ids, DeepSeek-V4.1's draft layers are not computed: load the model without drafts"
        )
    fields.expect("gate_temp", 1.0)
    fields.expect("first_k_dense_replace", 0)
    attention = attention_settings(fields, sizes)
    make, rates = _attentions(fields, ops, sizes, attention)
    experts = compressed_experts(fields, ops, sizes)
    layers = [(make(layer), experts()) for layer in range(sizes.num_layers)]
    ropes = read_ropes(fields, sizes, attention, rates)
    streams = read_streams(fields)
    engrams = _engrams(fields, ops, sizes, dtype, streams.count)
    before = {layer: (StreamsSite(ops), "engram", engram) for layer, engram in engrams.items()}
    ahead = [draft_pair(ops, spark, attention, experts, head_norm=False) for _ in range(drafts)]
    model = compressed_decoder(ops, dtype, sizes, streams, ropes, layers, lagged=True, before=before, drafts=ahead, spark=spark)
    if engrams:
        model.readers = (_reader(list(engrams.values())),)
    return model


def _attentions(
    fields: Fields, ops: Ops, sizes: Sizes, attention: dict[str, Any]
) -> tuple[Callable[[int], SharedAttention], list[int]]:
    """(layer -> its attention, the rates at which entries are pooled)."""
    ratios = fields.list("compress_ratios")[: sizes.num_layers]
    pools, chooses = fields.list("kv_source_layer_ids", []), fields.list("index_source_layer_ids", [])
    source, length = fields.int("candidate_source_layer_id", None), fields.size("candidate_block_size", 8)
    num_blocks = fields.int("candidate_topk_blocks", 2048)
    index = index_settings(fields, sizes, attention, heads=32)
    if len(ratios) < sizes.num_layers or not all(type(ratio) is int and 0 <= ratio <= 128 for ratio in ratios):
        raise ConfigError(f"compress_ratios must hold a ratio up to 128 for each of {sizes.num_layers} layers, not {ratios!r}")
    if not all(type(layer) is int for layer in (*pools, *chooses)):
        raise ConfigError(f"kv_source_layer_ids = {pools!r} and index_source_layer_ids = {chooses!r} must hold layers")
    for layer, ratio in enumerate(ratios):
        nearest = max((pool for pool in pools if pool <= layer), default=None)
        if ratio and (nearest is None or ratios[nearest] != ratio):
            raise ConfigError(f"compress_ratios[{layer}] = {ratio} has no layer of kv_source_layer_ids = {pools!r} to read")
    if not set(pools) <= set(chooses) or any(not 0 <= layer < sizes.num_layers or not ratios[layer] for layer in chooses):
        raise ConfigError(f"index_source_layer_ids = {chooses!r} must pool, and include kv_source_layer_ids = {pools!r}")
    if source is not None and num_blocks and source not in chooses:
        raise ConfigError(f"candidate_source_layer_id = {source} is not in index_source_layer_ids = {chooses!r}")

    def make(layer: int) -> SharedAttention:
        every, compressor, indexer = ratios[layer], None, None
        if layer in pools:
            pooling = {"hidden_size": sizes.hidden, "every": every, "rope_dim": attention["rope_dim"], "eps": sizes.eps}
            compressor = Compressor(ops, dim=attention["head_dim"], bias=False, **pooling)
        if layer in chooses:
            indexer = SharingIndexer(
                ops,
                entry_dim=attention["head_dim"],
                eps=sizes.eps,
                source=layer in pools,
                blocks=(num_blocks, length) if layer == source and num_blocks else None,
                candidates=length if source is not None and source < layer and num_blocks else 0,
                every=every,
                **index,
            )
        return SharedAttention(
            ops,
            rope="compress" if every else "main",
            head_norm=False,
            every=every,
            compressor=compressor,
            indexer=indexer,
            selects=bool(every),
            **attention,
        )

    return make, sorted(set(ratios) - {0})


def _engrams(fields: Fields, ops: Ops, sizes: Sizes, dtype: torch.dtype, count: int) -> dict[int, Engram]:
    """The n-gram memories by layer."""
    layers = fields.list("engram_layer_ids", [])
    given = fields.list("engram_num_embeddings", [])
    width, heads = fields.size("engram_max_ngram_size", 4), fields.size("engram_n_heads", 8)
    dim, base = fields.size("engram_head_dim", 256), fields.size("engram_vocab_size", 16_000_000)
    pad, num_classes = fields.int("engram_pad_token_id", 2), fields.size("engram_compressed_vocab_size", 99092)
    total = (width - 1) * heads
    if width < 2 or any(type(layer) is not int or not 0 <= layer < sizes.num_layers for layer in layers):
        raise ConfigError(f"engram_layer_ids = {layers!r} with n-grams up to {width} do not fit {sizes.num_layers} layers")
    if len(given) != len(layers) or any(type(rows) is not int or rows < total * base for rows in given):
        raise ConfigError(f"engram_num_embeddings = {given!r} must hold at least {total * base} rows for each of {layers!r}")
    primes = primes_after(base - 1, total * len(layers))
    made = {}
    for place, layer in enumerate(layers):
        constants = multipliers(num_classes, width, layer)
        hashing = NgramHash(constants, primes[place * total : (place + 1) * total], fill=0)
        if given[place] < hashing.num_rows:
            raise ConfigError(f"engram_num_embeddings = {given!r} must hold {hashing.num_rows} rows for layer {layer}")
        made[layer] = Engram(
            ops,
            sizes.hidden,
            count,
            total * dim,
            sizes.eps,
            hashing,
            HostTable(given[place], dim, dtype),
            num_classes=num_classes,
            pad=pad,
            vocab_size=sizes.vocab,
        )
    return made


def _reader(engrams: list[Engram]) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        classes = fold_tokens(folder)
        for engram in engrams:
            engram.take_classes(classes)

    return read


ARCHITECTURE = Architecture(
    model_types=("deepseek_v41", "deepseek_v41_text"),
    build=build,
    drafts=True,
    rules=(
        Rename(r"\.engram\.embed\.", ".engram.memory.embed."),
        Rename(r"\.indexer\.wk\.", ".indexer.k_proj."),
        Rename(r"\.markov_head\.embed\.", ".markov_head.markov_w1."),
        Rename(r"\.markov_head\.head\.", ".markov_head.markov_w2."),
        *VENDOR_NAMES,
    ),
    checkpoints="DeepSeek-V4.1-Flash",
    formats="FP8, MXFP4",
    reference="mlx-lm 0.32.2, and mlx-vlm 0.7.10 for the n-gram memory",
    missing="images; the vendor's rounding of activations and keys to FP8 and FP4",
)
