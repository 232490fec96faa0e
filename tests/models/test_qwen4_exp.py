"""Qwen3.8-Flash-Next against transformers, with sizes that make every branch run."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from parity.core.errors import ConfigError, WeightError
from parity.hub import open_checkpoint, write_safetensors
from parity.models import registry
from parity.stacks.reference import OPS

from . import checks, tiny
from .test_formats import FP8, fp8

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
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},  # all of a head, and not the other Qwens' quarter
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


def as_released_in_fp8(name: str, tensor: Tensor, scale: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """(as it is stored, its numbers): experts with scales of blocks, tables with `scale` for all parts, the rest bf16."""
    if ".mlp.experts." in name:
        arrays, numbers = fp8(16, e8m0=False)(tensor)
        return {f"{name.removesuffix('weight')}{ending}": array for ending, array in arrays.items()}, numbers
    if ".ngram_embedding.shard_" in name:
        codes = (tensor / scale.float()).to(torch.float8_e4m3fn)
        return {name: codes, f"{name.rsplit('.', 2)[0]}.weight_scale": scale}, codes.float() * scale.float()
    return {name: tensor.bfloat16() if tensor.is_floating_point() else tensor}, tensor.bfloat16().float()


def save_in_fp8(folder: Path, **options: Any) -> None:
    """As Qwen3.8-Flash-Next-FP8's files are: only routed experts and the tables of n-grams in FP8; `twin` has the numbers."""
    layers = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "indexed_attention"], "ple_layer_ids": [1]}
    save(folder / "source", **layers | options)
    checkpoint = open_checkpoint(folder / "source")
    stored: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    for name in checkpoint.tensors:
        tensor = checkpoint.read(name)
        assert isinstance(tensor, Tensor)
        arrays, numbers = as_released_in_fp8(name, tensor, torch.tensor(0.0123, dtype=torch.bfloat16))
        stored |= arrays
        plain[name] = numbers if tensor.is_floating_point() else tensor
    write_safetensors(folder / "twin", checkpoint.config, plain)
    quantization = FP8 | {"weight_block_size": [16, 16]}
    write_safetensors(folder, dict(checkpoint.config) | {"quantization_config": quantization}, stored)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float8_e4m3fn, torch.float32, torch.bfloat16, torch.int64}


def test_the_released_fp8_is_its_numbers(tmp_path: Path) -> None:
    save_in_fp8(tmp_path)
    model = transformers.Qwen4ExpForCausalLM.from_pretrained(tmp_path / "twin", dtype=torch.float32).eval()
    checks.check_logits(checks.case_from_transformers(model, tmp_path, 25))


# The released text config of Qwen3.8-Flash-Next.
FLASH_NEXT: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 248044,
    "eos_token_id": 248044,
    "dtype": "bfloat16",
    "full_attention_interval": 4,
    "hc_count": 4,
    "hc_lowrank": 320,
    "head_dim": 256,
    "heads_per_ngram": 8,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "indexer_budget": 2048,
    "indexer_compress_ratio": 4,
    "indexer_head_dim": 128,
    "indexer_kv_heads": 1,
    "indexer_n_heads": 4,
    "initializer_range": 0.02,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 12,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 48,
    "linear_value_head_dim": 128,
    "make_ngram_vocab_size_divisible_by": 128,
    "mamba_ssm_dtype": "float32",
    "max_position_embeddings": 262144,
    "model_type": "qwen4_exp_text",
    "moe_intermediate_size": 640,
    "mtp": {"hybrid": True, "layer_types": ["full_attention"], "num_hidden_layers": 1, "rope_theta": 10000000},
    "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False,
    "ngram_size": 3,
    "ngram_vocab_size_base": 20000000,
    "num_attention_heads": 24,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "output_gate_type": "sigmoid",
    "output_router_logits": False,
    "partial_rotary_factor": 0.25,
    "ple_conv_kernel_size": 4,
    "ple_embed_dim": 2560,
    "ple_layer_ids": [2],
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [11, 11, 10],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000000,
        "rope_type": "default",
    },
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 640,
    "split_ngram_parts": 128,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 248320,
}
RELEASED = {"model_type": "qwen4_exp", "text_config": FLASH_NEXT, "vision_config": {}, "image_token_id": 248056}


def test_the_released_config_is_accounted_for() -> None:
    """As many parameters as the reference has, 51 billion of them in the table of n-grams, which is released in parts."""
    model, _ = registry.build(RELEASED, OPS, torch.bfloat16)
    table = "model.layers.1.ple.ple_embedding.ngram_embedding"
    slots = model.all_slots(
        dict.fromkeys((f"{table}.shard_0.weight", "model.layers.1.ple.ple_embedding.layer_multipliers"), ())
    )
    sizes = {name: torch.Size(slot.shape).numel() for name, slot in slots.items()}
    assert sum(name.startswith(table) for name in sizes) == 128
    assert "model.layers.1.ple.ple_embedding.layer_multipliers" in sizes
    in_table = sum(size for name, size in sizes.items() if name.startswith(table))
    assert round(in_table / 1e9) == 51
    with torch.device("meta"):
        reference = transformers.Qwen4ExpForCausalLM(transformers.Qwen4ExpTextConfig(**deepcopy(FLASH_NEXT)))
    hashing = sizes["model.layers.1.ple.ple_embedding.layer_multipliers"]
    assert sum(sizes.values()) - hashing == sum(parameter.numel() for parameter in reference.parameters())
    assert model.recordable_on(torch.device("cpu"))
    assert not model.recordable_on(torch.device("meta"))


def test_the_reference_hashes_alike(tmp_path: Path) -> None:
    """The constants are compared with those of a checkpoint, and others are refused."""
    model = save(tmp_path)
    reference = model.model.layers[2].ple.ple_embedding
    ours, _ = registry.build(model.config.to_dict(), OPS, torch.float32)
    hashing = ours.get_submodule("model.layers.2.ple.ple_embedding.hashing")
    assert torch.equal(hashing.multipliers, reference.layer_multipliers)
    assert torch.equal(hashing.primes, reference.ngram_heads_vocab_sizes)
    reference.layer_multipliers[1] += 2
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightError, match="layer_multipliers"):
        tiny.open_engine(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"indexer_kv_heads": 2}, "indexer_kv_heads"),
        ({"indexer_budget": 2047}, "indexer_budget"),
        ({"indexer_head_dim": 32}, "indexer_head_dim"),
        ({"output_gate_type": "tanh"}, "output_gate_type"),
        ({"ple_layer_ids": [49]}, "ple_layer_ids"),
        ({"ple_embed_dim": 2561}, "ple_embed_dim"),
        ({"layer_types": ["sliding_attention"] * 48}, "layer_types"),
        ({"num_experts_per_tok": 513}, "num_experts_per_tok"),
        ({"eos_token_id": None}, "eos_token_id"),
        ({"new_key": 1}, "new_key"),
    ],
)
def test_wrong_values_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        registry.build(RELEASED | {"text_config": FLASH_NEXT | change}, OPS, torch.bfloat16)
