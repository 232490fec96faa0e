"""A tokenizer read from a model's folder: `tokenizer.json` or `tiktoken.model`, with the JSON files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from parity.core.ends import listed_ends
from parity.core.errors import FormatError, ModelNotFound, Unsupported

from .byte_pair import BytePairTokenizer
from .kimi import KimiTokenizer, read_ranks, special_names
from .tokenizer import TokenFacts, Tokenizer

_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def tokenizer_from_folder(folder: Path) -> Tokenizer:
    """The tokenizer in a folder; `tokenizer.json` is preferred where both kinds are there.

    Raises:
        ModelNotFound: neither file is there.
        FormatError: a file is not what its name says.
        Unsupported: not byte-level BPE.
    """
    config = _read_json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        return _byte_pair(folder, config)
    if (folder / "tiktoken.model").is_file():
        return _tiktoken(folder, config)
    raise ModelNotFound(f"{folder} has neither tokenizer.json nor tiktoken.model, so text cannot be tokenised")


def _byte_pair(folder: Path, config: Mapping[str, Any]) -> BytePairTokenizer:
    path = folder / "tokenizer.json"
    content = _read_json(path)
    model = content.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if kind != "BPE" or '"ByteLevel"' not in json.dumps([content.get("pre_tokenizer"), content.get("decoder")]):
        raise Unsupported(f"{path} holds a tokenizer of kind {kind!r}, not byte-level BPE, which is what Parity has")
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise FormatError(f"{path} cannot be read as a tokenizer: {error}") from None
    backend.no_truncation()
    backend.no_padding()
    entries = backend.get_added_tokens_decoder()
    added = {entry.content: token for token, entry in entries.items()}
    special = {entry.content: token for token, entry in entries.items() if entry.special}
    vocab_size = max([*backend.get_vocab(with_added_tokens=True).values(), -1]) + 1
    prefix, suffix = _around(backend)
    return BytePairTokenizer(backend, _facts(folder, config, vocab_size, added, special, prefix, suffix))


def _around(backend: Backend) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the file's own post-processing puts before and after a text."""
    probe = "a"
    bare = backend.encode(probe, add_special_tokens=False).ids
    full = backend.encode(probe, add_special_tokens=True).ids
    start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    return tuple(full[:start]), tuple(full[start + len(bare) :])


def _tiktoken(folder: Path, config: Mapping[str, Any]) -> KimiTokenizer:
    ranks = read_ranks(folder / "tiktoken.model")
    special = special_names(len(ranks), config.get("added_tokens_decoder") or {})
    vocab_size = len(ranks) + len(special)
    return KimiTokenizer(ranks, _facts(folder, config, vocab_size, special, special, (), ()))


def _facts(
    folder: Path,
    config: Mapping[str, Any],
    vocab_size: int,
    added: Mapping[str, int],
    special: Mapping[str, int],
    prefix: tuple[int, ...],
    suffix: tuple[int, ...],
) -> TokenFacts:
    named = _named(folder, config)
    bos, eos = (added.get(named[name]) if name in named else None for name in ("bos_token", "eos_token"))
    # An explicit switch in the config overrides the file's own post-processing, as in the reference library.
    for switch, token in (("add_bos_token", bos), ("add_eos_token", eos)):
        if switch in config:
            around = (token,) if config[switch] and token is not None else ()
            prefix, suffix = (around, suffix) if switch == "add_bos_token" else (prefix, around)
    return TokenFacts(
        vocab_size=vocab_size,
        added_tokens=added,
        special_tokens=special,
        eos_token_ids=_ends(folder, eos),
        bos_token_id=bos,
        prefix=prefix,
        suffix=suffix,
        named=named,
        chat_template=_chat_template(folder, config),
    )


def _named(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    merged = {**_read_json(folder / "special_tokens_map.json"), **config}
    given = {name: value for name, value in merged.items() if name in _NAMES}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in given.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _ends(folder: Path, eos: int | None) -> tuple[int, ...]:
    """The tokenizer's own end first, then those that the generation or model config adds."""
    ends = [] if eos is None else [eos]
    for name in ("generation_config.json", "config.json"):
        config = _read_json(folder / name)
        if config.get("eos_token_id") is not None:
            ends += listed_ends(config, str(folder / name))
            break
    return tuple(dict.fromkeys(ends))


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """From a file of its own or the tokenizer's config; of several named ones, the default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{path} is not UTF-8 text (byte {error.start})") from None
    given = _read_json(folder / "chat_template.json").get("chat_template") or config.get("chat_template")
    if isinstance(given, list):
        named = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}
        given = named.get("default")
    return given if isinstance(given, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an absent file is empty."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise FormatError(f"{path} holds a JSON {type(content).__name__} where an object is needed")
    return content
