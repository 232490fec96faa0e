"""Qwen3.8-Flash-Next's GGUF files compute what transformers computes.

llama.cpp differs there by choice: it takes the best `budget + ratio - 1` tokens, so up to `ratio - 1` of one more block, where
transformers takes whole blocks. With that choice put into transformers, the two agree within 8e-4.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parity.core.weights import Packed
from parity.hub import open_checkpoint, write_gguf

from . import checks, test_qwen4_exp
from .gguf_layout import BLOCK, NEXT, Tensors, gguf_name, stacked

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
