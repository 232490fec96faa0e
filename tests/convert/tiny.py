"""Tiny whole models for conversions: weights of transformers', and a tokenizer cut as Qwen's is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from parity.hub.pooling import write_pooling
from parity.text.pretokenize import RECIPES
from tests.models.tiny import save

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXT = "def merge(first, second):\n    return sorted(first + second)  # 42 words, 中文, naïve café\n"
SIZES = {
    "vocab_size": 336,  # more rows than tokens, as released models have
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "pad_token_id": None,
}


def tokenizer() -> Tokenizer:
    """Some merges of a text, and an added token that is not special."""
    recipe = RECIPES["qwen2"]
    made = Tokenizer(models.BPE())
    made.normalizer = recipe.normalizer()  # type: ignore[assignment]
    made.pre_tokenizer = recipe.pre_tokenizer()
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=310, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([TEXT * 3], trainer)
    made.add_special_tokens(list(SPECIAL))
    made.add_tokens(["<tool_call>"])
    return made


def make_embedding(folder: Path) -> Path:
    """Saves a model as Qwen3-Embedding is: without a head and a prefix, with an end behind each text."""
    made = tokenizer()
    end = made.token_to_id("<|endoftext|>")
    made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32, "eos_token_id": end}
    save(transformers.Qwen3Model, transformers.Qwen3Config(**{**SIZES, **sizes}), folder)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}), "utf-8")
    write_pooling(folder, 64)
    return folder


def make(folder: Path, config_class: type = transformers.Qwen2Config, **sizes: Any) -> Path:
    """Saves a model and its tokenizer."""
    made = tokenizer()
    assert made.get_vocab_size() < SIZES["vocab_size"]  # type: ignore[operator]
    config = config_class(**{**SIZES, "eos_token_id": made.token_to_id("<|im_end|>"), **sizes})
    model_class = transformers.AutoModelForCausalLM._model_mapping[config_class]
    save(model_class, config, folder)
    made.save(str(folder / "tokenizer.json"))
    settings = {"chat_template": TEMPLATE, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    settings["tokenizer_class"] = "Qwen2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    sampling = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "do_sample": True}
    generation = sampling | {"eos_token_id": [made.token_to_id("<|im_end|>"), made.token_to_id("<|endoftext|>")]}
    (folder / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    return folder
