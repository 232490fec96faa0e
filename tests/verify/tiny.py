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
                scale = 3.0 if "embed" in name else 1.0
                parameter.copy_(torch.randn_like(parameter) * (parameter.shape[-1] ** -0.5) * scale)
    model.generation_config.eos_token_id = 258
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "eos_token_id": 258,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, tuple[Any, Any]] = {
    "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**_COMMON)),
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config(**_COMMON, head_dim=16)),
    "qwen3_moe": (
        transformers.Qwen3MoeForCausalLM,
        transformers.Qwen3MoeConfig(
            **_COMMON,
            head_dim=16,
            moe_intermediate_size=48,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            decoder_sparse_step=1,
        ),
    ),
}
