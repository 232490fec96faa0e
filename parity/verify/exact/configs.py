"""The config.json of each exact checkpoint."""

from __future__ import annotations

from typing import Any

from . import shared_key, streams
from .attention import GROUP, INDEX_DIM, INDEX_TOP, LATENT, QUERY_RANK
from .delta import KEY_HEADS, SIZE, WIDTH
from .kinds import KINDS
from .mlps import SITU, chosen
from .pieces import CLASSES, HEAD_DIM, HEADS, HIDDEN, LAYERS, SHUT, TOKENS

_ROPE = {"rope_type": "default", "rope_theta": 1e30}


def config(kind: str) -> dict[str, Any]:
    """The checkpoint's config."""
    if kind == "kimi_k25":
        return {"model_type": kind, "text_config": config("deepseek_v3")}
    if kind == "kimi_k3":
        return {"model_type": kind, "text_config": {**_kimi("kimi_linear"), **_K3}}
    if kind == "kimi_linear":
        return _kimi(kind) | {
            "num_local_experts": CLASSES,
            "num_experts_per_tok": 1,
            "linear_head_dim": SIZE,
            "linear_num_heads": HEADS,
            "linear_conv_kernel_dim": WIDTH,
            "layer_types": ["linear_attention", "full_attention"],
            "mlp_layer_types": ["sparse"] * LAYERS,
            "pad_token_id": 0,
        }
    if kind.startswith("deepseek_v4"):
        return _compressed(kind)
    parts = KINDS[kind]
    found = _common(kind) | {"rope_theta": 1e30}
    if "grouped" in parts.mixers:
        found |= {"head_dim": HEAD_DIM}
        found |= {} if parts.biased else {"attention_bias": False}
    if "latent" in parts.mixers:
        found |= _latent() | _deepseek(kind)
    elif parts.routed:
        found |= _EXPERTS | {"num_experts": CLASSES, "norm_topk_prob": kind != "qwen2_moe"}
        found |= {} if parts.streams else {"decoder_sparse_step": 1, "mlp_only_layers": []}
    if parts.shared_gate:
        found |= {"shared_expert_intermediate_size": TOKENS}
    if "gated_delta" in parts.mixers:
        found |= _HYBRID
        found |= {"model_type": f"{kind}_text"} if kind != "qwen3_next" else {}
        del found["rope_theta"]
    if kind == "qwen4_exp":
        found |= _QWEN4
    elif parts.indexed:
        found |= {"q_lora_rank": QUERY_RANK, "index_n_heads": 1, "index_head_dim": INDEX_DIM, "index_topk": INDEX_TOP}
    return found


_EXPERTS = {"moe_intermediate_size": TOKENS, "num_experts_per_tok": 1}
_HYBRID = {
    "rope_parameters": _ROPE | {"partial_rotary_factor": 1.0},
    "partial_rotary_factor": 1.0,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": KEY_HEADS,
    "linear_num_value_heads": HEADS,
    "linear_key_head_dim": SIZE,
    "linear_value_head_dim": SIZE,
    "linear_conv_kernel_dim": WIDTH,
}


_QWEN4 = {
    "layer_types": ["linear_attention", "indexed_attention"],
    "hc_count": streams.COUNT,
    "hc_lowrank": streams.RANK,
    "ple_layer_ids": [],
    "indexer_n_heads": 1,
    "indexer_kv_heads": 1,
    "indexer_head_dim": INDEX_DIM,
    "indexer_budget": GROUP,
    "indexer_compress_ratio": GROUP,
    "output_gate_type": "silu",
    "eos_token_id": 0,
}


def _compressed(kind: str) -> dict[str, Any]:
    """DeepSeek-V4 and V4.1."""
    found = (
        _common(kind)
        | _EXPERTS
        | {
            "num_experts_per_tok": chosen(KINDS[kind]),
            "head_dim": shared_key.DIM,
            "q_lora_rank": shared_key.QUERY_RANK,
            "qk_rope_head_dim": shared_key.ROPE_DIM,
            "o_groups": shared_key.GROUPS,
            "o_lora_rank": HEADS // shared_key.GROUPS * HEAD_DIM,
            "sliding_window": shared_key.WINDOW,
            "index_n_heads": 1,
            "index_head_dim": shared_key.DIM,
            "index_topk": 1,
            "hc_mult": streams.COUNT,
            "hc_sinkhorn_iters": 3,
            "hc_eps": 0.0,
            "n_routed_experts": CLASSES,
            "n_shared_experts": 1,
            "scoring_func": "sqrtsoftplus",
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "swiglu_limit": 2 * SHUT,
            "rope_theta": 10000.0,
        }
    )
    every = shared_key.EVERY[kind]
    if kind == "deepseek_v41":
        sources = {"compress_ratios": [every] * LAYERS, "kv_source_layer_ids": [0], "index_source_layer_ids": [0, 1]}
        return found | sources | {"model_type": "deepseek_v41_text"}
    kinds = ["compressed_sparse_attention", "heavily_compressed_attention"]
    return found | {
        "partial_rotary_factor": shared_key.ROPE_DIM / shared_key.DIM,
        "layer_types": kinds,
        "compress_rates": dict.fromkeys(kinds, every),
        "mlp_layer_types": ["hash_moe", "moe"],
    }


def _common(kind: str) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": TOKENS,
        "hidden_size": HIDDEN,
        "intermediate_size": TOKENS,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-30,
        "tie_word_embeddings": False,
    }


def _latent() -> dict[str, Any]:
    return {
        "num_key_value_heads": HEADS,
        "q_lora_rank": None,
        "kv_lora_rank": LATENT,
        "qk_nope_head_dim": 2,
        "qk_rope_head_dim": 2,
        "v_head_dim": HEAD_DIM,
    }


def _deepseek(kind: str) -> dict[str, Any]:
    sigmoid = kind != "deepseek_v2"
    return _EXPERTS | {
        "n_routed_experts": CLASSES,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "noaux_tc" if sigmoid else "greedy",
        "scoring_func": "sigmoid" if sigmoid else "softmax",
        "norm_topk_prob": sigmoid,
        "routed_scaling_factor": 1.0,
        "first_k_dense_replace": 0,
        "moe_layer_freq": 1,
        "attention_bias": False,
    }


def _kimi(kind: str) -> dict[str, Any]:
    return _common(kind) | _latent() | {"moe_intermediate_size": TOKENS, "num_shared_experts": 1, "routed_scaling_factor": 1.0}


_K3: dict[str, Any] = {
    "hidden_act": "situ",
    "activation_situ_beta": SITU,
    "activation_situ_linear_beta": SITU,
    "attn_res_block_size": LAYERS,
    "mla_use_nope": True,
    "mla_use_output_gate": True,
    "num_experts": CLASSES,
    "num_experts_per_token": 1,
    "moe_router_activation_func": "sigmoid",
    "moe_renormalize": True,
    "moe_layer_freq": 1,
    "routed_expert_hidden_size": HIDDEN,
    "first_k_dense_replace": 0,
    "use_grouped_topk": True,
    "num_expert_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "num_nextn_predict_layers": 0,
    "linear_attn_config": {
        "num_heads": HEADS,
        "head_dim": SIZE,
        "short_conv_kernel_size": WIDTH,
        "kda_layers": [1],
        "full_attn_layers": [2],
        "gate_lower_bound": -SHUT,
        "use_full_rank_gate": True,
    },
}
