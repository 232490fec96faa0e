"""Qwen2, Qwen3 and Llama against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from parity.models.layers.rope import make_rope

from . import checks, tiny

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 256,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10000.0,
}

CASES = {
    "qwen2": ("Qwen2", {}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": YARN}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-tied-bias": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True, "attention_bias": True}),
    "llama": ("Llama", {}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_path_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    family, options = CASES[name]
    config = getattr(transformers, f"{family}Config")(**SIZES | options)
    model = tiny.save(getattr(transformers, f"{family}ForCausalLM"), config, tmp_path)
    case = checks.case_from_transformers(model, tmp_path, 45)
    checks.check_all(case)
    checks.check_written(case, model, tmp_path / "written")


def test_a_factor_for_yarns_temperature_multiplies_it() -> None:
    parameters = {**YARN, "attn_factor": 0.75}
    inv_freq, scale = ROPE_INIT_FUNCTIONS["yarn"](transformers.Qwen3Config(**SIZES, head_dim=32, rope_parameters=YARN), "cpu")
    own = make_rope(parameters, 32, 256)
    assert torch.allclose(own.inv_freq, inv_freq)
    assert own.scale == pytest.approx(0.75 * scale)
    undone = make_rope({**YARN, "attn_factor": 0.8782488562869419}, 32, 256)  # as DeepSeek-R1-0528-Qwen3-8B has it
    assert undone.scale == pytest.approx(1.0, abs=1e-15)
