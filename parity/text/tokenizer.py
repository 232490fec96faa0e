"""What a tokenizer is, whatever it was read from, and the one function that reads one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What is known of a tokenizer's tokens besides how text is cut.

    Args:
        vocab_size: one more than the largest token id.
        added_tokens: tokens matched whole in text, by their text; contains `special_tokens`.
        special_tokens: those that are structure and not text; `skip_special_tokens` leaves them out.
        eos_token_ids: the tokens that end an answer.
        bos_token_id: the token that begins a sequence, if there is one.
        prefix: the tokens that `add_special_tokens` puts before a text.
        suffix: those that it puts after.
        named: the texts that a template may ask for, such as `bos_token` and `eos_token`.
        chat_template: the Jinja source, if the model ships one.
    """

    vocab_size: int
    added_tokens: Mapping[str, int]
    special_tokens: Mapping[str, int]
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None


class Tokenizer(ABC):
    """Text to token ids and back. Safe to use from several threads at once."""

    def __init__(self, facts: TokenFacts) -> None:
        self.facts = facts
        self._special_ids = frozenset(facts.special_tokens.values())
        self._bytes: dict[int, bytes] = {}

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id; a model's logits may be wider."""
        return self.facts.vocab_size

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Structure tokens by their text."""
        return self.facts.special_tokens

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of the structure tokens."""
        return self._special_ids

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """All tokens that are matched whole in text; the structure tokens are among them."""
        return self.facts.added_tokens

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer; the first is the tokenizer's own."""
        return self.facts.eos_token_ids

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a sequence, if there is one."""
        return self.facts.bos_token_id

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's own chat template, if it ships one."""
        return self.facts.chat_template

    @property
    @abstractmethod
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of all that decides how text becomes tokens; the same wherever the files came from."""

    @abstractmethod
    def _encode(self, text: str, allow_special: bool) -> list[int]:
        """The tokens of a text, nothing added."""

    @abstractmethod
    def _read_bytes(self, token: int) -> bytes:
        """The bytes of a token; nothing for an id without one."""

    @abstractmethod
    def id_of(self, text: str) -> int | None:
        """The id of the token that stands for exactly this text, if there is one."""

    def encode(self, text: str, *, add_special_tokens: bool = True, allow_special: bool = True) -> list[int]:
        """The token ids of a text.

        Args:
            text: any string; lone surrogates, which no file can hold, become U+FFFD.
            add_special_tokens: put the tokenizer's own beginning and end around it.
            allow_special: read `<|im_end|>` and the like as the tokens they name; False reads them as plain text.
        """
        tokens = self._encode(_without_lone_surrogates(text), allow_special)
        return [*self.facts.prefix, *tokens, *self.facts.suffix] if add_special_tokens else tokens

    def token_bytes(self, token: int) -> bytes:
        """The raw bytes of one token; the text in UTF-8 for an added token; nothing for an unused or unknown id."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._read_bytes(token)
        return known

    def all_bytes(self, count: int | None = None) -> list[bytes]:
        """The bytes of the first `count` token ids, or of all; a vocabulary is large, so nothing of it is kept here."""
        return [self._read_bytes(token) for token in range(self.vocab_size if count is None else count)]

    def decode(self, tokens: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some tokens; bytes that are no UTF-8 become U+FFFD."""
        skipped = self._special_ids if skip_special_tokens else frozenset()
        return b"".join([self.token_bytes(token) for token in tokens if token not in skipped]).decode("utf-8", "replace")


def _without_lone_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def load_tokenizer(source: Path | str | Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a model.

    Args:
        source: a folder with `tokenizer.json` or `tiktoken.model`, or the metadata of a GGUF file by key.

    Raises:
        ModelNotFound: the folder has no tokenizer.
        FormatError: a file is not what its name says.
        Unsupported: a kind of tokenizer that Parity does not have; the text names it.
    """
    if isinstance(source, Mapping):
        from .gguf_source import tokenizer_from_gguf

        return tokenizer_from_gguf(source)
    from .folder_source import tokenizer_from_folder

    return tokenizer_from_folder(Path(source))
