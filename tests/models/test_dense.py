"""Qwen2, Qwen3 and Llama against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama import modeling_llama

from parity.core.errors import ConfigError
from parity.models import registry
from parity.models.layers.rope import make_rope
from parity.stacks.reference import OPS
from parity.stacks.registry import open_stack

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


LINEAR = {"rope_type": "linear", "factor": 3.0}
# Qwen's, R1-Distill-Llama's, DeepSeek-V3's, two of Kimi K2's, and a YaRN with all that it can have.
RELEASED: dict[str, tuple[int, dict[str, Any]]] = {
    "default": (128, {"rope_type": "default", "rope_theta": 1e6}),
    "linear": (128, {"rope_theta": 1e6} | LINEAR),
    "llama3": (128, LLAMA3 | {"rope_theta": 500000.0, "original_max_position_embeddings": 8192}),
    "yarn": (128, YARN | {"rope_theta": 1e6, "original_max_position_embeddings": 32768}),
    "v3": (64, YARN | {"factor": 40, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 1.0}),
    "k2": (64, YARN | {"rope_theta": 50000.0, "factor": 32.0, "beta_fast": 1.0, "beta_slow": 1.0}),
    "k2.5": (64, YARN | {"rope_theta": 50000.0, "factor": 64.0, "mscale": 1.0, "mscale_all_dim": 1.0}),
    "all": (96, YARN | {"mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False, "beta_fast": 20.0, "beta_slow": 2.0}),
}


@pytest.mark.parametrize("name", RELEASED)
def test_frequencies_are_the_references_to_the_last_bit(name: str) -> None:
    """So that angles are the same at position 1,000,000, where one bit of a frequency turns a cosine by up to 0.06."""
    dims, parameters = RELEASED[name]
    sizes = SIZES | {"max_position_embeddings": 262144, "head_dim": dims, "rope_parameters": dict(parameters)}
    config = transformers.LlamaConfig(**sizes)
    reference = modeling_llama.LlamaRotaryEmbedding(config)
    own = make_rope(parameters, dims, 262144)
    assert torch.equal(own.inv_freq, reference.inv_freq)
    assert own.scale == reference.attention_scaling
    positions = torch.tensor([0, 1, 4095, 32769, 131071, 1048575])
    cosines, sines = reference(torch.zeros(1), positions[None])
    for ops in (OPS, open_stack("cpu")[0].ops):
        angles = ops.rope_angles(positions.int(), own.inv_freq, own.scale)
        assert torch.allclose(angles, torch.stack([cosines[0], sines[0]], 1)[..., : dims // 2], rtol=0, atol=3e-7)


def test_a_config_without_a_base_has_the_references(tmp_path: Path) -> None:
    model = tiny.save(transformers.Qwen3ForCausalLM, transformers.Qwen3Config(**SIZES, head_dim=32), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "rope_parameters"}))
    checks.check_logits(checks.case_from_transformers(model, tmp_path, 45))


def test_a_part_that_is_not_rotated_is_refused() -> None:
    config = transformers.Qwen3Config(**SIZES, head_dim=32).to_dict()
    for place in (config, config["rope_parameters"]):
        place["partial_rotary_factor"] = 0.5
        with pytest.raises(ConfigError, match="partial_rotary_factor"):
            registry.build(config, OPS, torch.float32)
        place["partial_rotary_factor"] = 1.0
        registry.build(config, OPS, torch.float32)


@pytest.mark.parametrize(
    ("beside", "within", "said"),
    [
        ({"rope_theta": 1e6}, {"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters has rope_theta"),
        ({"rope_theta": 1e6}, {"rope_scaling": LINEAR | {"rope_theta": 1e4}}, "rope_scaling has rope_theta"),
        ({"rope_scaling": LINEAR}, {"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters has rope_type"),
    ],
)
def test_settings_that_do_not_agree_are_refused(beside: dict[str, Any], within: dict[str, Any], said: str) -> None:
    config = transformers.Qwen3Config(**SIZES, head_dim=32).to_dict()
    del config["rope_parameters"]
    with pytest.raises(ConfigError, match=said):
        registry.build(config | beside | within, OPS, torch.float32)
    agreed = {"rope_scaling": {"type": "linear", "factor": 3}, "rope_parameters": LINEAR | {"rope_theta": 10**6}}
    registry.build(config | {"rope_theta": 1e6} | agreed, OPS, torch.float32)


def test_a_factor_for_yarns_temperature_multiplies_it() -> None:
    parameters = {**YARN, "attn_factor": 0.75}
    _, scale = ROPE_INIT_FUNCTIONS["yarn"](transformers.Qwen3Config(**SIZES, head_dim=32, rope_parameters=YARN), "cpu")
    own = make_rope(parameters, 32, 256)
    assert own.scale == pytest.approx(0.75 * scale)
    undone = make_rope({**YARN, "attn_factor": 0.8782488562869419}, 32, 256)  # as DeepSeek-R1-0528-Qwen3-8B has it
    assert undone.scale == pytest.approx(1.0, abs=1e-15)
