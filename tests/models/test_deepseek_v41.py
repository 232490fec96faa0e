"""DeepSeek-V4.1 against MLX, which alone has it: mlx-lm without n-gram memory, mlx-vlm with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from parity.core.errors import ConfigError, ModelNotFound
from parity.core.weights import Packed
from parity.engine.load import load_model
from parity.formats import expand, pack
from parity.hub import open_checkpoint
from parity.hub.safetensors import write_safetensors
from parity.hub.weights import to_checkpoint, to_model
from parity.models import registry
from parity.models.layers import engram
from parity.models.layers.ngram import HostTable, primes_after
from parity.stacks.reference import OPS
from parity.stacks.registry import open_stack

from . import checks, packed, tiny
from .recorded import recorded

# Dimensions that no block of 16 or 32 divides, which switches off the reference's rounding of keys to FP8 and FP4. More
# entries than are chosen, more blocks than are candidates, and candidates enough to choose from.
TEXT: dict[str, Any] = {
    "model_type": "deepseek_v41_text",
    "vocab_size": 160,
    "hidden_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "q_lora_rank": 40,
    "qk_rope_head_dim": 8,
    "o_groups": 2,
    "o_lora_rank": 24,
    "moe_intermediate_size": 24,
    "n_routed_experts": 6,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 1.0,
    "rms_norm_eps": 1e-20,
    "sliding_window": 6,
    "compress_ratios": [0, 2, 2, 2, 1, 1, 1, 1, 0],
    "kv_source_layer_ids": [1, 4],
    "index_source_layer_ids": [1, 3, 4, 6],
    "candidate_source_layer_id": 4,
    "candidate_topk_blocks": 5,
    "candidate_block_size": 2,
    "compress_rope_theta": 160000.0,
    "index_n_heads": 16,
    "index_head_dim": 12,
    "index_topk": 7,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 16,
        "original_max_position_embeddings": 32,
        "beta_fast": 32,
        "beta_slow": 1,
    },
    "max_position_embeddings": 512,
    "hc_mult": 3,
    "hc_sinkhorn_iters": 5,
    "hc_eps": 1e-6,
    "hidden_act": "silu",
    "num_nextn_predict_layers": 3,
    "dspark_block_size": 5,
}
ENGRAM = {
    "engram_layer_ids": [0, 5],
    "engram_num_embeddings": [390, 560],
    "engram_max_ngram_size": 4,
    "engram_vocab_size": 50,
    "engram_n_heads": 2,
    "engram_head_dim": 8,
    "engram_pad_token_id": 2,
    "engram_compressed_vocab_size": 1,
}


def config_of(**options: Any) -> dict[str, Any]:
    return {"model_type": "deepseek_v41", "text_config": TEXT | options, "vision_config": {}, "image_token_id": 1}


def random_tensors(config: dict[str, Any], *, draft: bool = False) -> dict[str, torch.Tensor]:
    """Weights for every tensor, under the vendor's names."""
    model, architecture = registry.build(config, OPS, torch.float32, draft=draft)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, slot in model.all_slots().items():
        values = torch.randn(slot.shape, generator=generator)
        vendor = to_checkpoint(name, architecture.rules)
        is_norm = len(slot.shape) == 1 and "norm" in vendor
        if is_norm or re.search(r"\.[qk]_weight$", vendor):
            values = 1 + 0.2 * values
        elif len(slot.shape) == 1:
            values = 0.2 * values
        elif "embed." not in vendor:
            values = values * slot.shape[-1] ** -0.5
        tensors[vendor] = values
    return tensors


def save(folder: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A checkpoint as the vendor lays it out, with what is not text in it too."""
    tensors = random_tensors(config)
    other = {"vision.patch.weight": torch.zeros(2, 2), "layers.2.ffn.gate.bias_vl": torch.zeros(6), "mtp.0.x": torch.zeros(2)}
    write_safetensors(folder, config, tensors | other)
    return tensors


def mlx_arrays(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    mx = pytest.importorskip("mlx.core")
    return {name: mx.array(tensor.numpy()) for name, tensor in tensors.items()}


def mlx_lm_logits(config: dict[str, Any], tensors: dict[str, torch.Tensor], tokens: list[int]) -> np.ndarray:
    reference = pytest.importorskip("mlx_lm.models.deepseek_v41")
    mx = pytest.importorskip("mlx.core")
    model = reference.Model(reference.ModelArgs.from_dict(config))
    model.load_weights(list(model.sanitize(mlx_arrays(tensors)).items()))
    return np.array(model(mx.array([tokens]))[0])


def test_every_path_computes_what_mlx_lm_computes(tmp_path: Path) -> None:
    config, tokens = config_of(), tiny.prompt(45, 160)
    logits = mlx_lm_logits(config, save(tmp_path, config), tokens)
    checks.check_all(checks.Case(tmp_path, logits, tokens, 160))


def test_the_released_formats(tmp_path: Path) -> None:
    """FP8 in blocks of 32 with power-of-two scales, experts in MXFP4: the numbers that they stand for, in the reference."""
    config, tokens = config_of(hidden_size=64, moe_intermediate_size=32), tiny.prompt(40, 160)
    stored, plain = packed.released(random_tensors(config), 32)
    quantised = {"quantization_config": {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [32, 32]}}
    write_safetensors(tmp_path, config | quantised, stored)
    checks.check_logits(checks.Case(tmp_path, mlx_lm_logits(config, plain, tokens), tokens, 160))


WORDS = [
    "the",
    "The",
    " the",
    "THE ",
    "thé",
    "ﬁne",
    "fine",
    " ",
    "\t",
    "\n\n",
    "\ufffd",
    "\ufffdx",
    "ＡＢ",
    "ab",
    "é",
    "e\u0301",
]


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """160 tokens, of which some are alike but for case, accents and spaces."""
    words = WORDS + [f"word{number}" for number in range(160 - len(WORDS))]
    tokenizer = Tokenizer(WordLevel({word: token for token, word in enumerate(words)}, unk_token="the"))
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def mlx_vlm_logits(
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerFast,
    tokens: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> np.ndarray:
    """With n-gram memory; the reference's rounding of activations is switched off."""
    import mlx.core as mx
    from mlx_vlm.models.deepseek_v41 import language

    monkeypatch.setattr("mlx_vlm.models.deepseek_v41.fakequant.DISABLE", True)
    weights = mlx_arrays(tensors)
    weights["embed_tokens.weight"] = weights.pop("embed.weight")
    for layer in range(TEXT["num_hidden_layers"]):
        weights = language.sanitize_moe_weights(weights, f"layers.{layer}.ffn", TEXT["n_routed_experts"])
        grouped = weights[f"layers.{layer}.attn.wo_a.weight"]
        weights[f"layers.{layer}.attn.wo_a.weight"] = grouped.reshape(TEXT["o_groups"], TEXT["o_lora_rank"], -1)
    model = language.LanguageModel(language.ModelConfig.from_dict(config), tokenizer)
    model.load_weights(list(weights.items()), strict=False)
    return np.array(model(mx.array([tokens]), cache=model.make_cache()).logits[0])


def mlx_vlm_classes(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    from mlx_vlm.models.deepseek_v41.engram import build_compressed_token_map

    return np.array(build_compressed_token_map(tokenizer)[0])


def test_every_path_computes_what_mlx_vlm_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = save_tokenizer(tmp_path)
    classes = recorded("deepseek_v41-classes", lambda: mlx_vlm_classes(tokenizer)).astype(int).tolist()
    assert engram.fold_tokens(tmp_path) == classes
    count = max(classes) + 1
    assert count < 155
    config = config_of(**ENGRAM | {"engram_compressed_vocab_size": count})
    tensors, tokens = save(tmp_path, config), tiny.prompt(45, 160)
    tokens[10:14] = tokens[20:24]
    logits = recorded("deepseek_v41", lambda: mlx_vlm_logits(config, tensors, tokenizer, tokens, monkeypatch))
    checks.check_all(checks.Case(tmp_path, logits, tokens, 160))


def save_packed_tables(folder: Path) -> None:
    """With n-gram tables as they are released: FP8 with a power of two for 32 columns of a row."""
    save_tokenizer(folder)
    count = max(engram.fold_tokens(folder)) + 1
    config = config_of(**ENGRAM | {"engram_compressed_vocab_size": count, "engram_head_dim": 32})
    tensors = random_tensors(config)
    for layer in ENGRAM["engram_layer_ids"]:
        name = f"layers.{layer}.engram.embed.weight"
        arrays = pack(tensors[name], "fp8_block", block_rows=1, block_columns=32, e8m0=1).arrays
        tensors[name], tensors[f"layers.{layer}.engram.embed.scale"] = arrays["data"], arrays["scale"]
    quantised = config | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32], "scale_fmt": "ue8m0"}}
    write_safetensors(folder, quantised, tensors)


def test_a_packed_table_is_read_row_by_row_from_the_file(tmp_path: Path) -> None:
    """The table is kept as it was mapped, and only rows are expanded."""
    save_packed_tables(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    stack, dtype = open_stack("cpu:reference:float32")
    assert dtype is not None
    model = load_model(checkpoint, stack, dtype)
    table = model.get_submodule("model.layers.5.engram.memory.embed")
    assert isinstance(table, HostTable)
    whole = checkpoint.read("layers.5.engram.embed.weight")
    assert isinstance(whole, Packed)
    kept = table.parts[0]
    assert isinstance(kept, Packed)
    assert kept.arrays["data"].dtype == torch.float8_e4m3fn
    assert kept.arrays["data"].data_ptr() == whole.arrays["data"].data_ptr(), "the table was copied"
    chosen = torch.tensor([[3, 559, 3], [0, 17, 200]])
    assert torch.equal(table(stack.ops, chosen), expand(whole)[chosen].flatten(1))
    assert model.recordable_on(torch.device("cpu"))
    assert not model.recordable_on(torch.device("meta"))


# The released text config of DeepSeek-V4.1-Flash.
FLASH: dict[str, Any] = {
    "model_type": "deepseek_v41_text",
    "vocab_size": 129280,
    "hidden_size": 5120,
    "moe_intermediate_size": 2304,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 1280,
    "o_lora_rank": 1024,
    "o_groups": 8,
    "hidden_act": "silu",
    "swiglu_limit": 10.0,
    "rms_norm_eps": 1e-20,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "max_position_embeddings": 1048576,
    "rope_theta": 10000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 16,
        "original_max_position_embeddings": 65536,
        "beta_fast": 32,
        "beta_slow": 1,
    },
    "n_routed_experts": 384,
    "n_shared_experts": 1,
    "num_experts_per_tok": 6,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "sliding_window": 128,
    "compress_ratios": [0, 0, *[2] * 18, *[1] * 20, 0, 0, 0],
    "compress_rope_theta": 160000,
    "kv_source_layer_ids": [2, 8, 14, 20],
    "index_source_layer_ids": [2, 8, 14, 20, 24, 28, 32, 36],
    "index_n_heads": 32,
    "index_head_dim": 128,
    "index_topk": 512,
    "candidate_source_layer_id": 20,
    "candidate_topk_blocks": 2048,
    "candidate_block_size": 8,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-06,
    "engram_layer_ids": [1, 14],
    "engram_num_embeddings": [384006168, 384016682],
    "engram_max_ngram_size": 4,
    "engram_vocab_size": 16000000,
    "engram_n_heads": 8,
    "engram_head_dim": 256,
    "engram_pad_token_id": 2,
    "engram_compressed_vocab_size": 99092,
    "num_nextn_predict_layers": 3,
    "dspark_block_size": 5,
    "dspark_noise_token_id": 128799,
    "dspark_target_layer_ids": [37, 38, 39],
    "dspark_markov_rank": 256,
    "dspark_n_routed_experts": 128,
    "dspark_num_experts_per_tok": 3,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
RELEASED = {"model_type": "deepseek_v41", "text_config": FLASH, "vision_config": {}, "image_token_id": 129264}


def test_the_released_config_is_accounted_for() -> None:
    """The hash constants are the published ones, and the tables have as many rows as their primes ask for."""
    model, architecture = registry.build(RELEASED, OPS, torch.bfloat16)
    constants = []
    for layer, rows in zip(FLASH["engram_layer_ids"], FLASH["engram_num_embeddings"], strict=True):
        hashing = model.get_submodule(f"model.layers.{layer}.engram.memory.hashing")
        assert hashing.num_rows == rows
        constants += hashing.multipliers.tolist()
    assert constants == [
        76632096046245,
        4839876093313,
        35959672319349,
        73987337458391,
        67716810739261,
        51510806800915,
        30921347202721,
        82619226485591,
    ]
    assert primes_after(15_999_999, 48)[-3:] == [16000877, 16000879, 16000889]
    slots = model.all_slots()
    table = [name for name in slots if ".embed.weight" in name]
    sizes = {name: torch.Size(slot.shape).numel() for name, slot in slots.items()}
    in_tables = sum(sizes[name] for name in table)
    assert round(in_tables / 1e9) == 197
    assert round((sum(sizes.values()) - in_tables) / 1e9) == 552
    some = ["model.layers.2.self_attn.indexer.k_proj.weight", "model.layers.1.engram.wkv.weight", table[0]]
    vendor = ["layers.2.attn.indexer.wk.weight", "layers.1.engram.wkv.weight", "layers.1.engram.embed.weight"]
    assert [to_checkpoint(name, architecture.rules) for name in some] == vendor
    assert [to_model(name, architecture.rules) for name in vendor] == some


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"compress_ratios": [0, 2]}, "compress_ratios"),
        ({"kv_source_layer_ids": [8]}, "kv_source_layer_ids"),
        ({"index_source_layer_ids": [2, 8, 20]}, "index_source_layer_ids"),
        ({"candidate_source_layer_id": 3}, "candidate_source_layer_id = 3 is not in index_source_layer_ids"),
        ({"kv_source_layer_ids": ["2"]}, "kv_source_layer_ids"),
        ({"engram_num_embeddings": [384006168]}, "engram_num_embeddings"),
        ({"engram_layer_ids": [1, 40]}, "engram_layer_ids"),
        ({"gate_temp": 2.0}, "gate_temp"),
        ({"qk_rope_head_dim": 65}, "qk_rope_head_dim"),
        ({"new_key": 1}, "new_key"),
    ],
)
def test_wrong_values_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        registry.build(RELEASED | {"text_config": FLASH | change}, OPS, torch.bfloat16)


def test_a_tokenizer_that_folds_otherwise_is_refused(tmp_path: Path) -> None:
    config = config_of(**ENGRAM | {"engram_compressed_vocab_size": 99})
    save(tmp_path, config)
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json"):
        tiny.open_engine(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="engram_compressed_vocab_size is 99"):
        tiny.open_engine(tmp_path)
