"""GGUF's names for the architectures that Parity reads, as data: metadata keys and tensor names, both ways.

Sources: the tables of the `gguf` package, and ggml-org/llama.cpp's converters for what they change in the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Change = Literal[
    "", "rope_q", "rope_k", "row", "one_added", "decay", "tiled", "tiled_scalars", "tiled_tail", "tiled_convolution",
    "tiled_columns",
]  # fmt: skip
"""What GGUF changes in a tensor.

rope_q, rope_k: the rows of each head's two halves are interleaved. row: a leading 1 is dropped. one_added: a zero-centred norm
is stored plain. decay: A_log is stored as -exp(A_log). tiled: the value heads of one key head do not stand together but are
dealt out in turn; so are the rows of one number a head (scalars), of the last part of a matrix (tail), or of a convolution
without its middle dimension; or the columns.
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
        draft: what the names of draft layers, which GGUF counts on, begin with on the other side.
    """

    model_type: str
    numbers: Mapping[str, str]
    layer: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)
    draft: str | None = None


TOP: Mapping[str, str] = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ROPE_FACTORS = "rope_freqs.weight"

_NUMBERS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
_HEAD = {"head_dim": "attention.key_length"}
_EXPERTS = {
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}

_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_DENSE = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_ROUTED = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
_SHARED_QWEN = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_SHARED_DEEPSEEK = {
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
_LATENT = {
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
_LATENT_NUMBERS = {
    "q_lora_rank": "attention.q_lora_rank",
    "kv_lora_rank": "attention.kv_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "v_head_dim": "attention.value_length_mla",
    "qk_head_dim": "attention.key_length_mla",
}
_DEEPSEEK_EXPERTS = {
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
_DELTA_NUMBERS = {
    "full_attention_interval": "full_attention_interval",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "linear_key_head_dim": "ssm.state_size",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "linear_value_head_dim": "ssm.inner_size",
    "partial_rotary_factor": "rope.dimension_count",
}
_DELTA = {
    **_HEAD_NORMS,
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
_DELTA_WHOLE = {"ssm_a": "linear_attn.A_log", "ssm_dt.bias": "linear_attn.dt_bias"}
_DELTA_CHANGES: Mapping[str, Change] = {
    "model.norm": "one_added",
    "input_layernorm": "one_added",
    "post_attention_layernorm": "one_added",
    "self_attn.q_norm": "one_added",
    "self_attn.k_norm": "one_added",
    "linear_attn.in_proj_qkv": "tiled_tail",
    "linear_attn.in_proj_z": "tiled",
    "linear_attn.in_proj_b": "tiled_scalars",
    "linear_attn.in_proj_a": "tiled_scalars",
    "linear_attn.conv1d": "tiled_convolution",
    "linear_attn.A_log": "decay",
    "linear_attn.dt_bias": "tiled_scalars",
    "linear_attn.out_proj": "tiled_columns",
}
_WITHOUT_FFN_NORM = {name: place for name, place in _ATTENTION.items() if name != "ffn_norm"}

LAYOUTS: Mapping[str, Layout] = {
    "llama": Layout(
        "llama",
        {**_NUMBERS, "head_dim": "rope.dimension_count"},
        {**_ATTENTION, **_DENSE},
        changes={"self_attn.q_proj": "rope_q", "self_attn.k_proj": "rope_k"},
    ),
    "qwen2": Layout("qwen2", _NUMBERS, {**_ATTENTION, **_DENSE}),
    "qwen3": Layout("qwen3", {**_NUMBERS, **_HEAD}, {**_ATTENTION, **_HEAD_NORMS, **_DENSE}),
    "qwen2moe": Layout(
        "qwen2_moe",
        {**_NUMBERS, **_EXPERTS, "shared_expert_intermediate_size": "expert_shared_feed_forward_length"},
        {**_ATTENTION, **_DENSE, **_ROUTED, **_SHARED_QWEN},
        constants={"norm_topk_prob": False},
        changes={"mlp.shared_expert_gate": "row"},
    ),
    "qwen3moe": Layout(
        "qwen3_moe",
        {**_NUMBERS, **_HEAD, **_EXPERTS},
        {**_ATTENTION, **_HEAD_NORMS, **_DENSE, **_ROUTED},
        constants={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    "qwen35": Layout(
        "qwen3_5_text",
        {**_NUMBERS, **_HEAD, **_DELTA_NUMBERS},
        {**_WITHOUT_FFN_NORM, **_DELTA, **_DENSE},
        whole=_DELTA_WHOLE,
        changes=_DELTA_CHANGES,
        draft="mtp.",
    ),
    "qwen35moe": Layout(
        "qwen3_5_moe_text",
        {
            **_NUMBERS,
            **_HEAD,
            **_DELTA_NUMBERS,
            **_EXPERTS,
            "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
        },
        {**_WITHOUT_FFN_NORM, **_DELTA, **_ROUTED, **_SHARED_QWEN},
        whole=_DELTA_WHOLE,
        changes={**_DELTA_CHANGES, "mlp.shared_expert_gate": "row"},
        draft="mtp.",
    ),
    "deepseek2": Layout(
        "deepseek_v3",
        {**_NUMBERS, **_LATENT_NUMBERS, **_DEEPSEEK_EXPERTS},
        {**_LATENT, **_DENSE, **_ROUTED, **_SHARED_DEEPSEEK},
        whole={"exp_probs_b.bias": "mlp.gate.e_score_correction_bias"},
    ),
}
"""Every architecture that Parity reads from GGUF, by `general.architecture`."""
