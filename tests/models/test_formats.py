"""Released weight formats: a checkpoint as its vendor stores it computes what transformers does on the numbers it means."""

from __future__ import annotations

import json
import math
import re
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from parity.core.errors import Unsupported, WeightError
from parity.core.weights import Packed, Weight
from parity.engine.load import load_model
from parity.formats import expand, pack
from parity.formats.columns import AWQ_ORDER
from parity.formats.int_groups import pack_words
from parity.hub import export_gguf, open_checkpoint, write_gguf, write_safetensors
from parity.models.layers import experts
from parity.stacks.registry import open_stack

from . import checks, test_experts, tiny
from .test_experts import HYBRID

Stored = tuple[Mapping[str, Tensor], Tensor]
"""(arrays by the ending of their names, the numbers they mean)."""

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 256,
}
MOE = SIZES | {"moe_intermediate_size": 32, "num_experts_per_tok": 3, "norm_topk_prob": True}
LATENT = MOE | {
    "num_key_value_heads": 4,
    "q_lora_rank": 40,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
}


def fp8(block: int, *, e8m0: bool) -> Callable[[Tensor], Stored]:
    """FP8 in squares, as DeepSeek-V3 (float32 scales) and V3.1 (powers of two, stored as float32) are released."""

    def store(tensor: Tensor) -> Stored:
        packed = pack(tensor, "fp8_block", block_rows=block, block_columns=block, e8m0=int(e8m0))
        return {"weight": packed.arrays["data"], "weight_scale_inv": packed.arrays["scale"].float()}, expand(packed)

    return store


def fp8_tensor(ending: str, *shape: int) -> Callable[[Tensor], Stored]:
    """FP8 with one scale for a matrix, of a shape as different tools write it."""

    def store(tensor: Tensor) -> Stored:
        scale = tensor.abs().max() / 448
        data = (tensor / scale).to(torch.float8_e4m3fn)
        numbers = data.double().numpy() * float(scale)
        return {"weight": data, ending: scale.reshape(shape)}, torch.from_numpy(numbers).float()

    return store


def int4(tensor: Tensor) -> Stored:
    """compressed-tensors `pack-quantized`, groups of 32."""
    packed = pack(tensor, "int4_group", group_size=32)
    arrays = {"weight_packed": packed.arrays["data"], "weight_scale": packed.arrays["scale"]}
    return arrays | {"weight_shape": torch.tensor(tensor.shape)}, expand(packed)


def mxfp4(tensor: Tensor) -> Stored:
    """compressed-tensors `mxfp4-pack-quantized`."""
    packed = pack(tensor, "mxfp4")
    return {"weight_packed": packed.arrays["data"], "weight_scale": packed.arrays["scale"]}, expand(packed)


def _asymmetric(tensor: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(codes [out, in], zero points, float16 scales [out, groups], numbers), 4 bits with a zero point for each group."""
    grouped = tensor.unflatten(-1, (-1, group))
    low, high = grouped.amin(-1, keepdim=True).clamp(max=0), grouped.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / 15).half()
    zero = (-low / scale.float()).round().clamp(1, 15)
    codes = (grouped / scale.float() + zero).round().clamp(0, 15)
    numbers = ((codes - zero) * scale.float()).flatten(-2)
    return codes.flatten(-2).to(torch.uint8), zero.squeeze(-1).to(torch.uint8), scale.squeeze(-1), numbers


def awq(tensor: Tensor) -> Stored:
    """AutoAWQ's `gemm` version: columns are outputs, eight in a word in an order of their own."""
    codes, zero, scale, numbers = _asymmetric(tensor, 32)
    nibbles = torch.tensor(AWQ_ORDER).argsort()

    def words(matrix: Tensor) -> Tensor:  # [n, out]
        return pack_words(matrix.unflatten(-1, (-1, 8))[..., nibbles].flatten(-2))

    return {"qweight": words(codes.t()), "qzeros": words(zero.t()), "scales": scale.t().contiguous()}, numbers


def gptq(tensor: Tensor) -> Stored:
    """GPTQ's first version, with inputs in an order of their own: zero points are stored less one."""
    order = torch.randperm(tensor.shape[1], generator=torch.Generator().manual_seed(1))
    codes, zero, scale, sorted_numbers = _asymmetric(tensor[:, order], 32)
    back = order.argsort()
    return {
        "qweight": pack_words(codes[:, back]).t().contiguous(),
        "qzeros": pack_words((zero - 1).t()),
        "scales": scale.t().contiguous(),
        "g_idx": (back // 32).int(),
    }, sorted_numbers[:, back]


def gptq_with_biases(tensor: Tensor) -> Stored:
    """As AutoGPTQ writes it: with a bias of zeros for matrices that have none."""
    arrays, numbers = gptq(tensor)
    return {**arrays, "bias": torch.zeros(len(tensor), dtype=torch.float16)}, numbers


def halves(dtype: torch.dtype) -> Callable[[Tensor], Stored]:
    """Half precision."""
    return lambda tensor: ({"weight": tensor.to(dtype)}, tensor.to(dtype).float())


INDEXED = LATENT | {"index_topk": 12, "index_n_heads": 16, "index_head_dim": 16}
SHARED = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48}
DELTA = r"model\.layers\..*([qkvo]_proj|in_proj_qkvz?|in_proj_z|out_proj|(gate|up|down)_proj)\.weight$"
LINEAR = r"model\.layers\..*(_proj|_mqa|experts.*)\.weight$"
EXPERTS = r"model\.layers\..*\.experts\.\d+\..*\.weight$"
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32}}},
}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}

Case = tuple[str, dict[str, Any], str, Callable[[Tensor], Stored], dict[str, Any]]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
CASES: dict[str, Case] = {
    "deepseek_v3-fp8": ("DeepseekV3", LATENT, LINEAR, fp8(16, e8m0=False), FP8 | {"weight_block_size": [16, 16]}),
    "deepseek_v3-fp8-ue8m0": ("DeepseekV3", LATENT, LINEAR, fp8(32, e8m0=True), FP8 | {"weight_block_size": [32, 32]}),
    "qwen3_moe-fp8": (
        "Qwen3Moe",
        MOE | {"num_experts": 6, "head_dim": 24},
        LINEAR,
        fp8(32, e8m0=False),
        FP8 | {"weight_block_size": [32, 32], "modules_to_not_convert": ["lm_head"]},
    ),
    "qwen3-fp8-128": ("Qwen3", SIZES | {"hidden_size": 160, "head_dim": 40}, LINEAR, fp8(128, e8m0=False), FP8),
    "qwen3-fp8-tensor": ("Qwen3", SIZES | {"head_dim": 40}, LINEAR, fp8_tensor("weight_scale_inv"), FP8),
    "qwen3_moe-fp8-tensor": (
        "Qwen3Moe",
        MOE | {"num_experts": 6, "head_dim": 24},
        LINEAR,
        fp8_tensor("weight_scale", 1),
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
    ),
    "deepseek_v32-fp8-ue8m0": ("DeepseekV32", INDEXED, LINEAR, fp8(16, e8m0=True), FP8 | {"weight_block_size": [16, 16]}),
    "qwen3_next-fp8": (
        "Qwen3Next",
        HYBRID | SHARED | {"vocab_size": 192},
        DELTA,
        fp8(16, e8m0=False),
        FP8 | {"weight_block_size": [16, 16]},
    ),
    "qwen3_5-fp8": ("Qwen3_5", HYBRID, DELTA, fp8(16, e8m0=False), FP8 | {"weight_block_size": [16, 16]}),
    "qwen3_5_moe-fp8": ("Qwen3_5Moe", HYBRID | SHARED, DELTA, fp8(16, e8m0=False), FP8 | {"weight_block_size": [16, 16]}),
    "qwen3_5-bf16": ("Qwen3_5", HYBRID, r".*\.weight$", halves(torch.bfloat16), {}),
    "kimi_k2-int4": ("DeepseekV3", LATENT, EXPERTS, int4, COMPRESSED),
    "kimi_k2-mxfp4": ("DeepseekV3", LATENT, EXPERTS, mxfp4, COMPRESSED | {"format": "mxfp4-pack-quantized"}),
    "qwen2-awq": ("Qwen2", SIZES, LINEAR, awq, AWQ),
    "qwen2-gptq": ("Qwen2", SIZES, LINEAR, gptq_with_biases, GPTQ),
    "qwen3-awq": ("Qwen3", SIZES | {"head_dim": 32}, LINEAR, awq, AWQ),
    "qwen3-gptq": ("Qwen3", SIZES | {"head_dim": 32}, LINEAR, gptq, GPTQ),
    "qwen3_moe-gptq": (
        "Qwen3Moe",
        MOE | {"num_experts": 6},
        LINEAR,
        gptq,
        GPTQ,
    ),
    "qwen2_moe-gptq": ("Qwen2Moe", MOE | {"num_experts": 6, "shared_expert_intermediate_size": 64}, LINEAR, gptq, GPTQ),
    "qwen3_5-gptq": ("Qwen3_5", HYBRID, r".*\.mlp\..*_proj\.weight$", gptq, GPTQ | {"dynamic": {"-:.*attn.*": {}}}),
    "qwen3_5_moe-gptq": ("Qwen3_5Moe", HYBRID | SHARED | {"shared_expert_intermediate_size": 64}, EXPERTS, gptq, GPTQ),
    "qwen3_5_moe-bf16": ("Qwen3_5Moe", HYBRID | SHARED, r".*\.weight$", halves(torch.bfloat16), {}),
    "qwen3_next-bf16": ("Qwen3Next", HYBRID | SHARED | {"vocab_size": 192}, r".*\.weight$", halves(torch.bfloat16), {}),
    "deepseek_v2-bf16": (
        "DeepseekV2",
        test_experts.CASES["deepseek_v2-lite"][1],
        r".*\.weight$",
        halves(torch.bfloat16),
        {},
    ),
    "kimi_linear-bf16": (
        "KimiLinear",
        test_experts.CASES["kimi_linear"][1],
        r".*\.weight$",
        halves(torch.bfloat16),
        {},
    ),
    "qwen3_moe-bf16": ("Qwen3Moe", MOE | {"num_experts": 6}, r".*\.weight$", halves(torch.bfloat16), {}),
    "llama-bf16": ("Llama", SIZES, r".*\.weight$", halves(torch.bfloat16), {}),
    "qwen2-bf16": ("Qwen2", SIZES, r".*\.weight$", halves(torch.bfloat16), {}),
    "qwen2_moe-bf16": ("Qwen2Moe", test_experts.CASES["qwen2_moe"][1], r".*\.weight$", halves(torch.bfloat16), {}),
    "qwen3-bf16": ("Qwen3", SIZES | {"head_dim": 32}, r".*\.weight$", halves(torch.bfloat16), {}),
    "deepseek_v3-bf16": (
        "DeepseekV3",
        test_experts.CASES["deepseek_v3-moonlight"][1],
        r".*\.weight$",
        halves(torch.bfloat16),
        {},
    ),
    "qwen2-fp16": ("Qwen2", SIZES | {"tie_word_embeddings": True}, r".*\.weight$", halves(torch.float16), {}),
}


def released(case: Case, folder: Path, *, model_type: str | None = None) -> torch.nn.Module:
    """Writes a checkpoint in its released form to `folder`; the model of transformers with the numbers it means."""
    family, options, pattern, store, quantization = case
    text = getattr(transformers, f"{family}TextConfig", None)
    config = (text or getattr(transformers, f"{family}Config"))(**options)
    model_class = getattr(transformers, f"{family}ForCausalLM")
    tiny.save(model_class, config, folder / "source")
    checkpoint = open_checkpoint(folder / "source")
    stored, plain = {}, {}
    for name in checkpoint.tensors:
        tensor = checkpoint.read(name)
        assert isinstance(tensor, Tensor)
        plain[name] = stored[name] = tensor
        if re.match(pattern, name):
            arrays, plain[name] = store(tensor)
            del stored[name]
            given = {f"{name.removesuffix('weight')}{ending}": array for ending, array in arrays.items()}
            stored |= {key: array for key, array in given.items() if key == name or key not in checkpoint.tensors}
    changed = dict(checkpoint.config)
    write_safetensors(folder / "twin", changed, plain)
    if quantization:
        changed["quantization_config"] = quantization
    if model_type:
        changed["model_type"] = model_type
    write_safetensors(folder, changed, stored)
    assert len(stored) > len(plain) or not quantization, "nothing was packed"
    return model_class.from_pretrained(folder / "twin", dtype=torch.float32).eval()


@pytest.mark.parametrize("name", CASES)
def test_a_released_format_is_its_numbers(name: str, tmp_path: Path) -> None:
    model = released(CASES[name], tmp_path, model_type="kimi_k2" if name.startswith("kimi_k2") else None)
    case = checks.case_from_transformers(model, tmp_path, 33)
    checks.check_logits(case)
    checks.check_steps(case)


GGUF_CASES = {
    "llama": ("Llama", SIZES, "f16"),
    "qwen2": ("Qwen2", SIZES | {"tie_word_embeddings": True}, "q8_0"),
    "qwen3": ("Qwen3", SIZES | {"head_dim": 32}, "q4_0"),
    "qwen2_moe": ("Qwen2Moe", MOE | {"num_experts": 6, "shared_expert_intermediate_size": 64, "norm_topk_prob": False}, "q8_0"),
    "qwen3_moe": ("Qwen3Moe", MOE | {"num_experts": 6, "head_dim": 32}, "q8_0"),
}


def in_gguf(tensor: Tensor, format: str) -> tuple[Tensor | Packed, Tensor]:
    """(what the file holds, the numbers it means)."""
    if tensor.ndim < 2 or tensor.shape[-1] % 32:
        return tensor, tensor
    if format == "f16":
        return tensor.half(), tensor.half().float()
    packed = pack(tensor, format)
    return packed, expand(packed)


@pytest.mark.parametrize("name", GGUF_CASES)
def test_a_gguf_file_is_its_numbers(name: str, tmp_path: Path) -> None:
    family, options, format = GGUF_CASES[name]
    config = getattr(transformers, f"{family}Config")(**options)
    model = tiny.save(getattr(transformers, f"{family}ForCausalLM"), config, tmp_path)
    written: dict[str, Tensor | Packed] = {}
    with torch.no_grad():
        for key, value in model.state_dict().items():
            written[key], numbers = in_gguf(value, format)
            value.copy_(numbers)
    for key in [key for key in written if ".experts." in key]:
        stem, kind = key.rsplit(".", 1)
        value = model.state_dict()[key]
        parts = {"gate_proj": value.chunk(2, 1)[0], "up_proj": value.chunk(2, 1)[1]} if "gate" in kind else {kind: value}
        del written[key]
        written |= {f"{stem}.{part}.weight": in_gguf(matrix, format)[0] for part, matrix in parts.items()}
    values = config.to_dict()
    file = tmp_path / "m.gguf"
    export_gguf(file, values | {"rope_theta": values["rope_parameters"]["rope_theta"]}, written, {})
    checks.check_logits(checks.case_from_transformers(model, file, 33))


@pytest.mark.parametrize("family", ["qwen2_moe", "qwen3_moe"])
def test_a_value_that_gguf_does_not_keep_is_refused(family: str, tmp_path: Path) -> None:
    config = {"model_type": family, "norm_topk_prob": family == "qwen2_moe"}
    with pytest.raises(Unsupported, match=r"norm_topk_prob = (True|False) has no place in GGUF.s qwen\dmoe"):
        export_gguf(tmp_path / "m.gguf", config, {}, {})


DEEPSEEK2: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # (family of transformers, its options, the file's numbers that differ from those of DeepSeek-V3)
    "v3": ("DeepseekV3", {}, {}),
    "v2": (
        "DeepseekV2",
        {"routed_scaling_factor": 2.0, "topk_method": "group_limited_greedy", "norm_topk_prob": False},
        {"expert_weights_scale": 2.0, "expert_weights_norm": False, "expert_gating_func": 1},
    ),
    "v2-lite": (
        "DeepseekV2",
        {"routed_scaling_factor": 1.0, "topk_method": "greedy", "norm_topk_prob": False, "q_lora_rank": None}
        | {"n_group": 1, "topk_group": 1},
        {"expert_weights_scale": 1.0, "expert_weights_norm": False, "expert_gating_func": 1, "attention.q_lora_rank": None}
        | {"expert_group_count": None, "expert_group_used_count": None},
    ),
}


@pytest.mark.parametrize("version", DEEPSEEK2)
def test_deepseek2_gguf(version: str, tmp_path: Path) -> None:
    """llama.cpp's form of latent attention: the heads' two matrices stand apart, the keys' transposed."""
    family, changed, numbers_changed = DEEPSEEK2[version]
    options = LATENT | {"num_hidden_layers": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}} | changed
    config = getattr(transformers, f"{family}Config")(**options)
    model = tiny.save(getattr(transformers, f"{family}ForCausalLM"), config, tmp_path)
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_a_proj": "attn_q_a",
        "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b", "self_attn.q_proj": "attn_q",
        "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "mlp.gate": "ffn_gate_inp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
        "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp",
    }  # fmt: skip
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    tensors: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        module, _, kind = key.rpartition(".")
        if module in top:
            tensors[f"{top[module]}.{kind}"] = value
            continue
        _, _, layer, inner = key.split(".", 3)
        stem, module = f"blk.{layer}", inner.rpartition(".")[0]
        if module in names and kind == "weight":
            tensors[f"{stem}.{names[module]}.weight"] = value
        elif inner == "self_attn.kv_b_proj.weight":
            k, v = value.view(4, 40, 32).split([16, 24], 1)
            tensors |= {f"{stem}.attn_k_b.weight": k.transpose(1, 2).contiguous(), f"{stem}.attn_v_b.weight": v.contiguous()}
        elif inner == "mlp.experts.gate_up_proj":
            gate, up = value.chunk(2, 1)
            tensors |= {f"{stem}.ffn_gate_exps.weight": gate.contiguous(), f"{stem}.ffn_up_exps.weight": up.contiguous()}
        elif inner == "mlp.experts.down_proj":
            tensors[f"{stem}.ffn_down_exps.weight"] = value
        else:
            assert inner == "mlp.gate.e_score_correction_bias", inner
            tensors[f"{stem}.exp_probs_b.bias"] = value
    numbers = {
        "block_count": 2, "context_length": 256, "embedding_length": 64, "feed_forward_length": 96,
        "attention.head_count": 4, "attention.head_count_kv": 1, "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0, "rope.dimension_count": 8, "attention.q_lora_rank": 40, "attention.kv_lora_rank": 32,
        "attention.key_length": 40, "attention.value_length": 32, "attention.key_length_mla": 24,
        "attention.value_length_mla": 24, "leading_dense_block_count": 1, "expert_count": 8, "expert_used_count": 3,
        "expert_shared_count": 1, "expert_feed_forward_length": 32, "expert_weights_scale": 2.5,
        "expert_weights_norm": True, "expert_gating_func": 2, "expert_group_count": 2, "expert_group_used_count": 1,
        "vocab_size": 160,
    }  # fmt: skip
    numbers = {key: value for key, value in (numbers | numbers_changed).items() if value is not None}
    metadata = {"general.architecture": "deepseek2"} | {f"deepseek2.{key}": value for key, value in numbers.items()}
    write_gguf(tmp_path / "m.gguf", metadata, tensors)
    checks.check_logits(checks.case_from_transformers(model, tmp_path / "m.gguf", 33))


def test_transformers_reads_one_scale_for_a_matrix_alike(tmp_path: Path) -> None:
    """Its own reader of FP8 checkpoints on the very files."""
    released(CASES["qwen3-fp8-tensor"], tmp_path)
    how = transformers.FineGrainedFP8Config(weight_block_size=None, dequantize=True)
    model = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path, quantization_config=how, dtype=torch.float32).eval()
    checks.check_logits(checks.case_from_transformers(model, tmp_path, 33))


@pytest.mark.parametrize(("inner", "packed"), [(64, True), (40, False)])
def test_experts_stay_packed_where_their_rows_make_a_stack(
    inner: int, packed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In blocks of 32, the last scale of a gate of 40 rows covers 8 of them: in the stack of gate and up it would cover 32."""
    case = CASES["qwen3_moe-fp8"]
    twin = released((case[0], case[1] | {"moe_intermediate_size": inner}, *case[2:]), tmp_path)
    stack, _ = open_stack(tiny.REFERENCE)
    experts.say_expanded.cache_clear()
    caplog.set_level("INFO", logger="parity")
    model = load_model(open_checkpoint(tmp_path), replace(stack, formats=frozenset({"fp8_block"})), torch.float32)
    layers = [layer for layer in model.modules() if isinstance(layer, experts.Experts)]
    kinds = {type(one.value) for layer in layers for one in (layer.gate_up, layer.down)}
    assert kinds == ({Packed} if packed else {Packed, Tensor})
    assert ("such experts are expanded while loading" in caplog.text) is not packed
    assert ("fp8_block weights are expanded to float32 on cpu:reference, whose kernels" in caplog.text) is not packed
    checks.check_logits(checks.case_from_transformers(twin, tmp_path, 33))


def test_experts_of_several_formats_are_refused() -> None:
    stacked = experts.Stacked(2, 32, 32)

    def place(weight: Weight, *, plain: bool = False) -> Weight:
        return weight

    stacked.part(0, 0)(torch.zeros(32, 32), place)
    with pytest.raises(Unsupported, match="in different formats: bfloat16 and float32"):
        stacked.part(1, 0)(torch.zeros(32, 32, dtype=torch.bfloat16), place)
    with pytest.raises(Unsupported, match="in different formats: q8_0 and float32"):
        stacked.part(1, 0)(pack(torch.zeros(32, 32), "q8_0"), place)


def test_a_bias_that_has_no_place_must_be_zero(tmp_path: Path) -> None:
    family, sizes, pattern, _, quantization = CASES["qwen2-gptq"]

    def biased(tensor: Tensor) -> Stored:
        arrays, numbers = gptq(tensor)
        return {**arrays, "bias": torch.full((len(tensor),), 0.5)}, numbers

    released((family, sizes, pattern, biased, quantization), tmp_path)
    with pytest.raises(WeightError, match=r"layers\.0\.\S+_proj\.bias in \S+ is not zero and has no place"):
        tiny.open_engine(tmp_path)


def test_what_is_packed_otherwise_is_refused_by_name(tmp_path: Path) -> None:
    case = CASES["qwen2-awq"]
    released((*case[:4], case[4] | {"bits": 8}), tmp_path)
    with pytest.raises(Unsupported, match="8 bits"):
        tiny.open_engine(tmp_path)


def test_a_shape_that_differs_is_named_before_anything_is_allocated(tmp_path: Path) -> None:
    released(CASES["deepseek_v3-fp8"], tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    wrong = dict(checkpoint.config) | {"moe_intermediate_size": 10**9}  # petabytes, if it came to that
    (tmp_path / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(
        WeightError, match=r"experts\.\d\.\w+_proj\.weight has shape \[\d+, \d+\], the model wants \[\d+, \d+\]"
    ):
        tiny.open_engine(tmp_path)


class Allocations(TorchDispatchMode):
    """Counts the bytes of tensors that operators make: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in given:
                self._made(leaf.untyped_storage())
        return result

    def _made(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.now -= size


@pytest.mark.parametrize("stack_name", [tiny.REFERENCE, "cpu"])
@pytest.mark.parametrize("name", ["qwen3_moe-fp8", "qwen3_moe-gptq", "kimi_k2-int4", "plain"])
def test_loading_holds_the_model_and_a_matrix_at_most(name: str, stack_name: str, tmp_path: Path) -> None:
    """No second copy of a layer's experts, whether they are kept, put in the kernels' order, or expanded."""
    case = CASES.get(name, CASES["qwen3_moe-fp8"])
    many = {"num_hidden_layers": 3, "num_experts": 24, "n_routed_experts": 24}
    released((case[0], case[1] | {key: many[key] for key in many if key in case[1]}, *case[2:]), tmp_path)
    stack, _ = open_stack(stack_name)
    checkpoint = open_checkpoint(tmp_path / "twin" if name == "plain" else tmp_path)
    with Allocations() as allocations:
        model = load_model(checkpoint, stack, torch.float32)
    assert allocations.now > 0
    largest = max(4 * math.prod(info.shape) for info in checkpoint.tensors.values() if len(info.shape) == 2)
    layer = sum(4 * math.prod(info.shape) for info in checkpoint.tensors.values() if ".2.mlp.experts." in info.name)
    assert 4 * largest < layer / 3, "sizes that show nothing"
    assert allocations.peak < allocations.now + 4 * largest, (allocations.peak, allocations.now, largest)
    del model
