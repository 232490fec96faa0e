"""GGUF's names of what several architectures share, as data: metadata keys and tensor names, both ways.

Sources: the tables of the `gguf` package, and ggml-org/llama.cpp's converters for what they change in the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Change = Literal[
    "", "rope_q", "rope_k", "row", "one_added", "decay", "tiled", "tiled_scalars", "tiled_tail", "tiled_convolution",
    "tiled_columns", "convolution", "long_convolution", "decay_apart", "long_decay", "ones", "table",
    "left", "right",
]  # fmt: skip
"""What GGUF changes in a tensor.

rope_q, rope_k: the rows of each head's two halves are interleaved. row: a leading 1 is dropped. one_added: a zero-centred norm
is stored plain. decay: A_log is stored as -exp(A_log). tiled: the value heads of one key head do not stand together but are
dealt out in turn; so are the rows of one number a head (scalars), of the last part of a matrix (tail), or of a convolution
without its middle dimension; or the columns. convolution: without its middle dimension, else as it was; long_convolution:
with a leading 1. decay_apart: as decay, in Hugging Face's order; long_decay: so, in the shape [1, 1, heads, 1]. ones: a norm's
weight went into the projection behind it. table: whole numbers. left, right: half of the columns.
"""


@dataclass(frozen=True)
class Layout:
    """One GGUF architecture.

    Args:
        model_type: Hugging Face's name of it.
        numbers: config key to metadata key (after the architecture's own prefix); absent ones are left out.
        constants: config keys that GGUF does not carry.
        layer: GGUF's name of a module in `blk.N.` to Hugging Face's in `model.layers.N.`.
        whole: names that do not end in `.weight` or `.bias` on both sides.
        changes: values that GGUF stores otherwise, by Hugging Face's name of the module or tensor.
        draft: what the names of draft layers, which GGUF counts on, begin with on the other side; None where they go on there,
            too.
        drafts: the names of what stands beside a draft layer's own modules.
        top: names outside the layers that only this architecture has, with their endings.
        kind: what is special in its metadata.
    """

    model_type: str
    numbers: Mapping[str, str]
    layer: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)
    draft: str | None = None
    drafts: Mapping[str, str] = field(default_factory=dict)
    top: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["", "latent", "hybrid", "kimi", "compressed", "qwen4"] = ""


TOP: Mapping[str, str] = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ROPE_FACTORS = "rope_freqs.weight"
SCALING: Mapping[str, str] = {
    "factor": "factor",
    "original_max_position_embeddings": "original_context_length",
    "attn_factor": "attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}
"""The keys of a rope scaling to those of `rope.scaling`."""

NUMBERS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
HEAD = {"head_dim": "attention.key_length"}
EXPERTS = {
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}

INDEX_NUMBERS = {
    "index_n_heads": "attention.indexer.head_count",
    "index_head_dim": "attention.indexer.key_length",
    "index_topk": "attention.indexer.top_k",
}
KIMI_EXPERTS = {
    "num_experts": "expert_count",
    "num_experts_per_token": "expert_used_count",
    "num_shared_experts": "expert_shared_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "first_k_dense_replace": "leading_dense_block_count",
    "routed_scaling_factor": "expert_weights_scale",
    "moe_renormalize": "expert_weights_norm",
}
KIMI_CONSTANTS = {"mla_use_nope": True, "moe_router_activation_func": "sigmoid", "num_expert_group": 1, "topk_group": 1}
K3_NUMBERS = {
    "routed_expert_hidden_size": "expert_latent_length",
    "attn_res_block_size": "attn_res.block_size",
    "activation_situ_beta": "activation.situ_beta",
    "activation_situ_linear_beta": "activation.situ_linear_beta",
}
DENSE_KEYS = ("first_k_dense_replace", "n_group", "topk_group")
COMPRESSED = {
    "qk_rope_head_dim": "rope.dimension_count",
    "q_lora_rank": "attention.q_lora_rank",
    "o_lora_rank": "attention.output_lora_rank",
    "o_groups": "attention.output_group_count",
    "sliding_window": "attention.sliding_window",
    "compress_rope_theta": "attention.compress_rope_freq_base",
    "hc_mult": "hyper_connection.count",
    "hc_sinkhorn_iters": "hyper_connection.sinkhorn_iterations",
    "hc_eps": "hyper_connection.epsilon",
    "num_hash_layers": "hash_layer_count",
    "swiglu_limit": "swiglu_clamp_exp",
}

ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
DENSE = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
ROUTED = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
SHARED_QWEN = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
SHARED_DEEPSEEK = {
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
LATENT = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b": "self_attn.k_b",
    "attn_v_b": "self_attn.v_b",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
}
LATENT_NUMBERS = {
    "q_lora_rank": "attention.q_lora_rank",
    "kv_lora_rank": "attention.kv_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "v_head_dim": "attention.value_length_mla",
    "qk_head_dim": "attention.key_length_mla",
}
DEEPSEEK_EXPERTS = {
    "n_routed_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "n_shared_experts": "expert_shared_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "first_k_dense_replace": "leading_dense_block_count",
    "routed_scaling_factor": "expert_weights_scale",
    "norm_topk_prob": "expert_weights_norm",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
}
DELTA_NUMBERS = {
    "full_attention_interval": "full_attention_interval",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "linear_key_head_dim": "ssm.state_size",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "linear_value_head_dim": "ssm.inner_size",
    "partial_rotary_factor": "rope.dimension_count",
}
DELTA = {
    **HEAD_NORMS,
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
DELTA_WHOLE = {"ssm_a": "linear_attn.A_log", "ssm_dt.bias": "linear_attn.dt_bias"}
DELTA_CHANGES: Mapping[str, Change] = {
    "model.norm": "one_added",
    "input_layernorm": "one_added",
    "post_attention_layernorm": "one_added",
    "self_attn.q_norm": "one_added",
    "self_attn.k_norm": "one_added",
    "mtp.norm": "one_added",
    "mtp.pre_fc_norm_embedding": "one_added",
    "mtp.pre_fc_norm_hidden": "one_added",
    "linear_attn.in_proj_qkv": "tiled_tail",
    "linear_attn.in_proj_z": "tiled",
    "linear_attn.in_proj_b": "tiled_scalars",
    "linear_attn.in_proj_a": "tiled_scalars",
    "linear_attn.conv1d": "tiled_convolution",
    "linear_attn.A_log": "decay",
    "linear_attn.dt_bias": "tiled_scalars",
    "linear_attn.out_proj": "tiled_columns",
}
WITHOUT_FFN_NORM = {name: place for name, place in ATTENTION.items() if name != "ffn_norm"}
FUSED_EXPERTS = "ffn_gate_up_exps.weight"
CORRECTION = {"exp_probs_b.bias": "mlp.gate.e_score_correction_bias"}
QWEN_DRAFTS = {
    "nextn.eh_proj": "mtp.fc",
    "nextn.enorm": "mtp.pre_fc_norm_embedding",
    "nextn.hnorm": "mtp.pre_fc_norm_hidden",
    "nextn.shared_head_norm": "mtp.norm",
}
DEEPSEEK_DRAFTS = {
    "nextn.eh_proj": "eh_proj",
    "nextn.enorm": "enorm",
    "nextn.hnorm": "hnorm",
    "nextn.shared_head_norm": "shared_head.norm",
    "nextn.shared_head_head": "shared_head.head",
    "nextn.embed_tokens": "embed_tokens",
}
SHARED_KEY = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_norm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv": "self_attn.kv_proj",
    "attn_kv_a_norm": "self_attn.kv_norm",
    "attn_output_a": "self_attn.o_a_proj",
    "attn_output_b": "self_attn.o_b_proj",
    "attn_compressor_kv": "self_attn.compressor.kv_proj",
    "attn_compressor_gate": "self_attn.compressor.gate_proj",
    "attn_compressor_norm": "self_attn.compressor.kv_norm",
    "indexer.attn_q_b": "self_attn.indexer.q_b_proj",
    "indexer.proj": "self_attn.indexer.weights_proj",
    "indexer_compressor_kv": "self_attn.indexer.compressor.kv_proj",
    "indexer_compressor_gate": "self_attn.indexer.compressor.gate_proj",
    "indexer_compressor_norm": "self_attn.indexer.compressor.kv_norm",
}
HYPER = {
    "attn_sinks.weight": "self_attn.sinks",
    "attn_compressor_ape.weight": "self_attn.compressor.position_bias",
    "indexer_compressor_ape.weight": "self_attn.indexer.compressor.position_bias",
    "ffn_gate_tid2eid.weight": "mlp.gate.tid2eid",
    **{f"hc_{site}_{part}.weight": f"{site}_hc.{part}" for site in ("attn", "ffn") for part in ("fn", "base", "scale")},
}
KIMI_DELTA = {
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    **{f"ssm_conv1d_{part}": f"self_attn.{part}_conv1d" for part in "qkv"},
    "ssm_f_a": "self_attn.f_a_proj",
    "ssm_f_b": "self_attn.f_b_proj",
    "ssm_g_a": "self_attn.g_a_proj",
    "ssm_g_b": "self_attn.g_b_proj",
    "ssm_beta": "self_attn.b_proj",
    "ssm_norm": "self_attn.o_norm",
}
KIMI_WHOLE = {"ssm_a": "self_attn.A_log", "ssm_dt.bias": "self_attn.dt_bias"}
KIMI_CHANGES: Mapping[str, Change] = {f"self_attn.{part}_conv1d": "long_convolution" for part in "qkv"}
K3_PARTS = {
    "ssm_g": "self_attn.g_proj",
    "attn_gate": "self_attn.g_proj",
    "attn_res_score": "self_attention_res_proj",
    "ffn_res_score": "mlp_res_proj",
    "ffn_routed_down": "mlp.routed_expert_down_proj",
    "ffn_routed_up": "mlp.routed_expert_up_proj",
    "ffn_routed_norm": "mlp.routed_expert_norm",
    "ffn_latent_down": "mlp.routed_expert_down_proj",
    "ffn_latent_up": "mlp.routed_expert_up_proj",
}
QWEN4_NUMBERS = {
    "hc_count": "hyper_connection.count",
    "hc_lowrank": "hyper_connection.low_rank",
    "indexer_n_heads": "attention.indexer.head_count",
    "indexer_head_dim": "attention.indexer.key_length",
    "indexer_budget": "attention.indexer.top_k",
    "ngram_size": "ple.ngram_size",
    "heads_per_ngram": "ple.heads_per_ngram",
    "ple_conv_kernel_size": "ple.conv_kernel",
}
_MIXES = {"norm": "hc_norm", "down": "input_mix_weight_down", "up": "input_mix_weight_up", "inject": "block_inject_weight"}
GATED_STREAMS = {
    f"hc_{theirs}_{part}": f"{ours}_hyper_connection.{name}"
    for theirs, ours in (("attn", "attn"), ("ffn", "mlp"))
    for part, name in _MIXES.items()
}
QWEN4_PARTS = {
    "indexer.q_proj": "self_attn.indexer.index_q",
    "indexer.k_proj": "self_attn.indexer.index_k",
    "indexer.q_norm": "self_attn.indexer.q_layernorm",
    "indexer.k_norm": "self_attn.indexer.k_layernorm",
    "ple_key": "ple.key_proj",
    "ple_value": "ple.value_proj",
    "ple_conv1d": "ple.conv1d",
    **{f"ple_norm_{part}": f"ple.norm_{part}" for part in ("key", "query", "conv")},
}
_LAST = ("norm", "down", "up")
QWEN4_TOP = {f"output_hc_{part}.weight": f"model.hyper_connection_mixer.{_MIXES[part]}.weight" for part in _LAST}
QWEN4_DRAFTS = {
    "nextn.eh_proj": "mtp.eh_proj",
    "nextn.enorm": "mtp.pre_fc_norm_embedding",
    "nextn.hnorm": "mtp.pre_fc_norm_hidden",
    **{f"nextn.hc_head_{part}": f"mtp.hyper_connection_mixer.{_MIXES[part]}" for part in _LAST},
}
QWEN4_CHANGES: Mapping[str, Change] = {
    "model.hyper_connection_mixer.hc_norm": "one_added",
    "attn_hyper_connection.hc_norm": "one_added",
    "mlp_hyper_connection.hc_norm": "one_added",
    "self_attn.indexer.q_layernorm": "one_added",
    "self_attn.indexer.k_layernorm": "one_added",
    "ple.conv1d": "convolution",
    **{f"ple.norm_{part}": "one_added" for part in ("key", "query", "conv")},
    "mtp.hyper_connection_mixer.hc_norm": "one_added",
    "mtp.fc_embedding": "left",
    "mtp.fc_hidden": "right",
}
NGRAM_TABLE = "per_layer_token_embd.weight"


def without(values: Mapping[str, str], *keys: str) -> dict[str, str]:
    """The mapping less some keys."""
    return {key: value for key, value in values.items() if key not in keys}
