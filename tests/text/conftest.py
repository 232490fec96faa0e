"""Tokenizers to test with: a small one trained on the spot, and the default model's where its file is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from parity.hub.gguf import GgufFile
from parity.text.tokenizer import Tokenizer as TextTokenizer
from parity.text.tokenizer import load_tokenizer

from .corpus import CODE, EMOJI, LANGUAGES

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<tool_call>", "</tool_call>", "<think>", "</think>"]


def train() -> tuple[list[str], list[str]]:
    """The tokens and merges of a small byte-level BPE."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator([*LANGUAGES, *CODE, *EMOJI] * 3, trainer)
    vocab = backend.get_vocab()
    merges = json.loads(backend.to_str())["model"]["merges"]
    return sorted(vocab, key=lambda text: vocab[text]), [" ".join(merge) for merge in merges]


@pytest.fixture(scope="session")
def small_vocab() -> tuple[list[str], list[str]]:
    return train()


@pytest.fixture(scope="session")
def small_metadata(small_vocab: tuple[list[str], list[str]]) -> dict[str, Any]:
    """What a GGUF file of a small Qwen-like model would say, padding included."""
    tokens, merges = small_vocab
    padding = ["[PAD1]", "[PAD2]"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [*tokens, *CONTROL, *USER_DEFINED, *padding],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3] * len(CONTROL) + [4] * len(USER_DEFINED) + [5] * len(padding),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": len(tokens) + 2,
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.add_bos_token": False,
    }


@pytest.fixture(scope="session")
def small(small_metadata: Mapping[str, Any]) -> TextTokenizer:
    return load_tokenizer(small_metadata)


@pytest.fixture(scope="session")
def default_metadata(default_model: Path) -> Mapping[str, Any]:
    """The metadata of the default model's file."""
    return GgufFile(default_model).metadata


@pytest.fixture(scope="session")
def default(default_metadata: Mapping[str, Any]) -> TextTokenizer:
    return load_tokenizer(default_metadata)
