"""How llama.cpp's converters lay a checkpoint out in a GGUF file: names, and what is changed on the way.

Written from their description, tensor by tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
COMMON = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "embed": "token_embd", "head": "output"}
BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"},
    **{f"self_attn.{part}_norm": f"attn_{part}_norm" for part in "qk"},
    "self_attn.o_proj": "attn_output",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.k_b_proj": "attn_k_b",
    "self_attn.v_b_proj": "attn_v_b",
    "mlp.gate": "ffn_gate_inp",
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
    **{f"mlp.experts.{part}_proj": f"ffn_{part}_exps" for part in ("gate", "up", "down")},
    **{f"mlp.shared_experts.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")},
    **{f"mlp.shared_expert.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")},
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
NEXT = {
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
KIMI = {
    **{f"self_attn.{part}_conv1d": f"ssm_conv1d_{part}" for part in "qkv"},
    **{f"self_attn.{part}_proj": f"ssm_{part}" for part in ("f_a", "f_b", "g_a", "g_b")},
    "self_attn.b_proj": "ssm_beta",
    "self_attn.o_norm": "ssm_norm",
}
INDEXER = {"wq_b": "attn_q_b", "wk": "attn_k", "k_norm": "k_norm", "weights_proj": "proj"}
V4 = {
    "attn_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "attn.wq_a": "attn_q_a",
    "attn.q_norm": "attn_q_a_norm",
    "attn.wq_b": "attn_q_b",
    "attn.wkv": "attn_kv",
    "attn.kv_norm": "attn_kv_a_norm",
    "attn.norm": "attn_kv_a_norm",  # as transformers saves it
    "attn.wo_a": "attn_output_a",
    "attn.wo_b": "attn_output_b",
    **{
        f"attn.{inner}compressor.{ours}": f"{theirs}_compressor_{name}"
        for inner, theirs in (("", "attn"), ("indexer.", "indexer"))
        for ours, name in (("wkv", "kv"), ("wgate", "gate"), ("norm", "norm"))
    },
    "attn.indexer.wq_b": "indexer.attn_q_b",
    "attn.indexer.weights_proj": "indexer.proj",
    "ffn.gate": "ffn_gate_inp",
    **{f"ffn.experts.{ours}": f"ffn_{name}_exps" for ours, name in (("w1", "gate"), ("w2", "down"), ("w3", "up"))},
    **{f"ffn.shared_experts.{ours}": f"ffn_{name}_shexp" for ours, name in (("w1", "gate"), ("w2", "down"), ("w3", "up"))},
}
WHOLE = {
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "ffn.gate.bias": "exp_probs_b.bias",
    "ffn.gate.tid2eid": "ffn_gate_tid2eid.weight",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "self_attn.A_log": "ssm_a",
    "self_attn.dt_bias": "ssm_dt.bias",
    "attn.attn_sink": "attn_sinks.weight",
    "attn.compressor.ape": "attn_compressor_ape.weight",
    "attn.indexer.compressor.ape": "indexer_compressor_ape.weight",
    **{f"hc_{site}_{part}": f"hc_{site}_{part}.weight" for site in ("attn", "ffn") for part in ("fn", "base", "scale")},
}


def stacked(tensors: Tensors) -> Tensors:
    """Experts of one layer as one tensor."""
    groups: dict[str, dict[int, Tensor]] = {}
    rest: Tensors = {}
    for name, value in tensors.items():
        found = re.match(r"(.*\.experts)\.(\d+)\.(.*)", name)
        if found:
            groups.setdefault(f"{found[1]}.{found[3]}", {})[int(found[2])] = value
        else:
            rest[name] = value
    return rest | {name: torch.stack([parts[index] for index in sorted(parts)]) for name, parts in groups.items()}


def split_latent(tensors: Tensors) -> Tensors:
    """The latent's matrix in a part for keys, transposed, and one for values."""
    out: Tensors = {}
    for name, value in tensors.items():
        if name.endswith("kv_b_proj.weight"):
            keys, values = value.view(4, 40, 32).split([16, 24], 1)
            out |= {name.replace("kv_b", "k_b"): keys.transpose(1, 2), name.replace("kv_b", "v_b"): values}
        else:
            out[name] = value
    return out


def kimi_changes(tensors: Tensors) -> Tensors:
    """Kimi Linear: decay rates for logarithms, convolutions with more ones in their shape."""
    out: Tensors = {}
    for name, value in split_latent(tensors).items():
        name = name.replace("block_sparse_moe", "mlp")
        for ours, theirs in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
            name = re.sub(rf"\.experts\.{ours}\.", f".experts.{theirs}.", name)
        if name.endswith("A_log"):
            out[name] = -value.exp()
        elif name.endswith("conv1d.weight"):
            out[name] = value.reshape(1, len(value), 1, -1)
        else:
            out[name] = value
    return out


def gguf_name(name: str, places: Mapping[str, str]) -> str:
    name = re.sub(r"^model\.", "", name)
    module, _, kind = name.rpartition(".")
    if not name.startswith("layers."):
        return f"{COMMON[module]}.{kind}" if module in COMMON else re.sub(r".*hc_(\w+)$", r"output_hc_\1.weight", name)
    _, layer, inner = name.split(".", 2)
    if inner in WHOLE:
        return f"blk.{layer}.{WHOLE[inner]}"
    return f"blk.{layer}.{places[inner.rpartition('.')[0]]}.{kind}"


EXPERT_NUMBERS = {"expert_used_count": 3, "expert_feed_forward_length": 32}
LATENT_NUMBERS = {
    "attention.head_count": 4,
    "attention.kv_lora_rank": 32,
    "attention.key_length": 40,
    "attention.value_length": 32,
    "attention.key_length_mla": 24,
    "attention.value_length_mla": 24,
    "rope.dimension_count": 8,
    "expert_count": 8,
    "expert_shared_count": 2,
    "expert_gating_func": 2,
    "expert_weights_norm": True,
}
