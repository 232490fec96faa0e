"""Planted faults: what really goes wrong between stacks, made on purpose, so that the verifier can be verified.

Each changes one thing of one side: a file of its checkpoint, an option, or what the loaded model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .edits import Edit, both, config, interleaved, rounded, shifted_scales, swapped, template, tensors
from .patches import (
    Patch,
    bias_in_weights,
    position_after_hit,
    replaced,
    silent_penalty,
    state_kept,
    truncated,
    windowed,
    without_head_norms,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Args:
        name: what is wrong.
        kind: the tiny checkpoint that it is planted in.
        seen: where such things were seen.
        level: the first level that must catch it.
        place: what the first operation out of its band must match, where the fault has a place.
        edit: changes a copy of the checkpoint.
        patch: changes the loaded model (an `LLM`).
        base: changes the side that it is compared with, too.
        options: for `LLM`.
    """

    name: str
    kind: str
    seen: str
    level: int
    place: str | None = None
    edit: Edit | None = None
    patch: Patch | None = None
    base: Patch | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


_ATTENTION = r"self_attn\.o_proj\.in"
_LAYER_MATRICES = r"model\.layers\..*(proj|gate|experts.*)\.weight"

FAULTS: tuple[Fault, ...] = (
    Fault("rope base", "qwen2", "another config key read", 3, _ATTENTION, config(rope_parameters={"rope_theta": 500000.0})),
    Fault(
        "rope interleaved for half-split",
        "qwen2",
        "converters",
        3,
        r"self_attn\.qkv",
        both(
            tensors(r".*\.self_attn\.q_proj\.(weight|bias)", interleaved(4)),
            tensors(r".*\.self_attn\.k_proj\.(weight|bias)", interleaved(2)),
        ),
    ),
    Fault(
        "YaRN softmax factor missing",
        "qwen2_yarn",
        "new backends",
        3,
        _ATTENTION,
        config(rope_parameters={"attention_factor": 1.0}),
    ),
    Fault("norm epsilon", "qwen2", "defaults of a framework", 3, r"input_layernorm|self_attn\.in", config(rms_norm_eps=1e-5)),
    Fault(
        "query and key norm missing",
        "qwen3",
        "new backends",
        3,
        r"self_attn\.(q_norm|k_norm)",
        patch=without_head_norms,
    ),
    Fault(
        "bias missing", "qwen2", "new backends", 3, r"self_attn\.qkv", tensors(r".*\.[qkv]_proj\.bias", lambda bias: bias * 0)
    ),
    Fault(
        "zero-centred norm read as plain",
        "qwen3",
        "Gemma and Qwen3-Next styles mixed up",
        3,
        r"input_layernorm|self_attn\.in",
        tensors(r".*layernorm\.weight", lambda weight: weight - 1),
    ),
    Fault(
        "gate and up swapped",
        "qwen3",
        "fused checkpoints",
        3,
        r"mlp\.gate_up|mlp\.down_proj\.in",
        swapped("mlp.gate_proj", "mlp.up_proj"),
    ),
    Fault(
        "router bias used in the weights",
        "deepseek_v3",
        "first DeepSeek-V3 ports",
        3,
        r"mlp\.gate",
        patch=replaced(r".*\.mlp\.gate", bias_in_weights),
    ),
    Fault("experts' weights not renormalised", "qwen3_moe", "first MoE ports", 3, r"mlp\.gate", config(norm_topk_prob=False)),
    Fault(
        "one expert's weights swapped",
        "qwen3_moe",
        "expert parallel loading",
        3,
        r"mlp",
        swapped("layers.1.mlp.experts.0.", "layers.1.mlp.experts.1."),
    ),
    Fault(
        "shared expert dropped",
        "deepseek_v3",
        "expert parallel fusing",
        3,
        r"mlp",
        tensors(r".*shared_experts\.down_proj\.weight", lambda weight: weight * 0),
    ),
    Fault("top-k off by one", "qwen3_moe", "config keys renamed", 3, r"mlp", config(num_experts_per_tok=3)),
    Fault(
        "scale blocks off by one",
        "qwen3",
        "quantised kernels",
        3,
        r"mlp\.down_proj",
        tensors(r".*\.down_proj\.weight", shifted_scales),
    ),
    Fault("cache in lower precision", "qwen3", "a silent default", 3, _ATTENTION, options={"kv_cache_dtype": "bfloat16"}),
    Fault("window off by one", "qwen2", "new backends", 3, _ATTENTION, patch=windowed(13), base=windowed(12)),
    Fault(
        "position off by one after a prefix hit",
        "qwen3",
        "prefix caching",
        3,
        None,
        patch=position_after_hit,
        options={"enforce_eager": True},
    ),
    Fault("state not reset between requests", "qwen3_next", "linear attention", 3, None, patch=state_kept),
    Fault(
        "8-bit weights served as 16", "qwen3", "hosted endpoints", 3, r"self_attn\.qkv", tensors(_LAYER_MATRICES, rounded(8))
    ),
    Fault(
        "4-bit weights served as 16", "qwen3", "hosted endpoints", 3, r"self_attn\.qkv", tensors(_LAYER_MATRICES, rounded(4))
    ),
    Fault(
        "whitespace in the template",
        "qwen3",
        "rewritten templates",
        1,
        None,
        template(lambda text: text.replace("<|im_start|>assistant\n", "<|im_start|>assistant")),
    ),
    Fault(
        "first token missing",
        "qwen3",
        "tokenizers without BOS",
        1,
        None,
        template(lambda text: text.replace("<|im_start|>{{ message.role }}", "{{ message.role }}")),
    ),
    Fault(
        "default system prompt",
        "qwen3",
        "hosted endpoints",
        1,
        None,
        template(lambda text: "<|im_start|>system\nYou are helpful.<|im_end|>\n" + text),
    ),
    Fault("sampling defaults applied silently", "qwen3", "generation_config", 5, None, patch=silent_penalty),
    Fault("truncated context", "qwen3", "a small default context", 1, None, patch=truncated),
)
