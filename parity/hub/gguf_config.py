"""A Hugging Face config from GGUF metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from parity.core.ends import end_tokens
from parity.core.errors import FormatError, Unsupported

from .gguf_layouts import LAYOUTS
from .gguf_names import SCALING, Layout

# Llama 3.1 and its kin; GGUF keeps only the frequencies' factors that these numbers give.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SIGMOID, SQRT_SOFTPLUS = 2, 4
REAL = frozenset(
    """rms_norm_eps rope_theta routed_scaling_factor compress_rope_theta hc_eps swiglu_limit activation_situ_beta
    activation_situ_linear_beta""".split()
)
REQUIRED = frozenset(
    """hidden_size num_hidden_layers num_attention_heads kv_lora_rank qk_rope_head_dim partial_rotary_factor
    linear_conv_kernel_dim linear_key_head_dim linear_num_key_heads linear_num_value_heads linear_value_head_dim""".split()
)
POSITIVE = REQUIRED | {"num_key_value_heads", "head_dim"}
RELEASED_GROUPS = {256: (8, 4), 160: (8, 3)}
"""Router groups by number of experts, of DeepSeek-V3 and V2: files made before llama.cpp knew of groups do not say."""

SAMPLING: Mapping[str, str] = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
"""Sampling defaults: generation_config.json's names to GGUF's, after `general.sampling.`."""


def layout_of(metadata: Mapping[str, Any], where: str) -> Layout:
    """The architecture's layout.

    Raises:
        FormatError: the file names none.
        Unsupported: it is one that Parity does not read.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise FormatError(f"{where} names no architecture")
    if architecture not in LAYOUTS:
        raise Unsupported(f"{where}: GGUF architecture {architecture!r} is not read; Parity reads {', '.join(LAYOUTS)}")
    return LAYOUTS[architecture]


def hugging_face_config(
    metadata: Mapping[str, Any], vocab_size: int, tied: bool, rope_factors: torch.Tensor | None, where: str
) -> dict[str, Any]:
    """The config that the metadata stands for.

    Args:
        vocab_size: rows of the embedding.
        tied: whether the file has no output matrix.
        rope_factors: the divisors of the rotation frequencies, if the file has them.

    Raises:
        FormatError, Unsupported: something is missing, or is not computed.
    """
    try:
        config = _config(metadata, vocab_size, tied, where)
        if rope_factors is not None:
            config["rope_scaling"] = _llama3(config, rope_factors, where)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise FormatError(f"{where}: its metadata do not fit together ({type(error).__name__}: {error})") from None
    return config


def _config(metadata: Mapping[str, Any], vocab_size: int, tied: bool, where: str) -> dict[str, Any]:
    layout = layout_of(metadata, where)
    prefix = metadata["general.architecture"] + "."
    config: dict[str, Any] = {"model_type": layout.model_type}
    for key, source in layout.numbers.items():
        if prefix + source in metadata:
            config[key] = _number(key, _plain(metadata[prefix + source], where, source), where)
        elif key in REQUIRED:
            raise FormatError(f"{where} lacks the metadata {prefix}{source}")
    drafts = int(metadata.get(prefix + "nextn_predict_layers", 0))
    config["num_hidden_layers"] -= drafts
    if drafts:
        config["mtp_num_hidden_layers" if layout.draft else "num_nextn_predict_layers"] = drafts
    config |= {"vocab_size": vocab_size, "tie_word_embeddings": tied, **layout.constants}
    for key, source in (("bos_token_id", "bos"), ("eos_token_id", "eos")):
        if f"tokenizer.ggml.{source}_token_id" in metadata:
            config[key] = int(metadata[f"tokenizer.ggml.{source}_token_id"])
    if layout.kind == "latent":
        _latent(config, metadata, prefix)
    if layout.kind == "kimi":
        _kimi(config, metadata, prefix)
    if layout.kind == "compressed":
        config["compress_ratios"] = _list(metadata[prefix + "attention.compress_ratios"])
        _expect(metadata, prefix + "expert_gating_func", SQRT_SOFTPLUS, where)
    if layout.kind == "qwen4":
        _grams(config, metadata, prefix)
    if layout.kind in ("hybrid", "qwen4"):
        config["linear_value_head_dim"] //= config["linear_num_value_heads"]
        config["partial_rotary_factor"] /= config["head_dim"]
    scaling = _rope_scaling(metadata, prefix, where)
    if scaling:
        config["rope_scaling"] = scaling
    return config


def _number(key: str, value: Any, where: str) -> Any:
    kinds = (int, float) if key in REAL else (bool,) if key in ("norm_topk_prob", "moe_renormalize") else (int,)
    if type(value) not in kinds or (key not in REAL and value < (key in POSITIVE)):
        raise FormatError(f"{where}: {key} is {value!r}")
    return value


def _plain(value: Any, where: str, source: str) -> Any:
    """A number as a person would write it: GGUF's floats are float32."""
    if isinstance(value, np.ndarray):
        if len(set(value.tolist())) != 1:
            raise Unsupported(f"{where}: {source} differs between layers, which is not read")
        value = value.tolist()[0]
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _rope_scaling(metadata: Mapping[str, Any], prefix: str, where: str) -> dict[str, Any] | None:
    kind = metadata.get(prefix + "rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise Unsupported(f"{where}: rope scaling {kind!r} is not read from GGUF")
    found = {key: metadata.get(f"{prefix}rope.scaling.{source}") for key, source in SCALING.items()}
    if (multiplier := metadata.get(f"{prefix}rope.scaling.yarn_log_multiplier")) is not None:
        # The attention temperature's 0.1 * mscale_all_dim; DeepSeek's configs have both keys alike.
        found["mscale"] = found["mscale_all_dim"] = _plain(multiplier, where, "mscale") / 0.1
    return {"rope_type": kind} | {key: _plain(v, where, key) for key, v in found.items() if v is not None}


def _llama3(config: Mapping[str, Any], factors: torch.Tensor, where: str) -> dict[str, Any]:
    """The scaling whose factors these are; nothing is assumed that the tensor does not confirm."""
    factor = factors.max().item()
    dims = 2 * len(factors)
    theta = float(config.get("rope_theta", 10000.0))
    turns = LLAMA3["original_max_position_embeddings"] * theta ** -(torch.arange(0, dims, 2) / dims) / (2 * math.pi)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    if not torch.allclose(1 / (blend + (1 - blend) / factor), factors.float(), rtol=1e-4):
        raise Unsupported(f"{where}: its rope_freqs are of no scaling that Parity knows (Llama 3's)")
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}


def _latent(config: dict[str, Any], metadata: Mapping[str, Any], prefix: str) -> None:
    """Latent attention, DeepSeek's kinds: older files have the heads' widths under the plain keys."""
    width = config.pop("qk_head_dim", None) or int(metadata[prefix + "attention.key_length"])
    config.setdefault("v_head_dim", int(metadata.get(prefix + "attention.value_length", 0)))
    config["qk_nope_head_dim"] = width - config["qk_rope_head_dim"]
    config["num_key_value_heads"] = config["num_attention_heads"]  # 1 in files that keep the latent form
    config["q_lora_rank"] = config.get("q_lora_rank") or None
    groups, chosen = RELEASED_GROUPS.get(config.get("n_routed_experts", 0), (1, 1))
    config.setdefault("n_group", groups)
    config.setdefault("topk_group", chosen)
    if config["model_type"] == "deepseek_v32" or metadata.get(prefix + "expert_gating_func") == SIGMOID:
        return
    config["model_type"] = "deepseek_v2"
    config["topk_method"] = "group_limited_greedy" if config["n_group"] > 1 else "greedy"
    config.setdefault("norm_topk_prob", False)


def _kimi(config: dict[str, Any], metadata: Mapping[str, Any], prefix: str) -> None:
    """Delta layers are those without key heads."""
    config["qk_nope_head_dim"] = config.pop("qk_head_dim") - config["qk_rope_head_dim"]
    config["q_lora_rank"] = config.get("q_lora_rank") or None
    config["num_key_value_heads"] = config["num_attention_heads"]
    heads = _list(metadata[prefix + "attention.head_count_kv"])[: config["num_hidden_layers"]]
    deltas = {"num_heads": config["num_attention_heads"], "head_dim": int(metadata[prefix + "kda.head_dim"])}
    deltas["short_conv_kernel_size"] = int(metadata[prefix + "ssm.conv_kernel"])
    deltas["full_attn_layers"] = [layer + 1 for layer, count in enumerate(heads) if count]
    deltas["kda_layers"] = [layer + 1 for layer, count in enumerate(heads) if not count]
    if config["model_type"] == "kimi_k3":
        deltas |= {"use_full_rank_gate": True, "gate_lower_bound": _plain(metadata[prefix + "kda.gate_lower_bound"], "", "")}
        config |= {"mla_use_output_gate": True, "latent_moe_use_norm": True}
    config["linear_attn_config"] = deltas


def _grams(config: dict[str, Any], metadata: Mapping[str, Any], prefix: str) -> None:
    """The choice of groups, and the memory of n-grams: the first hash is modulo the prime that the others follow."""
    config["indexer_compress_ratio"] = max(_list(metadata[prefix + "attention.compress_ratios"]))
    layers = _list(metadata.get(prefix + "ple.layers", ()))
    config["ple_layer_ids"] = [layer + 1 for layer in layers]
    if layers:
        sizes = _list(metadata[prefix + "ple.head_vocab_sizes"])
        config["ngram_vocab_size_base"] = sizes[0]
        config["ple_embed_dim"] = len(sizes) * int(metadata[prefix + "embedding_length_per_layer_input"])
        config["eos_token_id"] = int(metadata[prefix + "ple.eos_token_id"])


def ngram_constants(metadata: Mapping[str, Any], layout: Layout) -> dict[str, torch.Tensor]:
    """The constants of the hashes, which stand in the metadata, by the names that they have as tensors."""
    prefix = metadata["general.architecture"] + "."
    names = {"layer_multipliers": "layer_multipliers", "ngram_heads_vocab_sizes": "head_vocab_sizes"}
    names |= {"ngram_heads_offsets": "head_offsets"}
    layers = _list(metadata.get(prefix + "ple.layers", ())) if layout.kind == "qwen4" else []
    return {
        f"model.layers.{layer}.ple.ple_embedding.{ours}": torch.tensor(_list(metadata.get(f"{prefix}ple.{theirs}", ())))
        for layer in layers
        for ours, theirs in names.items()
    }


def _list(value: Any) -> list[int]:
    return [int(one) for one in np.asarray(value).reshape(-1)]


def _expect(metadata: Mapping[str, Any], key: str, value: int, where: str) -> None:
    if metadata.get(key) != value:
        raise Unsupported(f"{where}: {key} = {metadata.get(key)} is not read, only {value}")


def generation_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What generation_config.json would say: end tokens, and sampling defaults where the file has them."""
    sampling = {key: metadata.get(f"general.sampling.{source}") for key, source in SAMPLING.items()}
    given = {key: value for key, value in sampling.items() if isinstance(value, (int, float))}
    return {"eos_token_id": list(end_tokens(metadata))} | {key: _plain(value, "", key) for key, value in given.items()}
