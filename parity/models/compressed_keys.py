"""The names and the config keys that DeepSeek-V4 and V4.1 share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import ConfigError
from ..core.weights import Ignore, Rename, Rule
from . import dspark_keys
from .config import Fields, divides
from .draft import shared, skipped
from .dspark_keys import Spark
from .layers.pooled import entry_rope
from .layers.rope import PARTIAL, Rope, make_rope, rotated_dims
from .standard import Sizes

# The vendor's names, which transformers keeps when it saves, to those of transformers' modules.
VENDOR_NAMES: tuple[Rule, ...] = (
    Ignore(r"vision\.|aligner\.|image_|.*\.gate\.bias_vl$", "images are not supported: text only"),
    shared(r"(model\.)?mtp\.\d+\.(emb|embed|head)\."),
    skipped(r"(model\.)?mtp\."),
    Rename(r"^(layers\.|norm\.|embed\.|hc_head_)", r"model.\1"),
    Rename(r"^model\.embed\.", "model.embed_tokens."),
    Rename(r"^head\.", "lm_head."),
    Rename(r"^(model|mtp\.\d+)\.hc_head_(fn|base|scale)$", r"\1.hc_head.hc_\2"),
    Rename(r"\.hc_(attn|ffn)_(fn|base|scale)$", r".\1_hc.\2"),
    Rename(r"\.attn_norm\.", ".input_layernorm."),
    Rename(r"\.ffn_norm\.", ".post_attention_layernorm."),
    Rename(r"\.attn\.", ".self_attn."),
    Rename(r"\.ffn\.", ".mlp."),
    Rename(r"\.attn_sink$", ".sinks"),
    Rename(r"\.compressor\.norm\.", ".compressor.kv_norm."),
    Rename(r"\.self_attn\.norm\.", ".self_attn.kv_norm.", back=False),  # as transformers writes it
    Rename(r"\.ape$", ".position_bias"),
    Rename(r"\.wq_a\.", ".q_a_proj."),
    Rename(r"\.wq_b\.", ".q_b_proj."),
    Rename(r"\.q_norm\.", ".q_a_norm."),
    Rename(r"\.(self_attn|compressor)\.wkv\.", r".\1.kv_proj."),
    Rename(r"\.wgate\.", ".gate_proj."),
    Rename(r"\.wo_a\.", ".o_a_proj."),
    Rename(r"\.wo_b\.", ".o_b_proj."),
    Rename(r"\.gate\.bias$", ".gate.e_score_correction_bias"),
    Rename(r"\.(experts\.\d+|shared_experts)\.w1\.", r".\1.gate_proj."),
    Rename(r"\.(experts\.\d+|shared_experts)\.w2\.", r".\1.down_proj."),
    Rename(r"\.(experts\.\d+|shared_experts)\.w3\.", r".\1.up_proj."),
)


def read_drafts(fields: Fields, sizes: Sizes, draft: bool, *, entering: bool) -> tuple[int, Spark | None]:
    """(the draft layers to build, none unless they are asked for; what they are if DSpark's, `entering` as it has it)."""
    fields.skip("num_nextn_predict_layers", *dspark_keys.KEYS)
    if not draft:
        return 0, None
    if fields.list("dspark_target_layer_ids", []):
        spark = dspark_keys.read_spark(fields, sizes, entering=entering)
        return spark.num_layers, spark
    return fields.int("num_nextn_predict_layers", 0), None


@dataclass(frozen=True)
class Streams:
    """The keys of the hyper-connections."""

    count: int
    eps: float
    iterations: int


def read_streams(fields: Fields) -> Streams:
    """Takes the keys of the hyper-connections."""
    return Streams(fields.size("hc_mult", 4), fields.float("hc_eps", 1e-6), fields.size("hc_sinkhorn_iters", 20))


def attention_settings(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    """What `SharedAttention` is given in every layer."""
    fields.expect("num_key_value_heads", 1)
    fields.expect("attention_bias", False)
    head_dim, groups = fields.size("head_dim", 512), fields.size("o_groups", 8)
    fraction = fields.float("partial_rotary_factor", None)
    rope_dim = fields.size("qk_rope_head_dim", 64 if fraction is None else int(head_dim * fraction))
    if rope_dim % 2 or rope_dim > head_dim or (fraction is not None and int(head_dim * fraction) != rope_dim):
        raise ConfigError(
            f"qk_rope_head_dim = {rope_dim} does not fit head_dim = {head_dim} and partial_rotary_factor = {fraction}"
        )
    divides(fields, "num_attention_heads", sizes.num_heads, "o_groups", groups)
    return {
        "hidden_size": sizes.hidden,
        "num_heads": sizes.num_heads,
        "head_dim": head_dim,
        "rope_dim": rope_dim,
        "q_rank": fields.size("q_lora_rank", 1024),
        "groups": groups,
        "group_rank": fields.size("o_lora_rank", 1024),
        "window": fields.size("sliding_window", 128),
        "eps": sizes.eps,
    }


def index_settings(fields: Fields, sizes: Sizes, attention: Mapping[str, Any], *, heads: int) -> dict[str, Any]:
    """What an indexer is given in every layer that has one; `heads` is the architecture's default."""
    dim = fields.size("index_head_dim", 128)
    if attention["rope_dim"] > dim:
        raise ConfigError(f"index_head_dim = {dim} must be at least the {attention['rope_dim']} rotated dimensions")
    return {
        "hidden_size": sizes.hidden,
        "q_rank": attention["q_rank"],
        "num_heads": fields.size("index_n_heads", heads),
        "dim": dim,
        "rope_dim": attention["rope_dim"],
        "top_k": fields.size("index_topk", 512),
    }


def read_ropes(fields: Fields, sizes: Sizes, attention: Mapping[str, Any], rates: Sequence[int]) -> dict[str, Rope]:
    """The rotations: `main` where a layer sees the window alone, `compress` elsewhere, and one for the entries of each rate.

    YaRN changes the frequencies of `compress`, and the magnitudes only where the config says so itself.
    """
    dims, head_dim = attention["rope_dim"], attention["head_dim"]
    theta = fields.float("rope_theta", 10000.0)
    compress_theta = fields.float("compress_rope_theta", 160000.0)
    given = fields.mapping("rope_parameters", None) or {}
    # Written flat, the scaling is that of `compress`, whose base has a key of its own.
    scaling = dict(fields.mapping("rope_scaling", None) or given) | {"rope_theta": compress_theta}
    main: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if "main" in given or "compress" in given:
        if set(given) - {"main", "compress", "rope_type", "rope_theta"}:
            raise ConfigError(f"rope_parameters has main and compress, and also {sorted(set(given) - {'main', 'compress'})}")
        main |= given.get("main") or {}
        scaling = {"rope_theta": compress_theta} | (given.get("compress") or {})
    compress = {"rope_type": scaling.pop("type", "default")} | scaling
    if compress["rope_type"] == "yarn" and compress.get("attention_factor") is None:
        compress["attention_factor"] = 1.0
    for settings in (main, compress):
        fraction = settings.pop(PARTIAL, None)
        if fraction is not None and rotated_dims({PARTIAL: fraction}, head_dim, 1.0) != dims:
            raise ConfigError(f"rope_parameters rotate {fraction} of head_dim = {head_dim}, and the config {dims} dimensions")
    ropes = {"main": make_rope(main, dims, sizes.max_position), "compress": make_rope(compress, dims, sizes.max_position)}
    return ropes | {entry_rope(rate): ropes["compress"].grouped(rate) for rate in rates}
