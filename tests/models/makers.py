"""What makes a tiny random checkpoint of each architecture, on any machine: no kernel is needed for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import transformers

from . import test_deepseek_v4, test_deepseek_v41, test_dense, test_experts, test_kimi_k3, test_qwen4_exp, tiny


def plain(family: str, options: dict[str, object]) -> Callable[[Path], object]:
    """Makes a checkpoint of a transformers family."""

    def make(folder: Path) -> object:
        config = getattr(transformers, f"{family}TextConfig", None) or getattr(transformers, f"{family}Config")
        return tiny.save(getattr(transformers, f"{family}ForCausalLM"), config(**options), folder)

    return make


def with_memory(folder: Path) -> None:
    """DeepSeek-V4.1 with n-gram memory."""
    test_deepseek_v41.save_tokenizer(folder)
    from parity.models.layers.engram import fold_tokens

    count = max(fold_tokens(folder)) + 1
    config = test_deepseek_v41.config_of(**test_deepseek_v41.ENGRAM | {"engram_compressed_vocab_size": count})
    test_deepseek_v41.save(folder, config)


MAKERS: dict[str, Callable[[Path], object]] = {
    "llama": plain("Llama", test_dense.SIZES),
    "qwen2": plain("Qwen2", test_dense.SIZES),
    "qwen3": plain("Qwen3", test_dense.SIZES | {"head_dim": 32}),
    **{
        name: plain(*test_experts.CASES[name])
        for name in (
            *("qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
            *("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_linear"),
        )
    },
    "deepseek_v4": test_deepseek_v4.save,
    "deepseek_v41": lambda folder: test_deepseek_v41.save(folder, test_deepseek_v41.config_of()),
    "deepseek_v41-memory": with_memory,
    "deepseek_v41-memory-fp8": test_deepseek_v41.save_packed_tables,
    "kimi_k3": lambda folder: test_kimi_k3.save(folder, test_kimi_k3.config_of()),
    "qwen4_exp": lambda folder: test_qwen4_exp.save(folder, ple_layer_ids=[]),
    "qwen4_exp-memory": test_qwen4_exp.save,
    "qwen4_exp-memory-fp8": lambda folder: test_qwen4_exp.save_in_fp8(folder, ple_embed_dim=128),
}
AS_OTHERS = {"kimi_k25": "deepseek_v3"}
"""Architectures that are another's text part under other names."""
