"""Kimi K3's GGUF files compute what its safetensors files do, which are compared with mlx-lm elsewhere."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from parity.core.weights import Packed
from parity.hub import write_gguf

from . import checks, test_kimi_k3, tiny
from .gguf_layout import BLOCK, EXPERT_NUMBERS, KIMI, LATENT_NUMBERS, Tensors, gguf_name, kimi_changes, stacked

K3_NUMBERS = {
    **LATENT_NUMBERS,
    **EXPERT_NUMBERS,
    "block_count": 7,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "context_length": 512,
    "vocab_size": 160,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.head_count_kv": [0, 0, 0, 1, 0, 1, 1],
    "attention.q_lora_rank": 40,
    "kda.head_dim": 16,
    "kda.gate_lower_bound": -5.0,
    "ssm.conv_kernel": 4,
    "leading_dense_block_count": 1,
    "expert_weights_scale": 1.5,
    "expert_latent_length": 32,
    "activation.situ_beta": 4.0,
    "activation.situ_linear_beta": 25.0,
    "attn_res.block_size": 3,
}


def k3_changes(tensors: Tensors) -> Tensors:
    """As Kimi Linear; of a residual's norm and projection only the product is kept."""
    out: Tensors = {}
    for name, value in kimi_changes({name.removeprefix("language_model."): value for name, value in tensors.items()}).items():
        if name.endswith("_res_norm.weight"):
            continue
        if name.endswith("_res_proj.weight"):
            norm = tensors["language_model." + name.replace("_res_proj", "_res_norm")]
            out[name] = norm * value.reshape(-1)
        elif name.endswith("A_log"):
            out[name] = value.flatten()[:4]
        else:
            out[name] = value
    return out


def write_k3(folder: Path, file: Path) -> None:
    linear = test_kimi_k3.TEXT["linear_attn_config"] | {"num_heads": 4}
    tensors = test_kimi_k3.save(folder, test_kimi_k3.config_of(linear_attn_config=linear))
    latent = {"down_proj": "ffn_routed_down", "up_proj": "ffn_routed_up", "norm": "ffn_routed_norm"}
    places = {
        **BLOCK,
        **KIMI,
        **{f"mlp.routed_expert_{ours}": theirs for ours, theirs in latent.items()},
        "self_attention_res_proj": "attn_res_score",
        "mlp_res_proj": "ffn_res_score",
    }
    full = {3, 5, 6}
    written: dict[str, Tensor | Packed] = {}
    for name, value in k3_changes(stacked(tensors)).items():
        if name.endswith("self_attn.g_proj.weight"):
            layer = int(name.split(".")[2])
            key = f"blk.{layer}.{'attn_gate' if layer in full else 'ssm_g'}.weight"
        else:
            key = "output_res_score.weight" if "output_attn_res" in name else gguf_name(name, places)
        written[key] = value.contiguous()
    metadata = {f"kimi-k3.{key}": value for key, value in K3_NUMBERS.items()}
    write_gguf(file, {"general.architecture": "kimi-k3", "tokenizer.ggml.model": "none"} | metadata, written)


def test_kimi_k3_is_its_numbers(tmp_path: Path) -> None:
    write_k3(tmp_path / "source", tmp_path / "m.gguf")
    tokens = tiny.prompt(45, 160)
    expected = tiny.logits(tiny.open_engine(tmp_path / "source"), tokens)
    assert tiny.relative_error(tiny.logits(tiny.open_engine(tmp_path / "m.gguf"), tokens), expected) < checks.TOLERANCE
