"""Architectures with routed experts against transformers, with settings that make every branch run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from parity.core.errors import ConfigError
from parity.models import registry
from parity.stacks.reference import OPS

from . import checks, tiny
from .test_dense import SIZES, YARN

MOE = {"moe_intermediate_size": 32, "num_experts_per_tok": 3}
HYBRID = SIZES | {
    "num_hidden_layers": 5,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention", "full_attention"],
}
LATENT = SIZES | {
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
}
DEEP_YARN = YARN | {"mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 32, "beta_slow": 1}
GROUPS = {"n_group": 4, "topk_group": 2}

CASES = {
    "qwen2_moe": (
        "Qwen2Moe",
        SIZES
        | MOE
        | {"num_experts": 6, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 2, "mlp_only_layers": [2]},
    ),
    "qwen3_moe": ("Qwen3Moe", SIZES | MOE | {"num_experts": 6, "head_dim": 32, "norm_topk_prob": True}),
    "qwen3_next": ("Qwen3Next", HYBRID | MOE | {"num_experts": 6, "shared_expert_intermediate_size": 40}),
    "qwen3_5_text": ("Qwen3_5", HYBRID | {"tie_word_embeddings": True}),
    "qwen3_5_moe_text": ("Qwen3_5Moe", HYBRID | MOE | {"num_experts": 6, "shared_expert_intermediate_size": 40}),
    "deepseek_v2": ("DeepseekV2", LATENT | MOE | {"q_lora_rank": 48, "rope_parameters": DEEP_YARN}),
    "deepseek_v2-lite": ("DeepseekV2", LATENT | MOE | {"q_lora_rank": None, "routed_scaling_factor": 1.5}),
    "deepseek_v2-groups": (
        "DeepseekV2",
        LATENT | MOE | GROUPS | {"q_lora_rank": 48, "topk_method": "group_limited_greedy", "num_experts_per_tok": 3},
    ),
    "deepseek_v3": ("DeepseekV3", LATENT | MOE | GROUPS | {"q_lora_rank": 48, "rope_parameters": DEEP_YARN}),
    "deepseek_v3-moonlight": ("DeepseekV3", LATENT | MOE | {"q_lora_rank": None, "n_group": 1, "topk_group": 1}),
    # Many index heads, so that no two entries score alike: with all of a few heads at zero, ties would decide.
    "deepseek_v32": (
        "DeepseekV32",
        LATENT | MOE | GROUPS | {"q_lora_rank": 48, "index_topk": 12, "index_n_heads": 16, "index_head_dim": 16},
    ),
    "kimi_linear": (
        "KimiLinear",
        {key: value for key, value in LATENT.items() if key not in ("first_k_dense_replace", "n_routed_experts")}
        | MOE
        | {
            "num_hidden_layers": 5,
            "num_local_experts": 8,
            "pad_token_id": 0,
            "q_lora_rank": None,
            "mlp_layer_types": ["dense", "sparse", "sparse", "dense", "sparse"],
            "linear_head_dim": 16,
            "linear_num_heads": 3,
            "layer_types": HYBRID["layer_types"],
        },
    ),
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"q_lora_rank": None}, "q_lora_rank is null"),
        ({"index_head_dim": 6}, "index_head_dim = 6 must be at least the 8 rotated dimensions"),
    ],
)
def test_an_indexer_that_does_not_fit_is_refused(change: dict[str, Any], named: str) -> None:
    config = transformers.DeepseekV32Config(**CASES["deepseek_v32"][1]).to_dict()
    registry.build(config, OPS, torch.float32)
    with pytest.raises(ConfigError, match=named):
        registry.build(config | change, OPS, torch.float32)


@pytest.mark.parametrize("name", CASES)
def test_every_path_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    family, options = CASES[name]
    config_class = getattr(transformers, f"{family}TextConfig", None) or getattr(transformers, f"{family}Config")
    model = tiny.save(getattr(transformers, f"{family}ForCausalLM"), config_class(**options), tmp_path)
    case = checks.case_from_transformers(model, tmp_path, 45)
    checks.check_all(case)
    checks.check_written(case, model, tmp_path / "written")
