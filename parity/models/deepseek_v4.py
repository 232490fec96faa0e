"""DeepSeek-V4: hyper-connections, a window of tokens and entries pooled at two rates, the first experts chosen by token."""

from __future__ import annotations

from typing import Any

import torch

from ..core.errors import ConfigError
from ..core.weights import Ignore
from ..stacks.ops import Ops
from .architecture import Architecture
from .compressed import compressed_decoder, draft_pair
from .compressed_experts import compressed_experts
from .compressed_keys import VENDOR_NAMES, attention_settings, index_settings, read_drafts, read_ropes, read_streams
from .config import Fields, layer_types
from .decoder import Decoder
from .layers.pooled import Compressor, EntryIndexer
from .layers.shared_kv import SharedAttention
from .standard import Sizes, read_sizes

SLIDING, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
RATIOS = {0: SLIDING, 4: SPARSE, 128: HEAVY}
VISION_KEYS = tuple(
    f"vision_{key}"
    for key in (
        *("n_layers", "dim", "n_heads", "inter_dim", "patch_size", "rope_theta", "downsample_ratio"),
        *("max_n_token", "min_pixels", "max_wh_ratio"),
    )
)


def build(fields: Fields, ops: Ops, dtype: torch.dtype, *, draft: bool = False) -> Decoder:
    """A DeepSeek-V4 model."""
    sizes = read_sizes(fields)
    fields.skip(*VISION_KEYS)
    drafts, spark = read_drafts(fields, sizes, draft, entering=False)
    kinds, rates = _kinds(fields, sizes), _rates(fields)
    attention = attention_settings(fields, sizes)
    index = index_settings(fields, sizes, attention, heads=64)
    experts = compressed_experts(fields, ops, sizes)
    mixers = [_attention(ops, kind, rates, attention, index) for kind in kinds]
    hashed = _hashed(fields, sizes)
    layers = [(mixer, experts(hashed=by_table)) for mixer, by_table in zip(mixers, hashed, strict=True)]
    ropes = read_ropes(fields, sizes, attention, sorted(set(rates.values())))
    ahead = [draft_pair(ops, spark, attention, experts, head_norm=True) for _ in range(drafts)]
    streams = read_streams(fields)
    model = compressed_decoder(ops, dtype, sizes, streams, ropes, layers, lagged=False, drafts=ahead, spark=spark)
    if any(hashed):
        numbers = "|".join(str(layer) for layer, by_table in enumerate(hashed) if by_table)
        # There for images alone (V4-Flash-Vision-Exp): what stands in a table is not chosen by scores.
        why = "experts that stand in a table need no bias"
        model.rules = (Ignore(rf"(model\.)?layers\.({numbers})\.ffn\.gate\.bias$", why),)
    return model


def _attention(ops: Ops, kind: str, rates: dict[str, int], attention: dict[str, Any], index: dict[str, Any]) -> SharedAttention:
    if kind == SLIDING:
        return SharedAttention(ops, rope="main", head_norm=True, **attention)
    every, sparse = rates[kind], kind == SPARSE
    pooling = {"hidden_size": attention["hidden_size"], "every": every, "rope_dim": attention["rope_dim"]}
    pooling |= {"eps": attention["eps"], "overlap": sparse}
    compressor = Compressor(ops, dim=attention["head_dim"], **pooling)
    indexer = None
    if sparse:
        keys = Compressor(ops, dim=index["dim"], name="index", **pooling)
        indexer = EntryIndexer(ops, every=every, compressor=keys, **index)
    return SharedAttention(
        ops,
        rope="compress",
        head_norm=True,
        every=every,
        compressor=compressor,
        indexer=indexer,
        selects=sparse,
        **attention,
    )


def _kinds(fields: Fields, sizes: Sizes) -> list[str]:
    """Each layer's kind of attention; the vendor's list of ratios goes on with those of the draft layers."""
    ratios = fields.list("compress_ratios", None)
    if ratios is None and not fields.has("layer_types"):
        raise ConfigError("config.json of 'deepseek_v4' lacks 'compress_ratios' or 'layer_types'")
    if ratios is not None and (len(ratios) < sizes.num_layers or not set(ratios) <= set(RATIOS)):
        raise ConfigError(f"compress_ratios must hold 0, 4 or 128 for each of {sizes.num_layers} layers, not {ratios!r}")
    default = [RATIOS[ratio] for ratio in (ratios or [])[: sizes.num_layers]]
    return layer_types(fields, sizes.num_layers, tuple(RATIOS.values()), default)


def _rates(fields: Fields) -> dict[str, int]:
    """Tokens in an entry, by kind of layer."""
    given = fields.mapping("compress_rates", None) or {}
    rates = {SPARSE: fields.size("compress_rate_csa", 4), HEAVY: fields.size("compress_rate_hca", 128)} | given
    if set(rates) != {SPARSE, HEAVY} or any(type(rate) is not int or rate < 2 for rate in rates.values()):
        raise ConfigError(f"compress_rates must give whole numbers above 1 for {SPARSE} and {HEAVY}, not {given!r}")
    return rates


def _hashed(fields: Fields, sizes: Sizes) -> list[bool]:
    """The layers whose experts stand in a table."""
    count = fields.int("num_hash_layers", 3)
    kinds = fields.list("mlp_layer_types", None)
    if kinds is None:
        return [layer < count for layer in range(sizes.num_layers)]
    if len(kinds) != sizes.num_layers or not set(kinds) <= {"hash_moe", "moe"}:
        raise ConfigError(f"mlp_layer_types must name hash_moe or moe for each of {sizes.num_layers} layers, not {kinds!r}")
    return [kind == "hash_moe" for kind in kinds]


ARCHITECTURE = Architecture(
    model_types=("deepseek_v4",),
    build=build,
    drafts=True,
    rules=VENDOR_NAMES,
    checkpoints="DeepSeek-V4-Flash, V4-Pro and their Base, DSpark, 0731, 0813 and Vision-Exp releases",
    formats="FP8, MXFP4, GGUF",
    reference="transformers 5.23",
    missing="images; the vendor's rounding of keys to FP8 and FP4",
)
