"""The tokens that end an answer, by a config, or by a GGUF file's metadata: it names three at most, and some have others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsIndex

import numpy as np

from .errors import FormatError

NAMED = ("eos", "eot", "eom")
"""The ends that a file may name: of a text, of a turn, of a message. Whoever reads the file stops at any of them."""
_CONTROL = 3
_TEXTS = frozenset({
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<｜end▁of▁sentence｜>", "<|end_of_msg|>",
    "[EOS]", "[EOT]",
})  # fmt: skip
"""Control tokens that end an answer in the families that Parity reads."""


def listed_ends(config: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """`eos_token_id` of a config: one, several or none.

    Raises:
        FormatError: it is something else.
    """
    value = config.get("eos_token_id")
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int for token in found):
        raise FormatError(f"{where}: eos_token_id is {value!r}, neither a token id nor a list of them")
    return tuple(found)


def end_tokens(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Those that the file names, in their order, then those that are known by their text."""
    named = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in NAMED)
    found = [int(token) for token in named if isinstance(token, SupportsIndex)]
    tokens, kinds = metadata.get("tokenizer.ggml.tokens", ()), metadata.get("tokenizer.ggml.token_type", ())
    if len(kinds) == len(tokens):
        found += [int(token) for token in np.flatnonzero(np.asarray(kinds) == _CONTROL) if tokens[token] in _TEXTS]
    return tuple(dict.fromkeys(found))
