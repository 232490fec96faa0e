"""Kimi K3 against mlx-lm, which alone has it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.core.errors import ConfigError, WeightError
from parity.formats import expand, pack
from parity.hub.safetensors import write_safetensors
from parity.hub.weights import to_checkpoint
from parity.models import registry
from parity.stacks.reference import OPS

from . import checks, tiny

# Seven layers in blocks of three, so that blocks close and one stays open.
TEXT: dict[str, Any] = {
    "model_type": "kimi_linear",
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "hidden_act": "situ",
    "activation_situ_beta": 4.0,
    "activation_situ_linear_beta": 25.0,
    "attn_res_block_size": 3,
    "q_lora_rank": 40,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "mla_use_nope": True,
    "mla_use_output_gate": True,
    "num_experts": 8,
    "num_experts_per_token": 3,
    "num_shared_experts": 2,
    "moe_intermediate_size": 32,
    "moe_router_activation_func": "sigmoid",
    "moe_renormalize": True,
    "moe_layer_freq": 1,
    "routed_scaling_factor": 1.5,
    "routed_expert_hidden_size": 32,
    "latent_moe_use_norm": True,
    "first_k_dense_replace": 1,
    "use_grouped_topk": True,
    "num_expert_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
    "linear_attn_config": {
        "num_heads": 3,
        "head_dim": 16,
        "short_conv_kernel_size": 4,
        "kda_layers": [1, 2, 3, 5],
        "full_attn_layers": [4, 6, 7],
        "gate_lower_bound": -5.0,
        "use_full_rank_gate": True,
    },
}
SPARE_RATES = 5


def config_of(**options: Any) -> dict[str, Any]:
    return {"model_type": "kimi_k3", "text_config": TEXT | options, "vision_config": {}, "media_placeholder_token_id": 1}


def random_tensors(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights for every tensor under the vendor's names and shapes."""
    model, architecture = registry.build(config, OPS, torch.float32)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, slot in model.all_slots().items():
        values = torch.randn(slot.shape, generator=generator)
        if name.endswith("A_log"):
            values = torch.cat([values.flatten(), torch.zeros(SPARE_RATES)])  # released with more rates than there are heads
        elif len(slot.shape) == 1:
            values = 0.2 * values + ("norm" in name)
        elif "embed_tokens" not in name:
            values = values * slot.shape[-1] ** -0.5
        tensors[vendor_name(name, architecture.rules)] = values
    return tensors


def vendor_name(name: str, rules: Any) -> str:
    if ".mlp.experts." in name or re.search(r"\.layers\.[1-9]\d*\.mlp\.", name):
        name = to_checkpoint(name, [rule for rule in rules if "language_model" not in rule.pattern])
    else:
        name = name.replace(".block_sparse_moe.", ".mlp.")
    return f"language_model.{name}"


def save(folder: Path, config: dict[str, Any], *, packed: bool = False) -> dict[str, torch.Tensor]:
    """A checkpoint as the vendor lays it out; the numbers it means. `packed` experts are MXFP4."""
    tensors = random_tensors(config)
    stored = tensors | {
        "vision_tower.patch_embed.proj.weight": torch.zeros(2, 2),
        "mm_projector.proj.0.weight": torch.zeros(2, 2),
    }
    if packed:
        for name in [name for name in tensors if re.search(r"\.experts\.\d+\.", name)]:
            matrix = pack(stored.pop(name), "mxfp4")
            stored |= {f"{name}_packed": matrix.arrays["data"], f"{name}_scale": matrix.arrays["scale"]}
            tensors[name] = expand(matrix)
        scheme = {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}
        config = config | {"text_config": config["text_config"] | {"quantization_config": scheme}}
    write_safetensors(folder, config, stored)
    return tensors


def mlx_logits(config: dict[str, Any], tensors: dict[str, torch.Tensor], tokens: list[int]) -> np.ndarray:
    reference = pytest.importorskip("mlx_lm.models.kimi_k3", reason="mlx-lm is the reference for Kimi K3")
    mx = pytest.importorskip("mlx.core")
    model = reference.Model(reference.ModelArgs.from_dict(config))
    weights = {name: mx.array(tensor.numpy()) for name, tensor in tensors.items()}
    model.load_weights(list(model.sanitize(weights).items()))
    model.eval()
    return np.array(model(mx.array([tokens]), cache=model.make_cache())[0])


@pytest.mark.parametrize("packed", [False, True], ids=["float32", "mxfp4"])
def test_every_path_computes_what_mlx_lm_computes(packed: bool, tmp_path: Path) -> None:
    config = config_of()
    tensors = save(tmp_path, config, packed=packed)
    tokens = tiny.prompt(45, 160)
    case = checks.Case(tmp_path, mlx_logits(config, tensors, tokens), tokens, 160)
    if packed:
        checks.check_logits(case)
        checks.check_steps(case)
    else:
        checks.check_all(case)


def test_plain_experts_and_low_rank_gates(tmp_path: Path) -> None:
    """What the options are when K3 does not use them: no latent, no lower bound, no output gate, no query rank."""
    linear = TEXT["linear_attn_config"] | {"gate_lower_bound": None, "use_full_rank_gate": False}
    config = config_of(
        linear_attn_config=linear,
        routed_expert_hidden_size=None,
        latent_moe_use_norm=False,
        mla_use_output_gate=False,
        q_lora_rank=None,
        attn_res_block_size=2,
        num_shared_experts=0,
    )
    tensors = save(tmp_path, config)
    tokens = tiny.prompt(33, 160)
    checks.check_logits(checks.Case(tmp_path, mlx_logits(config, tensors, tokens), tokens, 160))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"mla_use_nope": False}, "mla_use_nope"),
        ({"attn_res_block_size": 0}, "attn_res_block_size"),
        ({"activation_situ_linear_beta": None}, "activation_situ_linear_beta"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers"),
        ({"linear_attn_config": TEXT["linear_attn_config"] | {"kda_layers": [1, 2, 3]}}, "counting from 1"),
        ({"linear_attn_config": TEXT["linear_attn_config"] | {"decay": "new"}}, "decay"),
        ({"new_key": 1}, "new_key"),
    ],
)
def test_wrong_values_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        registry.build(config_of(**change), OPS, torch.float32)


def test_too_few_decay_rates_are_refused(tmp_path: Path) -> None:
    config = config_of()
    tensors = random_tensors(config)
    name = "language_model.model.layers.0.self_attn.A_log"
    write_safetensors(tmp_path, config, tensors | {name: tensors[name][:2]})
    with pytest.raises(WeightError, match=r"layers\.0\.self_attn\.A_log"):
        tiny.open_engine(tmp_path)


def test_a_probe_sees_the_sums_of_blocks_and_what_it_returns_takes_their_place(tmp_path: Path) -> None:
    config = config_of()
    save(tmp_path, config)
    engine, seen = tiny.open_engine(tmp_path), {}
    before = tiny.logits(engine, tiny.prompt(9, 160))

    def look(layer: int, site: str, value: torch.Tensor) -> torch.Tensor | None:
        if site == "stream":
            seen[layer] = tuple(value.shape)
        return torch.zeros_like(value) if (layer, site) == (6, "stream") else None

    engine.runner.probe = look
    zeroed = tiny.logits(engine, tiny.prompt(9, 160), "probed")
    assert [seen[layer] for layer in range(7)] == [(9, 2 + layer // 3, 64) for layer in range(7)]
    assert np.abs(before).max() > 0
    assert not zeroed.any()
