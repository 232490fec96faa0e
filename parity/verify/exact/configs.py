"""The config.json of each exact checkpoint."""

from __future__ import annotations

from typing import Any

from .attention import INDEX_DIM, INDEX_TOP, LATENT, QUERY_RANK
from .delta import KEY_HEADS, SIZE, WIDTH
from .kinds import KINDS
from .mlps import SITU
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
    parts = KINDS[kind]
    found = _common(kind) | {"rope_theta": 1e30}
    if "grouped" in parts.mixers:
        found |= {"head_dim": HEAD_DIM}
        found |= {} if parts.biased else {"attention_bias": False}
    if "latent" in parts.mixers:
        found |= _latent() | _deepseek(kind)
    elif parts.routed:
        found |= _EXPERTS | {"num_experts": CLASSES, "decoder_sparse_step": 1, "mlp_only_layers": []}
        found |= {"norm_topk_prob": kind != "qwen2_moe"}
    if parts.shared_gate:
        found |= {"shared_expert_intermediate_size": TOKENS}
    if "gated_delta" in parts.mixers:
        found |= _HYBRID
        found |= {"model_type": f"{kind}_text"} if kind != "qwen3_next" else {}
        del found["rope_theta"]
    if parts.indexed:
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
