"""Prompts around a gap, beside the texts that the vendors' pages show, read by the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from parity.core.errors import Unsupported
from parity.text.infill import infill
from parity.text.tokenizer import Tokenizer, load_tokenizer

PREFIX, SUFFIX = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"
DEEPSEEK = ["<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"]


@pytest.fixture
def deepseek(small_metadata: Mapping[str, Any]) -> Tokenizer:
    """A small tokenizer with DeepSeek's marks, which begins every text with a token."""
    tokens = [*small_metadata["tokenizer.ggml.tokens"], *DEEPSEEK]
    types = [*small_metadata["tokenizer.ggml.token_type"], *[3] * len(DEEPSEEK)]
    added = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types, "tokenizer.ggml.add_bos_token": True}
    return load_tokenizer({**small_metadata, **added})


def test_qwen(default: Tokenizer) -> None:
    tokens, ends = infill(default, PREFIX, SUFFIX)
    assert tokens == default.encode(f"<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>")
    texts = "<|fim_prefix|> <|fim_suffix|> <|fim_middle|> <|endoftext|> <|fim_pad|> <|repo_name|> <|file_sep|>".split()
    assert [default.decode([token], skip_special_tokens=False) for token in ends] == texts


def test_deepseek(deepseek: Tokenizer) -> None:
    hole, begin, end = DEEPSEEK
    written = f"{begin}{PREFIX}{hole}{SUFFIX}{end}"
    tokens, ends = infill(deepseek, PREFIX, SUFFIX)
    assert tokens == deepseek.encode(written)
    assert tokens[0] == deepseek.bos_token_id
    assert infill(deepseek, PREFIX, SUFFIX, add_special_tokens=False)[0] == tokens[1:]
    assert set(ends) == {deepseek.special_tokens[mark] for mark in DEEPSEEK}


def test_marks_in_the_texts_stay_text(default: Tokenizer) -> None:
    tokens, ends = infill(default, "'<|fim_suffix|>'", "'<|fim_middle|>'")
    assert [tokens.count(token) for token in ends[:3]] == [1, 1, 1]
    assert default.decode(tokens) == "'<|fim_suffix|>''<|fim_middle|>'"


def test_other_models_are_refused(small: Tokenizer) -> None:
    with pytest.raises(Unsupported, match="no tokens for filling a gap"):
        infill(small, PREFIX, SUFFIX)
