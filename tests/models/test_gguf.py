"""GGUF files of the newer architectures, laid out as llama.cpp's converters do, compute what transformers computes.

Names are checked against the tables of the `gguf` package where it knows the architecture. Each of these files was also run by
llama.cpp once.
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

from . import checks, test_deepseek_v4, tiny
from .gguf_layout import (
    BLOCK,
    EXPERT_NUMBERS,
    INDEXER,
    KIMI,
    LATENT_NUMBERS,
    NEXT,
    V4,
    Tensors,
    gguf_name,
    kimi_changes,
    split_latent,
    stacked,
)
from .test_experts import CASES, HYBRID, LATENT, MOE

ROTATION = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


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


def plain(tensors: Tensors) -> Tensors:
    """DeepSeek-V4: as released."""
    return {name: value.int() if name.endswith("tid2eid") else value for name, value in tensors.items()}


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
