"""DeepSeek-V4.1 against MLX, which alone has it: mlx-lm without n-gram memory, mlx-vlm with it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from parity.core.errors import ConfigError, ModelNotFound
from parity.hub.safetensors import write_safetensors
from parity.hub.weights import to_checkpoint
from parity.models import registry
from parity.stacks.reference import OPS

from . import checks, tiny

# Dimensions that no block of 16 or 32 divides, which switches off the reference's rounding of keys to FP8 and FP4. More
# entries than are chosen, more blocks than are candidates, and candidates enough to choose from.
TEXT: dict[str, Any] = {
    "model_type": "deepseek_v41_text",
    "vocab_size": 160,
    "hidden_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "q_lora_rank": 40,
    "qk_rope_head_dim": 8,
    "o_groups": 2,
    "o_lora_rank": 24,
    "moe_intermediate_size": 24,
    "n_routed_experts": 6,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 1.0,
    "rms_norm_eps": 1e-20,
    "sliding_window": 6,
    "compress_ratios": [0, 2, 2, 2, 1, 1, 1, 1, 0],
    "kv_source_layer_ids": [1, 4],
    "index_source_layer_ids": [1, 3, 4, 6],
    "candidate_source_layer_id": 4,
    "candidate_topk_blocks": 5,
    "candidate_block_size": 2,
    "compress_rope_theta": 160000.0,
    "index_n_heads": 16,
    "index_head_dim": 12,
    "index_topk": 7,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 16,
        "original_max_position_embeddings": 32,
        "beta_fast": 32,
        "beta_slow": 1,
    },
    "max_position_embeddings": 512,
    "hc_mult": 3,
    "hc_sinkhorn_iters": 5,
    "hc_eps": 1e-6,
    "hidden_act": "silu",
    "num_nextn_predict_layers": 3,
    "dspark_block_size": 5,
}
ENGRAM = {
    "engram_layer_ids": [0, 5],
    "engram_num_embeddings": [390, 470],
    "engram_max_ngram_size": 4,
    "engram_vocab_size": 50,
    "engram_n_heads": 2,
    "engram_head_dim": 8,
    "engram_pad_token_id": 2,
    "engram_compressed_vocab_size": 0,
}


def config_of(**options: Any) -> dict[str, Any]:
    return {"model_type": "deepseek_v41", "text_config": TEXT | options, "vision_config": {}, "image_token_id": 159}


def random_tensors(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights for every tensor, under the vendor's names."""
    model, architecture = registry.build(config, OPS, torch.float32)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, slot in model.all_slots().items():
        values = torch.randn(slot.shape, generator=generator)
        vendor = to_checkpoint(name, architecture.rules).replace(".attn.norm.", ".attn.kv_norm.")
        is_norm = len(slot.shape) == 1 and "norm" in vendor
        if is_norm or re.search(r"\.[qk]_weight$", vendor):
            values = 1 + 0.2 * values
        elif len(slot.shape) == 1:
            values = 0.2 * values
        elif "embed." not in vendor:
            values = values * slot.shape[-1] ** -0.5
        tensors[vendor] = values
    return tensors


def save(folder: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A checkpoint as the vendor lays it out, with what is not text in it too."""
    tensors = random_tensors(config)
    other = {"vision.patch.weight": torch.zeros(2, 2), "layers.2.ffn.gate.bias_vl": torch.zeros(6), "mtp.0.x": torch.zeros(2)}
    write_safetensors(folder, config, tensors | other)
    return tensors


def mlx_arrays(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    mx = pytest.importorskip("mlx.core")
    return {name: mx.array(tensor.numpy()) for name, tensor in tensors.items()}


def test_every_path_computes_what_mlx_lm_computes(tmp_path: Path) -> None:
    reference = pytest.importorskip("mlx_lm.models.deepseek_v41")
    mx = pytest.importorskip("mlx.core")
    config = config_of()
    weights = mlx_arrays(save(tmp_path, config))
    model = reference.Model(reference.ModelArgs.from_dict(config))
    model.load_weights(list(model.sanitize(weights).items()))
    tokens = tiny.prompt(45, 160)
    logits = np.array(model(mx.array([tokens]))[0])
    checks.check_all(checks.Case(tmp_path, logits, tokens, 160))
