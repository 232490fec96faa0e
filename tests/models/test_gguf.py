"""GGUF files of the newer architectures, laid out as llama.cpp's converters do, compute what transformers computes.

What the converters change is written here from their description, tensor by tensor. Names are checked against the tables of
the `gguf` package where it knows the architecture. Each of these files was also run by llama.cpp once. Qwen3.8-Flash-Next's
differs there by llama.cpp's choice: it takes the best `budget + ratio - 1` tokens, so up to `ratio - 1` of one more block,
where transformers takes whole blocks. With that choice put into transformers, the two agree within 8e-4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from torch import Tensor

from parity.core.weights import Packed
from parity.formats import expand
from parity.hub import open_checkpoint, write_gguf

from . import checks, test_deepseek_v4, test_kimi_k3, test_qwen4_exp, tiny
from .test_experts import CASES, HYBRID, LATENT, MOE

Tensors = dict[str, Tensor]
ROTATION = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
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


def next_changes(tensors: Tensors) -> Tensors:
    """Qwen3-Next: zero-centred norms plus one, decay rates for logarithms, the packed projection taken apart."""
    out: Tensors = {}
    for name, value in tensors.items():
        if name.endswith("A_log"):
            out[name] = -value.exp()
        elif name.endswith("conv1d.weight"):
            out[name] = value.squeeze(1)
        elif name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
            out[name] = value + 1
        elif name.endswith("shared_expert_gate.weight"):
            out[name] = value.reshape(-1)
        elif name.endswith("in_proj_qkvz.weight"):
            q, k, v, z = value.view(2, -1, 64).split([16, 16, 32, 32], 1)
            out[name.replace("qkvz", "qkv")] = torch.cat([q.reshape(-1, 64), k.reshape(-1, 64), v.reshape(-1, 64)])
            out[name.replace("qkvz", "z")] = z.reshape(-1, 64)
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


def plain(tensors: Tensors) -> Tensors:
    """DeepSeek-V4: as released."""
    return {name: value.int() if name.endswith("tid2eid") else value for name, value in tensors.items()}


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
NUMBERS: dict[str, dict[str, Any]] = {
    "qwen3next": {
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "rope.dimension_count": 8,
        "full_attention_interval": 2,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 16,
        "ssm.group_count": 2,
        "ssm.time_step_rank": 4,
        "ssm.inner_size": 64,
        "expert_count": 6,
        "expert_shared_feed_forward_length": 40,
    },
    "kimi-linear": {
        **LATENT_NUMBERS,
        "feed_forward_length": 96,
        "attention.head_count_kv": [0, 1, 0, 0, 1],
        "kda.head_dim": 16,
        "ssm.conv_kernel": 4,
        "leading_dense_block_count": 1,
        "expert_weights_scale": 2.446,
        "attention.layer_norm_rms_epsilon": 1e-5,
    },
    "deepseek32": {
        **LATENT_NUMBERS,
        "feed_forward_length": 96,
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": 48,
        "attention.indexer.head_count": 16,
        "attention.indexer.key_length": 64,
        "attention.indexer.top_k": 12,
        "leading_dense_block_count": 1,
        "expert_weights_scale": 2.5,
        "expert_group_count": 1,
        "expert_group_used_count": 1,
    },
    "deepseek4": {
        "attention.head_count": 4,
        "attention.head_count_kv": 1,
        "attention.key_length": 24,
        "attention.value_length": 24,
        "attention.q_lora_rank": 32,
        "attention.output_lora_rank": 16,
        "attention.output_group_count": 2,
        "attention.sliding_window": 6,
        "attention.compress_ratios": [0, 128, 4, 4],
        "attention.compress_rope_freq_base": 160000.0,
        "attention.indexer.head_count": 16,
        "attention.indexer.key_length": 64,
        "attention.indexer.top_k": 3,
        "rope.dimension_count": 8,
        "expert_count": 6,
        "expert_shared_count": 1,
        "expert_gating_func": 4,
        "expert_weights_norm": True,
        "expert_weights_scale": 1.5,
        "hyper_connection.count": 4,
        "hyper_connection.sinkhorn_iterations": 5,
        "hyper_connection.epsilon": 1e-6,
        "hash_layer_count": 2,
        "swiglu_clamp_exp": [1.0] * 4,
    },
}
Case = tuple[Callable[[Path], torch.nn.Module], Callable[[Tensors], Tensors], Mapping[str, str], int]


def made(family: str, options: dict[str, Any]) -> Callable[[Path], torch.nn.Module]:
    def make(folder: Path) -> torch.nn.Module:
        config = getattr(transformers, f"{family}Config")(**options)
        return tiny.save(getattr(transformers, f"{family}ForCausalLM"), config, folder)

    return make


def make_deepseek_v4(folder: Path) -> torch.nn.Module:
    changes = {"compress_rates": {test_deepseek_v4.SPARSE: 4, test_deepseek_v4.HEAVY: 128}, "rope_parameters": None}
    changes["index_head_dim"] = 64  # less than that, and llama.cpp does not run it
    kinds = {"mlp_layer_types": ["hash_moe", "hash_moe", "moe", "moe"]}
    return test_deepseek_v4.save(folder, **changes, **kinds)


NEXT_OPTIONS = HYBRID | MOE | {"num_experts": 6, "shared_expert_intermediate_size": 40, "linear_value_head_dim": 16}
NEXT_OPTIONS |= {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2}
KIMI_OPTIONS = CASES["kimi_linear"][1] | {"linear_num_heads": 4, "mlp_layer_types": ["dense", *["sparse"] * 4]}
V32_OPTIONS = LATENT | MOE | ROTATION | {"q_lora_rank": 48, "n_group": 1, "topk_group": 1}
V32_OPTIONS |= {"index_topk": 12, "index_n_heads": 16, "index_head_dim": 64}
FILES: dict[str, Case] = {
    "qwen3next": (made("Qwen3Next", NEXT_OPTIONS), next_changes, BLOCK | NEXT, 45),
    "kimi-linear": (made("KimiLinear", KIMI_OPTIONS), kimi_changes, BLOCK | KIMI, 45),
    "deepseek32": (
        made("DeepseekV32", V32_OPTIONS),
        split_latent,
        BLOCK | {f"self_attn.indexer.{ours}": f"indexer.{name}" for ours, name in INDEXER.items()},
        45,
    ),
    "deepseek4": (make_deepseek_v4, plain, V4, 150),
}


def write(architecture: str, folder: Path, file: Path) -> tuple[torch.nn.Module, int]:
    """(the model of transformers with the numbers of the file, a length of prompt that reaches everything)."""
    make, change, places, length = FILES[architecture]
    model = make(folder)
    checkpoint = open_checkpoint(folder)
    tensors: dict[str, Tensor | Packed] = {}
    for name, value in change(stacked({key: expand(checkpoint.read(key)) for key in checkpoint.tensors})).items():
        tensors[gguf_name(name, places)] = value.contiguous()
    config = model.config.to_dict()
    numbers = {
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "context_length": 512,
        "vocab_size": config["vocab_size"],
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0,
        **EXPERT_NUMBERS,
        **NUMBERS[architecture],
    }
    metadata = {f"{architecture}.{key}": value for key, value in numbers.items()}
    write_gguf(file, {"general.architecture": architecture, "tokenizer.ggml.model": "none"} | metadata, tensors)
    return model, length


K3_NUMBERS = {
    **LATENT_NUMBERS,
    **EXPERT_NUMBERS,
    "block_count": 7,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "context_length": 512,
    "vocab_size": 160,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.head_count_kv": [0, 0, 0, 1, 0, 1, 1],
    "attention.q_lora_rank": 40,
    "kda.head_dim": 16,
    "kda.gate_lower_bound": -5.0,
    "ssm.conv_kernel": 4,
    "leading_dense_block_count": 1,
    "expert_weights_scale": 1.5,
    "expert_latent_length": 32,
    "activation.situ_beta": 4.0,
    "activation.situ_linear_beta": 25.0,
    "attn_res.block_size": 3,
}


def k3_changes(tensors: Tensors) -> Tensors:
    """As Kimi Linear; of a residual's norm and projection only the product is kept."""
    out: Tensors = {}
    for name, value in kimi_changes({name.removeprefix("language_model."): value for name, value in tensors.items()}).items():
        if name.endswith("_res_norm.weight"):
            continue
        if name.endswith("_res_proj.weight"):
            norm = tensors["language_model." + name.replace("_res_proj", "_res_norm")]
            out[name] = norm * value.reshape(-1)
        elif name.endswith("A_log"):
            out[name] = value.flatten()[:4]
        else:
            out[name] = value
    return out


def write_k3(folder: Path, file: Path) -> None:
    linear = test_kimi_k3.TEXT["linear_attn_config"] | {"num_heads": 4}
    tensors = test_kimi_k3.save(folder, test_kimi_k3.config_of(linear_attn_config=linear))
    latent = {"down_proj": "ffn_routed_down", "up_proj": "ffn_routed_up", "norm": "ffn_routed_norm"}
    places = {
        **BLOCK,
        **KIMI,
        **{f"mlp.routed_expert_{ours}": theirs for ours, theirs in latent.items()},
        "self_attention_res_proj": "attn_res_score",
        "mlp_res_proj": "ffn_res_score",
    }
    full = {3, 5, 6}
    written: dict[str, Tensor | Packed] = {}
    for name, value in k3_changes(stacked(tensors)).items():
        if name.endswith("self_attn.g_proj.weight"):
            layer = int(name.split(".")[2])
            key = f"blk.{layer}.{'attn_gate' if layer in full else 'ssm_g'}.weight"
        else:
            key = "output_res_score.weight" if "output_attn_res" in name else gguf_name(name, places)
        written[key] = value.contiguous()
    metadata = {f"kimi-k3.{key}": value for key, value in K3_NUMBERS.items()}
    write_gguf(file, {"general.architecture": "kimi-k3", "tokenizer.ggml.model": "none"} | metadata, written)


def test_kimi_k3_is_its_numbers(tmp_path: Path) -> None:
    """Against its safetensors form, which is compared with mlx-lm elsewhere."""
    write_k3(tmp_path / "source", tmp_path / "m.gguf")
    tokens = tiny.prompt(45, 160)
    expected = tiny.logits(tiny.open_engine(tmp_path / "source"), tokens)
    assert tiny.relative_error(tiny.logits(tiny.open_engine(tmp_path / "m.gguf"), tokens), expected) < checks.TOLERANCE


QWEN4 = {
    **BLOCK,
    **NEXT,
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "self_attn.indexer.q_layernorm": "indexer.q_norm",
    "self_attn.indexer.k_layernorm": "indexer.k_norm",
    "self_attn.indexer.q_proj": "indexer.q_proj",
    "self_attn.indexer.k_proj": "indexer.k_proj",
    "ple.key_proj": "ple_key",
    "ple.value_proj": "ple_value",
    "ple.conv1d": "ple_conv1d",
    **{f"ple.norm_{part}": f"ple_norm_{part}" for part in ("key", "query", "conv")},
    **{
        f"{ours}_hyper_connection.{name}": f"hc_{theirs}_{part}"
        for ours, theirs in (("attn", "attn"), ("mlp", "ffn"))
        for name, part in (
            ("hc_norm", "norm"),
            ("input_mix_weight_down", "down"),
            ("input_mix_weight_up", "up"),
            ("block_inject_weight", "inject"),
        )
    },
}


def dealt(value: Tensor, width: int, dim: int = 0) -> Tensor:
    """Two key heads with two value heads each, dealt out in turn."""
    order = (torch.arange(4 * width).reshape(2, 2, width)).transpose(0, 1).reshape(-1)
    return value.index_select(dim, order)


def qwen4_changes(tensors: Tensors) -> Tensors:
    out: Tensors = {}
    for name, value in tensors.items():
        if name.endswith("A_log"):
            out[name] = dealt(-value.exp(), 1)
        elif name.endswith(("dt_bias", "in_proj_a.weight", "in_proj_b.weight")):
            out[name] = dealt(value, 1)
        elif name.endswith("in_proj_z.weight"):
            out[name] = dealt(value, 16)
        elif name.endswith(("in_proj_qkv.weight", "linear_attn.conv1d.weight")):
            value = value.squeeze(1) if "conv1d" in name else value
            out[name] = torch.cat([value[:64], dealt(value[64:], 16)])
        elif name.endswith("ple.conv1d.weight"):
            out[name] = value.squeeze(1)
        elif name.endswith("linear_attn.out_proj.weight"):
            out[name] = dealt(value, 16, 1)
        elif name.endswith("index_qk_proj.weight"):
            out[name.replace("index_qk", "q")], out[name.replace("index_qk", "k")] = value[:256], value[256:]
        elif name.endswith("shared_expert_gate.weight"):
            out[name] = value.reshape(-1)
        elif re.search(r"(norm|norm_(key|query|conv))\.weight$", name) and "linear_attn.norm" not in name:
            out[name] = value + 1
        else:
            out[name] = value
    return out


def write_qwen4(folder: Path, file: Path) -> torch.nn.Module:
    options = {"linear_value_head_dim": 16, "ple_layer_ids": [3], "hc_count": 4, "full_attention_interval": 2}
    options |= {"layer_types": ["linear_attention", "full_attention"] * 2}
    model = test_qwen4_exp.save(folder, **options)
    checkpoint = open_checkpoint(folder)
    constants, tables, rest = {}, {}, {}
    for name in checkpoint.tensors:
        value = checkpoint.read(name)
        assert isinstance(value, Tensor)
        if value.dtype == torch.int64:
            constants[name.rpartition(".")[2]] = value.numpy().astype("u8")
        elif ".ngram_embedding." in name:
            tables[int(re.findall(r"\d+", name)[-1])] = value
        else:
            rest[name] = value
    written: dict[str, Tensor | Packed] = {"per_layer_token_embd.weight": torch.cat([tables[part] for part in sorted(tables)])}
    for name, value in qwen4_changes(stacked(rest)).items():
        mixer = re.match(r"model\.hyper_connection_mixer\.(?:input_mix_weight_)?(?:hc_)?(\w+)\.weight", name)
        written[f"output_hc_{mixer[1]}.weight" if mixer else gguf_name(name, QWEN4)] = value.contiguous()
    config = model.config.to_dict()
    numbers: dict[str, Any] = {
        "block_count": 4,
        "embedding_length": 32,
        "context_length": 256,
        "vocab_size": 160,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": 8,
        "rope.dimension_sections": [2, 1, 1, 0],
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "full_attention_interval": 2,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 16,
        "ssm.group_count": 2,
        "ssm.time_step_rank": 4,
        "ssm.inner_size": 64,
        "expert_count": 6,
        "expert_used_count": 3,
        "expert_feed_forward_length": 16,
        "expert_shared_feed_forward_length": 24,
        "hyper_connection.count": 4,
        "hyper_connection.low_rank": 8,
        "attention.indexer.head_count": 16,
        "attention.indexer.key_length": 16,
        "attention.indexer.top_k": 12,
        "attention.compress_ratios": [0, 4, 0, 4],
        "ple.layers": [2],
        "ple.ngram_size": 3,
        "ple.heads_per_ngram": 2,
        "ple.conv_kernel": 4,
        "ple.eos_token_id": test_qwen4_exp.EOS,
        "embedding_length_per_layer_input": config["ple_embed_dim"] // 4,
        "ple.layer_multipliers": constants["layer_multipliers"],
        "ple.head_vocab_sizes": constants["ngram_heads_vocab_sizes"],
        "ple.head_offsets": constants["ngram_heads_offsets"],
    }
    metadata = {f"qwen4exp.{key}": value for key, value in numbers.items()}
    write_gguf(file, {"general.architecture": "qwen4exp", "tokenizer.ggml.model": "none"} | metadata, written)
    return model


def test_qwen4_exp_is_its_numbers(tmp_path: Path) -> None:
    model = write_qwen4(tmp_path / "source", tmp_path / "m.gguf")
    case = checks.case_from_transformers(model, tmp_path / "m.gguf", 45)
    checks.check_logits(case)
    checks.check_steps(case)


@pytest.mark.parametrize(("architecture", "known"), [("qwen3next", "QWEN3NEXT"), ("kimi-linear", "KIMI_LINEAR")])
def test_the_names_are_those_of_the_gguf_package(architecture: str, known: str, tmp_path: Path) -> None:
    write(architecture, tmp_path / "source", tmp_path / "m.gguf")
    kind = getattr(gguf.MODEL_ARCH, known)
    patterns = {gguf.TENSOR_NAMES[tensor].format(bid=layer) for tensor in gguf.MODEL_TENSORS[kind] for layer in range(5)}
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert {re.sub(r"\.(weight|bias)$", "", tensor.name) for tensor in reader.tensors} <= patterns


@pytest.mark.parametrize("architecture", FILES)
def test_a_file_of_a_newer_architecture_is_its_numbers(architecture: str, tmp_path: Path) -> None:
    model, length = write(architecture, tmp_path / "source", tmp_path / "m.gguf")
    case = checks.case_from_transformers(model, tmp_path / "m.gguf", length)
    if architecture == "deepseek4":
        case.page_size = 128
    checks.check_logits(case)
    checks.check_steps(case)
