"""A tokenizer rebuilt from the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex

from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

from parity.core.ends import NAMED, end_tokens
from parity.core.errors import FormatError, Unsupported

from .byte_pair import BytePairTokenizer
from .pretokenize import recipe
from .tokenizer import TokenFacts

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "pad_token": "padding_token_id",
    "unk_token": "unknown_token_id",
}


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> BytePairTokenizer:
    """Byte-level BPE from `tokenizer.ggml.*`.

    Raises:
        Unsupported: another kind of tokenizer, or an unknown pre-tokenizer.
        FormatError: tokens, types or merges are missing or do not fit together.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise Unsupported(f"the tokenizer kind {kind!r} (tokenizer.ggml.model) is not supported; byte-level BPE, 'gpt2', is")
    steps = recipe(str(metadata.get("tokenizer.ggml.pre", "default")))
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    types = [int(number) for number in metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))]
    if len(types) != len(tokens):
        raise FormatError(f"the file has {len(tokens)} tokens and {len(types)} token types; it is damaged")

    vocab = {text: token for token, (text, kind) in enumerate(zip(tokens, types, strict=True)) if kind != _UNUSED}
    backend = Backend(_bpe(vocab, _strings(metadata, "tokenizer.ggml.merges"), steps.whole_words))
    normalizer = steps.normalizer()
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = steps.pre_tokenizer()

    added = {tokens[i]: i for i, kind in enumerate(types) if kind in (_CONTROL, _USER_DEFINED, _UNKNOWN) and tokens[i]}
    special = {text: token for text, token in added.items() if types[token] != _USER_DEFINED}
    backend.add_tokens([AddedToken(text, normalized=False, special=text in special) for text in added])
    return BytePairTokenizer(backend, _facts(metadata, tokens, added, special))


def _facts(metadata: Mapping[str, Any], tokens: list[str], added: Mapping[str, int], special: Mapping[str, int]) -> TokenFacts:
    bos = _token_id(metadata, "bos_token_id", len(tokens))
    eos, *_ = (_token_id(metadata, f"{end}_token_id", len(tokens)) for end in NAMED)
    named = {name: _token_id(metadata, key, len(tokens)) for name, key in _NAMED.items()}
    template = metadata.get("tokenizer.chat_template")
    return TokenFacts(
        vocab_size=len(tokens),
        added_tokens=added,
        special_tokens=special,
        eos_token_ids=end_tokens(metadata),
        bos_token_id=bos,
        prefix=(bos,) if bos is not None and metadata.get("tokenizer.ggml.add_bos_token") else (),
        suffix=(eos,) if eos is not None and metadata.get("tokenizer.ggml.add_eos_token") else (),
        named={name: tokens[token] for name, token in named.items() if token is not None},
        chat_template=str(template) if template else None,
    )


def _bpe(vocab: dict[str, int], merges: list[str], whole_words: bool) -> models.BPE:
    pairs = [merge.partition(" ")[::2] for merge in merges]
    try:
        return models.BPE(vocab, pairs, ignore_merges=whole_words)
    except Exception as error:  # the library raises bare Exception
        raise FormatError(f"tokenizer.ggml.merges does not fit the file's tokens: {error}; it is damaged") from None


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    values: Iterable[Any] | None = metadata.get(key)
    if values is None:
        raise FormatError(f"the file has no {key}, so text cannot be tokenised")
    texts = values if isinstance(values, list) else list(values)
    return texts if all(type(text) is str for text in texts) else [_text(value, key) for value in texts]


def _text(value: Any, key: str) -> str:
    try:
        return str(value) if isinstance(value, str) else bytes(value).decode()
    except (TypeError, UnicodeDecodeError):
        raise FormatError(f"{key} has an entry that is not text: {value!r:.60}; the file is damaged") from None


def _token_id(metadata: Mapping[str, Any], name: str, num_tokens: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if value is None:
        return None
    if not isinstance(value, SupportsIndex) or not 0 <= int(value) < num_tokens:
        raise FormatError(f"tokenizer.ggml.{name} is {value!r:.60} and the file has {num_tokens} tokens; it is damaged")
    return int(value)
