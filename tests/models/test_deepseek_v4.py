"""DeepSeek-V4 against transformers, with sizes that make every branch run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from . import checks, tiny

SPARSE, HEAVY, SLIDING = "compressed_sparse_attention", "heavily_compressed_attention", "sliding_attention"
# Many index heads, so that no two entries score alike; fewer entries chosen than there are; windows shorter than the prompt.
SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 48,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "head_dim": 24,
    "q_lora_rank": 32,
    "num_experts_per_tok": 3,
    "n_routed_experts": 6,
    "max_position_embeddings": 512,
    "layer_types": [SLIDING, HEAVY, SPARSE, SPARSE],
    "compress_rates": {SPARSE: 4, HEAVY: 8},
    "mlp_layer_types": ["hash_moe", "moe", "hash_moe", "moe"],
    "sliding_window": 6,
    "o_groups": 2,
    "o_lora_rank": 16,
    "index_n_heads": 16,
    "index_head_dim": 16,
    "index_topk": 3,
    "partial_rotary_factor": 8 / 24,
    "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1},
    "swiglu_limit": 1.0,
}
CASES = {
    "deepseek_v4": {},
    "deepseek_v4-plain": {"rope_parameters": None, "hc_mult": 3, "compress_rates": {SPARSE: 2, HEAVY: 8}},
}


def save(folder: Path, **options: Any) -> torch.nn.Module:
    """A tiny model whose hash tables and correction biases are random too."""
    config = transformers.DeepseekV4Config(**SIZES | options)
    model = tiny.save(transformers.DeepseekV4ForCausalLM, config, folder)
    generator = torch.Generator().manual_seed(3)
    for name, buffer in model.named_buffers():
        if name.endswith("tid2eid"):
            scores = torch.rand(buffer.shape[0], config.n_routed_experts, generator=generator)
            buffer.copy_(scores.argsort(-1)[:, : buffer.shape[1]])
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", CASES)
def test_every_path_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    model = save(tmp_path, **CASES[name])
    checks.check_all(checks.case_from_transformers(model, tmp_path, 61))
