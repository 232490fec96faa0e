"""DeepSeek-V4 against transformers, with sizes that make every branch run."""

from __future__ import annotations

import re
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from parity.core.errors import ConfigError
from parity.hub import open_checkpoint
from parity.hub.safetensors import write_safetensors
from parity.hub.weights import to_checkpoint, to_model
from parity.models import registry
from parity.models.compressed_keys import VENDOR_NAMES
from parity.stacks.reference import OPS

from . import checks, packed, tiny

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
    "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "swiglu_limit": 1.0,
    "hc_sinkhorn_iters": 5,
}
CASES = {
    "deepseek_v4": {},
    "deepseek_v4-plain": {
        "rope_parameters": None,
        "hc_mult": 3,
        "hc_sinkhorn_iters": 4,
        "compress_rates": {SPARSE: 2, HEAVY: 8},
    },
}


def save(folder: Path, **options: Any) -> torch.nn.Module:
    """A tiny model whose hash tables and correction biases are random too."""
    config = transformers.DeepseekV4Config(**deepcopy(SIZES | options))
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
    checks.check_all(checks.case_from_transformers(model, tmp_path, 45))


# The released config of DeepSeek-V4-Flash-0731.
FLASH: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "expert_dtype": "fp4",
    "hc_eps": 1e-06,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "head_dim": 512,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "index_head_dim": 128,
    "index_n_heads": 64,
    "index_topk": 512,
    "initializer_range": 0.02,
    "max_position_embeddings": 1048576,
    "model_type": "deepseek_v4",
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 64,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 43,
    "num_hash_layers": 3,
    "num_key_value_heads": 1,
    "num_nextn_predict_layers": 1,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "q_lora_rank": 1024,
    "qk_rope_head_dim": 64,
    "quantization_config": {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]},
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 16, "original_max_position_embeddings": 65536, "type": "yarn"},
    "rope_theta": 10000,
    "routed_scaling_factor": 1.5,
    "scoring_func": "sqrtsoftplus",
    "sliding_window": 128,
    "swiglu_limit": 10.0,
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 129280,
    "compress_rope_theta": 160000,
    "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0, 0, 0],
    "dspark_block_size": 5,
    "dspark_noise_token_id": 128799,
    "dspark_target_layer_ids": [40, 41, 42],
    "dspark_markov_rank": 256,
}


def test_the_released_config_is_accounted_for() -> None:
    """Tensors of each layer as its published file lists them, scales apart, and parameters as published."""
    model, architecture = registry.build(FLASH, OPS, torch.bfloat16)
    slots = model.all_slots()
    counts = Counter(name.split(".")[2] for name in slots if ".layers." in name)
    # 5 + 768 + 3 matrices of a layer have scales, and one more where there is an indexer.
    published = {0: 1565 - 776, 4: 1576 - 777, 128: 1569 - 776}
    assert [counts[str(layer)] for layer in range(43)] == [published[ratio] for ratio in FLASH["compress_ratios"][:43]]
    parameters = sum(torch.Size(slot.shape).numel() for name, slot in slots.items() if not name.endswith("tid2eid"))
    assert round(parameters / 1e9) == 284
    with torch.device("meta"):
        reference = transformers.DeepseekV4ForCausalLM(transformers.DeepseekV4Config(**deepcopy(FLASH)))
    biases = sum(buffer.numel() for name, buffer in reference.named_buffers() if name.endswith("correction_bias"))
    assert parameters - biases == sum(parameter.numel() for parameter in reference.parameters())
    some = [name for name in slots if "experts." not in name and not re.search(r"layers\.(1|\d\d|[4-9])\.", name)]
    vendor = [to_checkpoint(name, architecture.rules) for name in some]
    assert [to_model(name, architecture.rules) for name in vendor] == some
    names = {"embed.weight", "head.weight", "norm.weight", "hc_head_fn", "layers.0.hc_ffn_scale", "layers.3.attn.attn_sink"}
    names |= {"layers.2.attn.indexer.compressor.ape", "layers.2.attn.compressor.wgate.weight"}
    names |= {"layers.0.ffn.gate.tid2eid", "layers.3.ffn.gate.bias"}
    assert names <= set(vendor)


def test_vendor_names_and_config(tmp_path: Path) -> None:
    """The vendor's names and keys give the same model as those that transformers writes."""
    mlps = ["hash_moe", "hash_moe", "moe", "moe"]
    model = save(tmp_path / "saved", layer_types=[SLIDING, HEAVY, SPARSE, HEAVY], mlp_layer_types=mlps)
    saved = open_checkpoint(tmp_path / "saved")
    tensors = {}
    for name in saved.tensors:
        vendor = to_checkpoint(to_model(name, VENDOR_NAMES), VENDOR_NAMES)
        tensors[vendor] = saved.read(name)
    assert "layers.0.attn.kv_norm.weight" in tensors
    assert "layers.2.attn.indexer.compressor.ape" in tensors
    assert "hc_head_fn" in tensors
    tensors["mtp.0.e_proj.weight"] = torch.zeros(2, 2)
    # What Vision-Exp has beside.
    tensors |= {f"layers.{layer}.ffn.gate.bias_vl": torch.zeros(2) for layer in range(4)}
    tensors |= dict.fromkeys(("vision.norm.weight", "aligner.w1.bias", "image_pad", "layers.0.ffn.gate.bias"), torch.zeros(2))
    config = {key: FLASH[key] for key in ("model_type", "topk_method", "expert_dtype", "num_nextn_predict_layers")}
    config |= {key: value for key, value in SIZES.items() if key not in ("compress_rates", "partial_rotary_factor")}
    config |= {"rope_scaling": {"type": "yarn"} | {k: v for k, v in SIZES["rope_parameters"].items() if k != "rope_type"}}
    config |= {"vision_n_layers": 32, "vision_rope_theta": 10000.0}
    config |= {"compress_ratios": [0, 128, 4, 128, 0], "num_hash_layers": 2, "compress_rate_hca": 8, "qk_rope_head_dim": 8}
    for key in ("layer_types", "mlp_layer_types", "rope_parameters"):
        del config[key]
    write_safetensors(tmp_path / "vendor", config, tensors)  # type: ignore[arg-type]
    case = checks.case_from_transformers(model, tmp_path / "saved", 40)
    case.folder = tmp_path / "vendor"
    checks.check_logits(case)


def test_the_released_formats(tmp_path: Path) -> None:
    """FP8 in blocks of 128 with power-of-two scales, experts in MXFP4: the numbers that they stand for, in the reference."""
    save(tmp_path / "saved", hidden_size=160, q_lora_rank=144)
    saved = open_checkpoint(tmp_path / "saved")
    stored, plain = packed.released({name: saved.read(name) for name in saved.tensors}, 128)  # type: ignore[misc]
    quantised = {"quantization_config": {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}}
    write_safetensors(tmp_path / "plain", saved.config, plain)
    write_safetensors(tmp_path / "stored", dict(saved.config) | quantised, stored)
    model = transformers.DeepseekV4ForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32).eval()
    case = checks.case_from_transformers(model, tmp_path / "stored", 40)
    assert sum(name.endswith(".scale") for name in stored) > 90
    checks.check_logits(case)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"compress_ratios": [0, 5]}, "compress_ratios"),
        ({"num_key_value_heads": 2}, "num_key_value_heads"),
        ({"o_groups": 7}, "o_groups"),
        ({"scoring_func": "tanh"}, "scoring_func"),
        ({"num_experts_per_tok": 300}, "num_experts_per_tok"),
        ({"index_head_dim": 32}, "index_head_dim"),
        ({"hc_mult": 0}, "hc_mult"),
        ({"swiglu_limit": 0}, "swiglu_limit must be above 0"),
        ({"rope_parameters": {"main": {"partial_rotary_factor": 0.5}}}, "rotate 0.5 of head_dim = 512, and the config 64"),
        ({"new_key": 1}, "new_key"),
        ({"compress_rates": {SPARSE: 4}, "compress_rate_hca": 1}, "compress_rates"),
    ],
)
def test_wrong_values_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        registry.build(FLASH | change, OPS, torch.bfloat16)
