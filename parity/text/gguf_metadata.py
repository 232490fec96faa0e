"""A tokenizer between its two homes: as a GGUF file's metadata, and as the files of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, processors

from parity.core.ends import NAMED
from parity.core.errors import Unsupported

from .byte_pair import BytePairTokenizer, canonical_step
from .pretokenize import RECIPES
from .tokenizer import Tokenizer

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_NAMED = {"bos_token": "bos_token_id", "pad_token": "padding_token_id", "unk_token": "unknown_token_id"}


def metadata_of(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """`tokenizer.*`, padded with unused tokens to the rows of the embedding.

    Raises:
        Unsupported: not byte-level BPE, more tokens than rows, or a way of cutting text, or of putting tokens around it, that
            GGUF cannot say.
    """
    if not isinstance(tokenizer, BytePairTokenizer):
        raise Unsupported("the tokenizer is not byte-level BPE, the only kind that Parity writes to GGUF")
    if tokenizer.vocab_size > vocab_size:
        raise Unsupported(f"the tokenizer has {tokenizer.vocab_size} tokens and the model {vocab_size} rows for them")
    content = json.loads(tokenizer.backend.to_str())
    texts = {token: text for text, token in content["model"]["vocab"].items()}
    texts |= {token: text for text, token in tokenizer.added_tokens.items()}
    special = set(tokenizer.special_tokens.values())
    added = set(tokenizer.added_tokens.values())
    kinds = [
        _UNUSED if token not in texts else _CONTROL if token in special else _USER_DEFINED if token in added else _NORMAL
        for token in range(vocab_size)
    ]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _name_of(content),
        "tokenizer.ggml.tokens": [texts.get(token, f"[PAD{token}]") for token in range(vocab_size)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
    }
    facts = tokenizer.facts
    ids = {name: tokenizer.added_tokens.get(text) for name, text in facts.named.items()}
    found |= {f"tokenizer.ggml.{key}": ids[name] for name, key in _NAMED.items() if ids.get(name) is not None}
    found |= _around(tokenizer)
    if facts.chat_template:
        found["tokenizer.chat_template"] = facts.chat_template
    return found


def _around(tokenizer: Tokenizer) -> dict[str, Any]:
    """What ends a text or an answer, and whether a text's own beginning and end are put around it.

    Raises:
        Unsupported: other tokens are put around it: GGUF has one for each side, and the one behind also ends answers.
    """
    facts = tokenizer.facts
    ends = facts.eos_token_ids
    if facts.prefix not in ((), (facts.bos_token_id,)) or facts.suffix not in ((), *((end,) for end in ends)):
        raise Unsupported(
            f"the tokenizer puts {list(facts.prefix)} before each text and {list(facts.suffix)} behind it; GGUF can only say "
            f"{facts.bos_token_id} and one of {list(ends)}"
        )
    ordered = dict.fromkeys((*facts.suffix, *ends))
    found: dict[str, Any] = {f"tokenizer.ggml.{name}_token_id": end for name, end in zip(NAMED, ordered, strict=False)}
    if facts.bos_token_id is not None:
        found["tokenizer.ggml.add_bos_token"] = bool(facts.prefix)
    return found | ({"tokenizer.ggml.add_eos_token": True} if facts.suffix else {})


def write_files(tokenizer: BytePairTokenizer, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and, if it has one, chat_template.jinja."""
    facts = tokenizer.facts
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.decoder = decoders.ByteLevel()
    names = {token: text for text, token in facts.added_tokens.items()}
    if facts.prefix or facts.suffix:
        around = [[names[token] for token in side] for side in (facts.prefix, facts.suffix)]
        pieces = " ".join((*around[0], "$A", *around[1]))
        tokens = [(names[token], token) for token in dict.fromkeys((*facts.prefix, *facts.suffix))]
        backend.post_processor = processors.TemplateProcessing(single=pieces, special_tokens=tokens)
    backend.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **facts.named,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if facts.chat_template:
        (folder / "chat_template.jinja").write_text(facts.chat_template, "utf-8")


def _name_of(content: dict[str, Any]) -> str:
    """GGUF's name of the way in which text is cut."""
    steps = canonical_step(content["pre_tokenizer"]), canonical_step(content["normalizer"])
    for name, recipe in RECIPES.items():
        twin = Backend(models.BPE({}, []))
        twin.pre_tokenizer = recipe.pre_tokenizer()
        if (normalizer := recipe.normalizer()) is not None:
            twin.normalizer = normalizer
        theirs = json.loads(twin.to_str())
        same = (canonical_step(theirs["pre_tokenizer"]), canonical_step(theirs["normalizer"])) == steps
        if same and recipe.whole_words == bool(content["model"].get("ignore_merges")):
            return name
    raise Unsupported("the tokenizer cuts text in a way that GGUF has no name for among: " + ", ".join(RECIPES))
