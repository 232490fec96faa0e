"""Tiny random checkpoints with a byte-level tokenizer and a chat template: whole models, in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = """{%- if tools %}<|im_start|>system
Tools: {% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or '' }}{% for call in message.tool_calls or [] %}<tool_call>
{{ call.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB = 320


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer: every byte a token, and a few structure tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))


def write_checkpoint(folder: Path, kind: str = "qwen3", *, seed: int = 0, **changes: Any) -> Path:
    """A checkpoint saved by transformers; norms and biases are made to matter."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model_class, config = CONFIGS[kind]
    model = model_class(type(config)(**(config.to_diff_dict() | changes))).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "router" not in name:
                # Embeddings are small in real models, which is why the epsilon of a norm matters.
                scale = 0.02 if "embed" in name else parameter.shape[-1] ** -0.5
                parameter.copy_(torch.randn_like(parameter) * scale)
        for name, buffer in model.named_buffers():
            if "correction_bias" in name:
                buffer.copy_(torch.randn_like(buffer) * 0.2)
    model.generation_config.eos_token_id = 258
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "eos_token_id": 258,
    "tie_word_embeddings": False,
}
# Written out, for mlx-lm looks for it where older files had it, and has another default.
_ROPE = {"rope_type": "default", "rope_theta": 1000000.0}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
_EXPERTS = {"moe_intermediate_size": 64, "num_experts_per_tok": 2}


def _configs() -> dict[str, tuple[Any, Any]]:
    t = transformers
    return {
        "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config(**_COMMON, rope_parameters=_ROPE)),
        "qwen2_yarn": (t.Qwen2ForCausalLM, t.Qwen2Config(**_COMMON, rope_parameters=_YARN)),
        "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config(**_COMMON, head_dim=16)),
        "qwen3_moe": (
            t.Qwen3MoeForCausalLM,
            t.Qwen3MoeConfig(**_COMMON, **_EXPERTS, head_dim=16, num_experts=8, norm_topk_prob=True, decoder_sparse_step=1),
        ),
        "deepseek_v3": (
            t.DeepseekV3ForCausalLM,
            t.DeepseekV3Config(
                **_COMMON | {"num_key_value_heads": 4},
                **_EXPERTS,
                q_lora_rank=48,
                kv_lora_rank=32,
                qk_nope_head_dim=16,
                qk_rope_head_dim=8,
                v_head_dim=24,
                first_k_dense_replace=1,
                n_routed_experts=8,
                n_shared_experts=2,
                n_group=4,
                topk_group=2,
            ),
        ),
        "qwen3_next": (
            t.Qwen3NextForCausalLM,
            t.Qwen3NextConfig(
                **_COMMON | {"num_hidden_layers": 4},
                **_EXPERTS,
                head_dim=32,
                num_experts=8,
                shared_expert_intermediate_size=64,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                linear_key_head_dim=16,
                linear_value_head_dim=32,
            ),
        ),
    }


CONFIGS = _configs()
