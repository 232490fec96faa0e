"""Checkpoints from folders and from GGUF, against transformers."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from parity.core.errors import ConfigError, FormatError, ModelNotFound, Unsupported
from parity.core.weights import Packed
from parity.formats import expand, pack
from parity.hub import export_gguf, open_checkpoint, write_gguf, write_safetensors
from parity.hub.gguf_checkpoint import gguf_name, hugging_face_name
from parity.hub.gguf_config import generation_config
from parity.hub.gguf_layouts import LAYOUTS
from parity.text.tokenizer import load_tokenizer

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GPTQ = {"qweight": (8, 8), "qzeros": (1, 1), "scales": (1, 8), "g_idx": (8,)}
VOCABULARY = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [f"t{i}" for i in range(94)] + ["<|endoftext|>", "<|im_end|>"],
    "tokenizer.ggml.token_type": [1] * 94 + [3, 3],
    "tokenizer.ggml.eos_token_id": 95,
}


def tiny(config: Any, seed: int = 0) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A random model of transformers': its config and weights."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    state = {name: torch.randn_like(tensor) / 8 for name, tensor in model.state_dict().items()}
    return config.to_dict(), state


@pytest.mark.parametrize(
    "config",
    [
        transformers.LlamaConfig(**SMALL),
        transformers.Qwen2Config(**SMALL),
        transformers.Qwen3Config(**SMALL, head_dim=128),  # the only one that transformers reads from GGUF
    ],
    ids=lambda config: config.model_type,
)
def test_gguf_equals_transformers_reading(tmp_path: Path, config: Any) -> None:
    """Our file means the same to transformers as to us: names, row order and config."""
    values, state = tiny(config)
    values |= {"rope_theta": values["rope_parameters"]["rope_theta"]}
    path = tmp_path / "m.gguf"
    matrices = {name: pack(w, "q8_0") if w.dim() == 2 and "embed" not in name else w for name, w in state.items()}
    export_gguf(path, values, matrices, VOCABULARY)
    checkpoint = open_checkpoint(path)
    for name, tensor in state.items():
        read = checkpoint.read(name)
        packed = isinstance(matrices[name], Packed)
        assert isinstance(read, Packed) == packed
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        assert checkpoint.tensors[name].format == ("q8_0" if packed else "float32")
        assert torch.equal(expand(read), expand(matrices[name]))
    assert checkpoint.tensors.keys() == state.keys()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, expand(checkpoint.read(name))), name
    for key in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings"):
        assert checkpoint.config[key] == pytest.approx(getattr(theirs.config, key), rel=1e-6)
    assert checkpoint.config["model_type"] == config.model_type
    assert checkpoint.config["vocab_size"] == 96
    assert checkpoint.config["tie_word_embeddings"] is False
    assert checkpoint.generation_config["eos_token_id"] == [95, 94]
    assert checkpoint.text_source["tokenizer.ggml.tokens"][95] == "<|im_end|>"  # type: ignore[index]


def test_a_gguf_file_tells_the_hub_and_the_tokenizer_of_the_same_ends(tmp_path: Path) -> None:
    texts = ("[EOT]", "<|end_of_msg|>", "<|eom_id|>", "<|end_of_text|>")
    words = [f"t{i}" for i in range(90)]
    metadata = VOCABULARY | {
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.tokens": [*words, *texts, "<|im_start|>", "<|im_end|>"],
        "tokenizer.ggml.token_type": [1] * 90 + [3] * 6,
        "tokenizer.ggml.eom_token_id": 7,
    }
    assert generation_config(metadata)["eos_token_id"] == [95, 7, 90, 91, 92, 93]
    assert load_tokenizer(metadata).eos_token_ids == (95, 7, 90, 91, 92, 93)


def test_a_tensor_that_gguf_has_no_name_for_is_refused(tmp_path: Path) -> None:
    values, state = tiny(transformers.Qwen2Config(**SMALL))
    for name in ("layers.0.input_layernorm.weight", "model.layers.0.mlp.other.weight"):
        with pytest.raises(Unsupported, match=rf"no name for {name}"):
            export_gguf(tmp_path / "m.gguf", values, state | {name: torch.ones(64)}, VOCABULARY)


def test_tied_gguf(tmp_path: Path) -> None:
    values, state = tiny(transformers.Qwen2Config(**SMALL | {"tie_word_embeddings": True}))
    export_gguf(tmp_path / "m.gguf", values, state, VOCABULARY)
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert checkpoint.config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in checkpoint.tensors


def test_experts_come_stacked(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    experts = torch.randn(4, 32, 64, generator=generator)
    config = {**SMALL, **EXPERTS, "model_type": "qwen2_moe", "shared_expert_intermediate_size": 48}
    stem = "model.layers.0.mlp"
    tensors = {
        "model.embed_tokens.weight": torch.randn(96, 64, generator=generator),
        f"{stem}.experts.gate_proj.weight": pack(experts, "q4_0"),
        f"{stem}.shared_expert_gate.weight": torch.randn(1, 64, generator=generator),
        f"{stem}.gate.weight": torch.randn(4, 64, generator=generator),
    }
    export_gguf(tmp_path / "m.gguf", config, tensors, {})
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        assert torch.equal(expand(checkpoint.read(name)), expand(tensor))
    expected = {key: config[key] for key in (*EXPERTS, "shared_expert_intermediate_size")}
    assert expected.items() <= checkpoint.config.items()
    assert checkpoint.config["norm_topk_prob"] is False


def deepseek_metadata(**more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "block_count": 2,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "context_length": 4096,
        "attention.head_count": 4,
        "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.q_lora_rank": 24,
        "attention.kv_lora_rank": 32,
        "attention.key_length": 40,
        "attention.value_length": 32,
        "attention.key_length_mla": 24,
        "attention.value_length_mla": 16,
        "rope.dimension_count": 8,
        "rope.freq_base": 10000.0,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 40.0,
        "rope.scaling.original_context_length": 4096,
        "rope.scaling.yarn_log_multiplier": 0.1,
        "leading_dense_block_count": 1,
        "expert_count": 8,
        "expert_used_count": 2,
        "expert_shared_count": 1,
        "expert_feed_forward_length": 32,
        "expert_weights_scale": 2.5,
        "expert_weights_norm": True,
        "expert_gating_func": 2,
    }
    return {"general.architecture": "deepseek2"} | {f"deepseek2.{key}": value for key, value in (values | more).items()}


def test_latent_attention_from_gguf(tmp_path: Path) -> None:
    """kv_b_proj, split and transposed in the file, is put together again."""
    generator = torch.Generator().manual_seed(0)
    kv_b = torch.randn(4 * (16 + 16), 32, generator=generator)
    per_head = kv_b.reshape(4, 32, 32)
    tensors: dict[str, torch.Tensor | Packed] = {
        "token_embd.weight": torch.randn(96, 64, generator=generator),
        "blk.1.attn_k_b.weight": per_head[:, :16].transpose(1, 2).contiguous(),
        "blk.1.attn_v_b.weight": per_head[:, 16:].contiguous(),
        "blk.1.exp_probs_b.bias": torch.arange(8.0),
    }
    write_gguf(tmp_path / "m.gguf", deepseek_metadata(), tensors)
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    name = "model.layers.1.self_attn.kv_b_proj.weight"
    assert checkpoint.tensors[name].shape == (128, 32)
    assert torch.equal(expand(checkpoint.read(name)), kv_b)
    assert expand(checkpoint.read("model.layers.1.mlp.gate.e_score_correction_bias")).tolist() == list(range(8))
    config = checkpoint.config
    assert config["model_type"] == "deepseek_v3"
    assert (config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]) == (16, 8, 16)
    assert config["num_key_value_heads"] == 4
    assert config["rope_scaling"]["mscale_all_dim"] == pytest.approx(1.0)
    assert (config["n_group"], config["topk_group"]) == (1, 1)
    write_gguf(tmp_path / "v2.gguf", deepseek_metadata(expert_gating_func=1), tensors)
    assert open_checkpoint(tmp_path / "v2.gguf").config["model_type"] == "deepseek_v2"
    write_gguf(tmp_path / "v3.gguf", deepseek_metadata(expert_count=256), tensors)
    assert open_checkpoint(tmp_path / "v3.gguf").config["n_group"] == 8


def test_llama3_rope_is_recognised_or_refused(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        **SMALL,
        rope_theta=500000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    scaled = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]
    plain = 500000.0 ** -(torch.arange(0, 16, 2) / 16)
    values, state = tiny(config)
    values |= {"rope_theta": 500000.0, "rope_scaling": None}
    export_gguf(tmp_path / "m.gguf", values, {**state, "rope_freqs.weight": plain / scaled}, VOCABULARY)
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert checkpoint.config["rope_scaling"]["factor"] == 8.0
    assert checkpoint.config["rope_scaling"]["rope_type"] == "llama3"
    assert "rope_freqs.weight" not in checkpoint.tensors
    export_gguf(tmp_path / "m.gguf", values, {**state, "rope_freqs.weight": torch.linspace(1, 3, 8)}, VOCABULARY)
    with pytest.raises(Unsupported, match="rope_freqs"):
        open_checkpoint(tmp_path / "m.gguf")


def test_names_translate_both_ways() -> None:
    for layout in LAYOUTS.values():
        names = [f"blk.17.{module}.{kind}" for module in layout.layer for kind in ("weight", "bias")]
        for name in [*names, *(f"blk.17.{whole}" for whole in layout.whole)]:
            theirs = hugging_face_name(name, layout)
            assert theirs.startswith("model.layers.17.")
            back = gguf_name(theirs, layout)  # Kimi K3 has two names for one, by the kind of layer
            assert back == name or hugging_face_name(back, layout) == theirs


def test_folder(tmp_path: Path) -> None:
    values, state = tiny(transformers.Qwen3Config(**SMALL, head_dim=32))
    write_safetensors(tmp_path, values, state, shard_bytes=50_000)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6}')
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config["model_type"] == "qwen3"
    assert checkpoint.generation_config == {"temperature": 0.6}
    assert checkpoint.text_source == tmp_path
    assert checkpoint.tensors.keys() == state.keys()
    assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in state.items())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.state_dict().items())


def folder(path: Path, tensors: dict[str, torch.Tensor], **quantization: Any) -> Any:
    write_safetensors(path, {"model_type": "x", "quantization_config": quantization}, tensors)
    return open_checkpoint(path)


def test_folded_formats(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(200, 256, generator=generator)
    fp8 = pack(matrix, "fp8_block")
    data, scale = fp8.arrays["data"], fp8.arrays["scale"]
    read = folder(
        tmp_path / "fp8",
        {"a.weight": data, "a.weight_scale_inv": scale, "b.scale": torch.ones(3), "b.weight": torch.ones(3)},
        quant_method="fp8",
        weight_block_size=[128, 128],
    )
    assert read.tensors.keys() == {"a.weight", "b.weight", "b.scale"}
    assert read.tensors["a.weight"].format == "fp8_block"
    assert read.tensors["a.weight"].nbytes == data.nbytes + scale.nbytes
    assert torch.equal(expand(read.read("a.weight")), expand(fp8))

    small = pack(matrix, "fp8_block", block_rows=32, block_columns=32, e8m0=1)
    fp4 = pack(matrix, "mxfp4")
    read = folder(
        tmp_path / "v4",
        {
            "a.weight": small.arrays["data"],
            "a.scale": small.arrays["scale"],
            "e.weight": fp4.arrays["data"].view(torch.int8),
            "e.scale": fp4.arrays["scale"].view(torch.float8_e8m0fnu),
        },
        quant_method="fp8",
        weight_block_size=[32, 32],
    )
    assert torch.equal(expand(read.read("a.weight")), expand(small))
    assert read.tensors["e.weight"].format == "mxfp4"
    assert torch.equal(expand(read.read("e.weight")), expand(fp4))

    int4 = pack(matrix, "int4_group", group_size=32)
    tensors = {
        "a.weight_packed": int4.arrays["data"],
        "a.weight_scale": int4.arrays["scale"],
        "a.weight_shape": torch.tensor([200, 256]),
        "m.weight_packed": fp4.arrays["data"],
        "m.weight_scale": fp4.arrays["scale"],
    }
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32}
    groups = {"group_0": {"weights": weights}}
    read = folder(tmp_path / "ct", tensors, quant_method="compressed-tensors", config_groups=groups)
    assert read.tensors.keys() == {"a.weight", "m.weight"}
    assert torch.equal(expand(read.read("a.weight")), expand(int4))
    assert torch.equal(expand(read.read("m.weight")), expand(fp4))

    rows8 = pack(matrix, "int8_group", group_size=256)
    per_row = {"a.weight": rows8.arrays["data"], "a.weight_scale": rows8.arrays["scale"]}
    read = folder(tmp_path / "w8", per_row, quant_method="compressed-tensors")
    assert torch.equal(expand(read.read("a.weight")), expand(rows8))


def test_awq_and_gptq_are_told_apart(tmp_path: Path) -> None:
    words = torch.zeros(64, 4, dtype=torch.int32)
    awq = {"a.qweight": words, "a.qzeros": torch.zeros(2, 4, dtype=torch.int32), "a.scales": torch.ones(2, 32).half()}
    read = folder(tmp_path / "awq", awq, quant_method="awq", bits=4, version="gemm")
    assert read.tensors["a.weight"].shape == (32, 64)
    assert read.tensors["a.weight"].format == "awq"
    gptq = {
        "a.qweight": torch.zeros(8, 32, dtype=torch.int32),
        "a.qzeros": torch.zeros(2, 4, dtype=torch.int32),
        "a.scales": torch.ones(2, 32).half(),
        "a.g_idx": torch.arange(64, dtype=torch.int32) // 32,
    }
    read = folder(tmp_path / "gptq", gptq, quant_method="gptq", bits=4)
    assert read.tensors["a.weight"].shape == (32, 64)
    assert torch.equal(expand(read.read("a.weight")), torch.full((32, 64), -1.0))


@pytest.mark.parametrize(
    ("quantization", "tensors", "error", "text"),
    [
        ({"quant_method": "bitsandbytes"}, {}, Unsupported, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 3}, GPTQ, Unsupported, "3 bits"),
        ({"quant_method": "awq"}, {"qweight": (60, 4), "qzeros": (7, 4), "scales": (7, 32)}, FormatError, "scales"),
        ({"quant_method": "gptq", "bits": "few"}, GPTQ, FormatError, "a.qweight and quantization_config do not fit"),
        (
            {"quant_method": "gptq"},
            {"qweight": (8, 16), "qzeros": (0, 2), "scales": (0, 16), "g_idx": (64,)},
            FormatError,
            "a.qweight and quantization_config do not fit",
        ),
    ],
)
def test_refused_quantisation(tmp_path: Path, quantization: Any, tensors: Any, error: Any, text: str) -> None:
    arrays = {f"a.{kind}": torch.zeros(shape, dtype=torch.int32) for kind, shape in tensors.items()}
    with pytest.raises(error, match=text):
        folder(tmp_path, {**arrays, "x": torch.ones(1)}, **quantization)


@pytest.mark.parametrize(
    ("data", "block"),
    [
        (torch.zeros((), dtype=torch.int8), None),
        (torch.zeros(4, dtype=torch.int8), None),
        (torch.zeros(4, 4).to(torch.float8_e4m3fn), "x"),
        (torch.zeros(4, 4).to(torch.float8_e4m3fn), [0, 4]),
        (torch.zeros(4, 4).to(torch.float8_e4m3fn), 4),
    ],
)
def test_bytes_whose_scales_make_no_sense(tmp_path: Path, data: torch.Tensor, block: Any) -> None:
    arrays = {"a.weight": data, "a.weight_scale": torch.ones(data.shape[:1] * 2)}
    with pytest.raises(FormatError, match=r"a\.weight"):
        folder(tmp_path, arrays, quant_method="fp8", weight_block_size=block)


def _resident(path: Path) -> int:
    """KiB of a file that this process has mapped and holds in memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    kib, inside = 0, False
    for line in lines:
        if not line[0].isupper():  # where a mapping begins: its addresses in small letters
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            kib += int(line.split()[1])
    return kib


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say what is resident")
@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_memory_is_given_back(tmp_path: Path, kind: str) -> None:
    name, weight = "model.embed_tokens.weight", torch.randn(96, 640)
    if kind == "gguf":
        path = file = tmp_path / "m.gguf"
        export_gguf(path, {**SMALL, "model_type": "qwen2", "hidden_size": 640}, {name: weight}, VOCABULARY)
    else:
        path, file = tmp_path, tmp_path / "model.safetensors"
        write_safetensors(path, {"model_type": "qwen2"}, {name: weight})
    checkpoint = open_checkpoint(path)
    read = checkpoint.read(name)
    assert isinstance(read, torch.Tensor)
    assert torch.equal(read, weight)
    whole = _resident(file)
    assert whole >= 4 * 96 * 640 // 1024
    checkpoint.release(name)
    assert _resident(file) < whole - 200
    assert torch.equal(read, weight)
    checkpoint.release()
    assert _resident(file) <= 4  # the last page may be there in part
    assert torch.equal(read, weight)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nothing"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(Unsupported, match="pickle"):
        open_checkpoint(tmp_path / "model.pt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="model_type"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FormatError, match="JSON"):
        open_checkpoint(tmp_path)
    write_gguf(tmp_path / "x.gguf", {"general.architecture": "mamba"}, {})
    with pytest.raises(Unsupported, match="mamba"):
        open_checkpoint(tmp_path / "x.gguf")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    (tmp_path / "x.gguf").chmod(0)
    with pytest.raises(ModelNotFound, match="may not be read"):
        open_checkpoint(tmp_path / "x.gguf")


@pytest.mark.skipif("PARITY_TEST_GGUF" not in os.environ, reason="PARITY_TEST_GGUF names no file")
def test_default_model() -> None:
    checkpoint = open_checkpoint(os.environ["PARITY_TEST_GGUF"])
    assert len(checkpoint.tensors) == 291
    assert {info.format for info in checkpoint.tensors.values()} == {"q5_0", "q8_0", "q6_k", "q4_k", "float32"}
    assert json.dumps(checkpoint.config)
    assert set(checkpoint.generation_config["eos_token_id"]) == {151643, 151645}
