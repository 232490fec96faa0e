"""Every architecture read from GGUF fills its model: each parameter once, nothing left over, every config key known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from parity.core.weights import Packed
from parity.engine.load import load_model
from parity.hub import export_gguf, open_checkpoint, write_gguf
from parity.stacks.registry import open_stack

from .test_checkpoint import EXPERTS, SMALL, deepseek_metadata

CONFIGS = [
    transformers.LlamaConfig(**SMALL),
    transformers.Qwen2Config(**SMALL),
    transformers.Qwen3Config(**SMALL, head_dim=32),
    transformers.Qwen2MoeConfig(**SMALL, **EXPERTS, shared_expert_intermediate_size=48),
    transformers.Qwen3MoeConfig(**SMALL, **EXPERTS, head_dim=32, norm_topk_prob=True),
]


def loads(path: Path) -> bool:
    stack, _ = open_stack("cpu:reference:float32")
    return load_model(open_checkpoint(path), stack, torch.float32) is not None


def unfused(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | Packed]:
    """Experts as GGUF stacks them."""
    found: dict[str, torch.Tensor | Packed] = {}
    for name, tensor in state.items():
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            found[f"{stem}gate_proj.weight"], found[f"{stem}up_proj.weight"] = tensor.chunk(2, 1)
        else:
            found[f"{name}.weight" if name.endswith("experts.down_proj") else name] = tensor
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_exported_models_load(tmp_path: Path, config: Any) -> None:
    state = transformers.AutoModelForCausalLM.from_config(config).state_dict()
    values = config.to_dict()
    values |= {"rope_theta": values["rope_parameters"]["rope_theta"]}
    export_gguf(tmp_path / "m.gguf", values, unfused(state), {})
    assert loads(tmp_path / "m.gguf")


@pytest.mark.parametrize("sigmoid", [True, False], ids=["deepseek_v3", "deepseek_v2"])
def test_latent_attention_loads(tmp_path: Path, sigmoid: bool) -> None:
    tensors = {"token_embd.weight": (96, 64), "output_norm.weight": (64,), "output.weight": (96, 64)}
    attention = {
        "attn_norm": (64,), "ffn_norm": (64,), "attn_q_a": (24, 64), "attn_q_a_norm": (24,), "attn_q_b": (96, 24),
        "attn_kv_a_mqa": (40, 64), "attn_kv_a_norm": (32,), "attn_k_b": (4, 32, 16), "attn_v_b": (4, 16, 32),
        "attn_output": (64, 64),
    }  # fmt: skip
    dense = {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
    routed = {
        "ffn_gate_inp": (8, 64), "ffn_gate_exps": (8, 32, 64), "ffn_up_exps": (8, 32, 64), "ffn_down_exps": (8, 64, 32),
        "ffn_gate_shexp": (32, 64), "ffn_up_shexp": (32, 64), "ffn_down_shexp": (64, 32),
    }  # fmt: skip
    for layer, mlp in enumerate((dense, routed)):
        tensors |= {f"blk.{layer}.{name}.weight": shape for name, shape in (attention | mlp).items()}
    if sigmoid:
        tensors["blk.1.exp_probs_b.bias"] = (8,)
    metadata = deepseek_metadata(expert_gating_func=2 if sigmoid else 1, expert_weights_norm=sigmoid)
    write_gguf(tmp_path / "m.gguf", metadata, {name: torch.randn(shape) for name, shape in tensors.items()})
    assert loads(tmp_path / "m.gguf")
