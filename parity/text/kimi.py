"""The tokenizer of the Kimi models: byte-pair ranks in tiktoken's format, and a pattern that keeps Han apart."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import tiktoken

from parity.core.errors import FormatError

from .pretokenize import KIMI
from .tokenizer import TokenFacts, Tokenizer

NUM_SPECIAL_TOKENS = 256

# The vendor's own encoder cuts very long texts, and what it cuts apart cannot merge: the limits are part of the format.
_PIECE_CHARACTERS = 400_000
_RUN_CHARACTERS = 25_000
_RUN = re.compile(r"\s+|\S+")


class KimiTokenizer(Tokenizer):
    """Byte-pair encoding by rank.

    Args:
        ranks: token id by the token's bytes.
        facts: everything else; every added token is special.
    """

    def __init__(self, ranks: dict[bytes, int], facts: TokenFacts) -> None:
        super().__init__(facts)
        self._ranks = ranks
        self._encoding = tiktoken.Encoding(
            "kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=dict(facts.special_tokens)
        )
        self._token_bytes = {token: data for data, token in ranks.items()}
        self._token_bytes |= {token: text.encode() for text, token in facts.added_tokens.items()}

    def _encode(self, text: str, allow_special: bool) -> list[int]:
        encode = self._encoding.encode if allow_special else self._encoding.encode_ordinary
        options: dict[str, Any] = {"allowed_special": "all"} if allow_special else {}
        return [token for piece in _pieces(text) for token in encode(piece, **options)]

    def _read_bytes(self, token: int) -> bytes:
        return self._token_bytes.get(token, b"")

    def id_of(self, text: str) -> int | None:
        added = self.added_tokens.get(text)
        return added if added is not None else self._ranks.get(text.encode())

    @cached_property
    def hash(self) -> str:
        digest = hashlib.sha256(json.dumps([KIMI, sorted(self.special_tokens.items()), self.facts.prefix]).encode())
        for data, token in sorted(self._ranks.items(), key=lambda entry: entry[1]):
            digest.update(b"%d %s\n" % (token, base64.b64encode(data)))
        return digest.hexdigest()


def read_ranks(path: Path) -> dict[bytes, int]:
    """The ranks in a `tiktoken.model`: on each line a token's bytes in base64 and its id.

    Raises:
        FormatError: a line is something else, an id is there twice, or ids are missing.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            data, rank = line.split()
            ranks[base64.b64decode(data, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise FormatError(f"{path}, line {number}, is not base64 text and a number: {line!r:.60}") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise FormatError(f"{path} does not number its {len(ranks)} tokens from 0 without gaps; the file is damaged")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise FormatError(f"{path} has no token for the byte {missing[0]:#04x}, so not every text could be tokenised")
    return ranks


def special_names(num_base_tokens: int, added_tokens_decoder: Mapping[str, Any]) -> dict[str, int]:
    """Special tokens by text: those that the tokenizer's config names, and the reserved rest of the block after the ranks."""
    given = {
        int(token): entry["content"] if isinstance(entry, dict) else str(entry) for token, entry in added_tokens_decoder.items()
    }
    block = range(num_base_tokens, num_base_tokens + NUM_SPECIAL_TOKENS)
    return {given.get(token, f"<|reserved_token_{token}|>"): token for token in block}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE_CHARACTERS):
        yield from _cut_long_runs(text[start : start + _PIECE_CHARACTERS])


def _cut_long_runs(text: str) -> Iterator[str]:
    """Cuts within runs of spaces, or of anything else, that are longer than the limit."""
    start = 0
    for run in _RUN.finditer(text):
        for cut in range(run.start() + _RUN_CHARACTERS, run.end(), _RUN_CHARACTERS):
            yield text[start:cut]
            start = cut
    yield text[start:]
