"""Byte-level BPE, on the `tokenizers` library."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as Backend

from .bytelevel import from_bytes, to_bytes
from .tokenizer import TokenFacts, Tokenizer


class BytePairTokenizer(Tokenizer):
    """A tokenizer whose tokens are spelled in the byte alphabet.

    Args:
        backend: cuts text, added tokens included; its own post-processing is not used.
        facts: everything else.
    """

    def __init__(self, backend: Backend, facts: TokenFacts) -> None:
        super().__init__(facts)
        self.backend = backend
        self._plain = _without_added_tokens(backend)
        self._added_ids = {token: text for text, token in facts.added_tokens.items()}

    def _encode(self, text: str, allow_special: bool) -> list[int]:
        backend = self.backend if allow_special else self._plain
        tokens: list[int] = backend.encode(text, add_special_tokens=False).ids
        return tokens

    def _read_bytes(self, token: int) -> bytes:
        added = self._added_ids.get(token)
        if added is not None:
            return added.encode()
        spelling = self.backend.id_to_token(token) if 0 <= token < self.vocab_size else None
        if spelling is None:
            return b""
        try:
            return to_bytes(spelling)
        except KeyError:
            return spelling.encode()

    def id_of(self, text: str) -> int | None:
        added = self.added_tokens.get(text)
        return added if added is not None else self.backend.token_to_id(from_bytes(text.encode()))

    @cached_property
    def hash(self) -> str:
        content = json.loads(self.backend.to_str())
        model = content["model"]
        added = self.added_tokens
        facts = {
            "vocab": sorted((token, text) for text, token in model["vocab"].items() if text not in added),
            "merges": [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]],
            "added": sorted((token, text, text in self.special_tokens) for text, token in added.items()),
            "whole_words": bool(model.get("ignore_merges")),
            "normalizer": canonical_step(content["normalizer"]),
            "pre_tokenizer": canonical_step(content["pre_tokenizer"]),
            "around": [self.facts.prefix, self.facts.suffix],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _without_added_tokens(backend: Backend) -> Backend:
    plain = Backend(backend.model)
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        plain.pre_tokenizer = backend.pre_tokenizer
    return plain


def canonical_step(step: dict[str, Any] | None) -> Any:
    """A normaliser or pre-tokenizer without what changes no token: empty sequences and offset options."""
    if step is None:
        return None
    for name in ("normalizers", "pretokenizers"):
        if name in step:
            steps = [canonical_step(inner) for inner in step[name]]
            kept = [inner for inner in steps if inner is not None]
            return kept[0] if len(kept) == 1 else kept or None
    return {key: value for key, value in step.items() if key != "trim_offsets"}
