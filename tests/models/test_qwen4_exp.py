"""Qwen3.8-Flash-Next against transformers, with sizes that make every branch run."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from parity.core.errors import ConfigError
from parity.models import registry
from parity.stacks.reference import OPS

from . import checks, tiny

EOS = 7
# Many index heads, so that no two groups score alike; fewer groups chosen than there are; tables in several parts.
SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
    "num_experts_per_tok": 3,
    "num_experts": 6,
    "max_position_embeddings": 256,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "indexed_attention"],
    "hc_count": 3,
    "hc_lowrank": 8,
    "ple_layer_ids": [1, 3],
    "ple_embed_dim": 24,
    "ngram_size": 3,
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 50,
    "make_ngram_vocab_size_divisible_by": 16,
    "split_ngram_parts": 5,
    "indexer_n_heads": 16,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 12,
    "indexer_compress_ratio": 4,
    "output_gate_type": "sigmoid",
    "eos_token_id": EOS,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
}
CASES = {
    "qwen4_exp": {},
    "qwen4_exp-four-grams": {
        "ngram_size": 4,
        "heads_per_ngram": 1,
        "ple_layer_ids": [3],
        "output_gate_type": None,
        "hc_count": 2,
    },
}


def save(folder: Path, **options: Any) -> torch.nn.Module:
    config = transformers.Qwen4ExpTextConfig(**deepcopy(SIZES | options))
    return tiny.save(transformers.Qwen4ExpForCausalLM, config, folder)


@pytest.mark.parametrize("name", CASES)
def test_every_path_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    model = save(tmp_path, **CASES[name])
    case = checks.case_from_transformers(model, tmp_path, 45)
    # The end-of-text token hides what stands before it from the n-grams.
    case.tokens[8] = case.tokens[20] = case.tokens[21] = EOS
    case.reference = tiny.reference_logits(model, case.tokens)
    checks.check_all(case)
