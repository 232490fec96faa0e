"""Filling a gap: how models that were trained for it are shown what stands before and behind one.

Qwen's format is that of Qwen2.5-Coder's README ("File-Level Code Completion"), which Qwen3-Coder kept; DeepSeek's that of
DeepSeek-Coder's README ("Code Insertion"), which DeepSeek-V3 learnt too. A tokenizer that has a format's marks means it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import Unsupported
from .tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Format:
    """The marks before the prefix, before the suffix and before the answer, and others that end the answer."""

    prefix: str
    suffix: str
    middle: str
    ends: tuple[str, ...] = ()


_FORMATS = (
    _Format(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ends=("<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    ),
    _Format("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)


def infill(tokenizer: Tokenizer, prefix: str, suffix: str, *, add_special_tokens: bool = True) -> tuple[list[int], list[int]]:
    """The prompt that asks for what stands between two texts. Marks that the texts spell out stay text.

    Args:
        tokenizer: the model's.
        prefix, suffix: what stands before and behind the gap.
        add_special_tokens: put the tokenizer's own beginning before it.

    Returns:
        (the prompt's tokens, the tokens that end the answer besides the model's own).

    Raises:
        Unsupported: the tokenizer has no marks for it.
    """
    known = tokenizer.added_tokens
    for form in _FORMATS:
        marks = (form.prefix, form.suffix, form.middle)
        if all(mark in known for mark in marks):
            plain = {"add_special_tokens": False, "allow_special": False}
            before, behind = tokenizer.encode(prefix, **plain), tokenizer.encode(suffix, **plain)
            begin = tokenizer.facts.prefix if add_special_tokens else ()
            tokens = [*begin, known[form.prefix], *before, known[form.suffix], *behind, known[form.middle]]
            return tokens, [known[mark] for mark in (*marks, *form.ends) if mark in known]
    raise Unsupported("suffix: this model's tokenizer has no tokens for filling a gap (fill-in-the-middle)")
