"""Tokenising equals the reference libraries'; the oracle of each test is named in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, decoders, processors
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

from parity.core.errors import FormatError, ModelNotFound, Unsupported
from parity.text.byte_pair import BytePairTokenizer
from parity.text.pretokenize import KIMI, LLAMA3, RECIPES
from parity.text.tokenizer import Tokenizer, load_tokenizer

from .conftest import CONTROL, USER_DEFINED
from .corpus import composed, corpus

MARKED = [
    "<|im_start|>user\nhi<|im_end|>\n",
    "a<tool_call>b</tool_call>",
    "<think>\n\n</think>",
    "<|im_",
    "<|im_end|",
    "<<|im_end|>>",
]


def hugging_face(kind: type, vocab: tuple[list[str], list[str]], control: list[str], user_defined: list[str]) -> Any:
    tokens, merges = vocab
    reference = kind(
        vocab={text: token for token, text in enumerate(tokens)}, merges=[tuple(merge.split(" ")) for merge in merges]
    )
    reference.add_tokens([AddedToken(text, normalized=False, special=True) for text in control], special_tokens=True)
    reference.add_tokens([AddedToken(text, normalized=False) for text in user_defined])
    return reference


@pytest.mark.parametrize(("pre", "kind"), [("qwen2", Qwen2Tokenizer), ("qwen35", Qwen3_5Tokenizer)])
def test_gguf_equals_transformers(small_metadata: dict[str, Any], small_vocab: Any, pre: str, kind: type) -> None:
    """Oracle: transformers' own tokenizer class, given the same vocabulary and merges."""
    ours = load_tokenizer({**small_metadata, "tokenizer.ggml.pre": pre})
    reference = hugging_face(kind, small_vocab, CONTROL, USER_DEFINED)
    for text in [*corpus(), *MARKED]:
        tokens = ours.encode(text)
        assert tokens == reference.encode(text, add_special_tokens=False), text
        assert ours.decode(tokens, skip_special_tokens=False) == reference.decode(tokens), text
        assert ours.decode(tokens) == reference.decode(tokens, skip_special_tokens=True), text


def test_default_model_equals_transformers(default_metadata: Mapping[str, Any], default: Tokenizer) -> None:
    """Oracle: transformers' Qwen2Tokenizer, given the vocabulary and merges of the file."""
    tokens = default_metadata["tokenizer.ggml.tokens"]
    types = default_metadata["tokenizer.ggml.token_type"]
    normal = [text for text, kind in zip(tokens, types, strict=True) if kind == 1]
    marked = [[text for text, kind in zip(tokens, types, strict=True) if kind == number] for number in (3, 4)]
    assert tokens[: len(normal)] == normal
    reference = Qwen2Tokenizer(
        vocab={text: token for token, text in enumerate(normal)},
        merges=[tuple(merge.split(" ")) for merge in default_metadata["tokenizer.ggml.merges"]],
    )
    added = [AddedToken(text, normalized=False, special=text in marked[0]) for text in tokens[len(normal) : len(normal) + 22]]
    reference.add_tokens(added)
    for text in [*corpus(1000), *MARKED]:
        ours = default.encode(text)
        assert ours == reference.encode(text, add_special_tokens=False), text
        assert default.decode(ours, skip_special_tokens=False) == reference.decode(ours), text
    assert default.eos_token_ids == (151645, 151643)
    assert (default.vocab_size, default.id_of("<|im_start|>"), default.id_of(" the")) == (151936, 151644, 279)


@pytest.mark.parametrize("pre", sorted(RECIPES))
def test_every_byte_survives(small_metadata: dict[str, Any], pre: str) -> None:
    tokenizer = load_tokenizer({**small_metadata, "tokenizer.ggml.pre": pre})
    for text in corpus(100):
        if RECIPES[pre].compose and not composed(text):
            continue
        assert tokenizer.decode(tokenizer.encode(text, allow_special=False)) == text


def test_llama3_takes_whole_words(small_metadata: dict[str, Any], small_vocab: Any) -> None:
    """Oracle: `tokenizers` with the settings of Llama 3's published tokenizer.json."""
    ours = load_tokenizer({**small_metadata, "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": True})
    content = json.loads(ours.backend.to_str()) if isinstance(ours, BytePairTokenizer) else {}
    assert content["model"]["ignore_merges"] is True
    assert content["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": LLAMA3}
    assert ours.encode("x")[0] == ours.bos_token_id
    assert ours.encode("x", add_special_tokens=False)[0] != ours.bos_token_id


def test_special_texts_can_be_plain_text(small: Tokenizer) -> None:
    text = "say <|im_end|> and <think>"
    assert small.special_tokens["<|im_end|>"] in small.encode(text)
    plain = small.encode(text, allow_special=False)
    assert not set(plain) & set(small.added_tokens.values())
    assert small.decode(plain) == text


def test_lone_surrogates_become_replacement_characters(small: Tokenizer) -> None:
    assert small.decode(small.encode("a\ud800b")) == "a\ufffdb"


def test_token_bytes(small: Tokenizer) -> None:
    for text in corpus(50):
        if composed(text):
            assert b"".join(small.token_bytes(token) for token in small.encode(text)) == text.encode()
    assert small.token_bytes(small.special_tokens["<|im_end|>"]) == b"<|im_end|>"
    assert small.token_bytes(small.vocab_size - 1) == b""
    assert small.token_bytes(10**9) == b""
    assert small.token_bytes(-1) == b""
    wide = small.vocab_size + 3
    assert small.all_bytes(wide) == [small.token_bytes(token) for token in range(wide)]
    assert len(small.all_bytes()) == small.vocab_size


def test_numpy_metadata(small_metadata: dict[str, Any], small: Tokenizer) -> None:
    as_arrays = {
        **small_metadata,
        "tokenizer.ggml.token_type": np.array(small_metadata["tokenizer.ggml.token_type"], dtype=np.int32),
        "tokenizer.ggml.tokens": np.array(small_metadata["tokenizer.ggml.tokens"], dtype=object),
        "tokenizer.ggml.merges": [merge.encode() for merge in small_metadata["tokenizer.ggml.merges"]],
        "tokenizer.ggml.eos_token_id": np.uint32(small_metadata["tokenizer.ggml.eos_token_id"]),
    }
    again = load_tokenizer(as_arrays)
    assert again.hash == small.hash
    assert again.encode("hello <|im_end|>") == small.encode("hello <|im_end|>")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"tokenizer.ggml.pre": "superbpe"}, Unsupported, "superbpe"),
        ({"tokenizer.ggml.model": "llama"}, Unsupported, "llama"),
        ({"tokenizer.ggml.tokens": None}, FormatError, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.merges": ["nospace"]}, FormatError, "merges"),
        ({"tokenizer.ggml.merges": ["q zzz"]}, FormatError, "merges"),
        ({"tokenizer.ggml.token_type": [1]}, FormatError, "token types"),
        ({"tokenizer.ggml.eos_token_id": 10**7}, FormatError, "eos_token_id"),
        ({"tokenizer.ggml.eos_token_id": "<|im_end|>"}, FormatError, "eos_token_id"),
        ({"tokenizer.ggml.tokens": [b"\xff"], "tokenizer.ggml.token_type": [1]}, FormatError, "not text"),
    ],
)
def test_damaged_metadata_is_refused(
    small_metadata: dict[str, Any], change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load_tokenizer({**small_metadata, **change})


@pytest.fixture
def folder(tmp_path: Path, small: Tokenizer) -> Path:
    """The small tokenizer as a folder that transformers reads, with a beginning token in its post-processing."""
    assert isinstance(small, BytePairTokenizer)
    backend = Backend.from_str(small.backend.to_str())
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", small.special_tokens["<|endoftext|>"])]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": {"content": "<|im_end|>", "__type": "AddedToken"},
        "chat_template": "{{ bos_token }}{{ messages[0].content }}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ends = [small.special_tokens["<|im_end|>"], small.special_tokens["<|endoftext|>"]]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return tmp_path


def test_folder_equals_transformers(folder: Path, small: Tokenizer) -> None:
    """Oracle: AutoTokenizer on the same folder."""
    ours = load_tokenizer(folder)
    reference = AutoTokenizer.from_pretrained(folder)
    assert isinstance(reference, PreTrainedTokenizerFast)
    for text in [*corpus(100), *MARKED]:
        assert ours.encode(text) == reference.encode(text), text
        assert ours.encode(text, add_special_tokens=False) == reference.encode(text, add_special_tokens=False), text
    assert ours.eos_token_ids == (small.special_tokens["<|im_end|>"], small.special_tokens["<|endoftext|>"])
    assert ours.facts.named["eos_token"] == "<|im_end|>"
    assert ours.chat_template == "{{ bos_token }}{{ messages[0].content }}"


def test_config_switch_overrides_post_processing(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "add_bos_token": False}))
    assert load_tokenizer(folder).facts.prefix == ()


def test_hash_is_of_the_content(folder: Path, small: Tokenizer, small_metadata: dict[str, Any]) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    assert load_tokenizer(folder).hash == small.hash
    merges = small_metadata["tokenizer.ggml.merges"]
    assert load_tokenizer({**small_metadata, "tokenizer.ggml.merges": merges[:-1]}).hash != small.hash
    assert load_tokenizer({**small_metadata, "tokenizer.ggml.pre": "qwen35"}).hash != small.hash


def test_a_named_token_without_a_text_is_none(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {}, "bos_token": {"a": 1}}))
    assert load_tokenizer(folder).bos_token_id is None


def test_chat_template_file_comes_first(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("file")
    assert load_tokenizer(folder).chat_template == "file"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("tokenizer.json", "{", FormatError),
        ("tokenizer.json", "[]", FormatError),
        ("tokenizer.json", '{"model": {"type": "Unigram"}}', Unsupported),
        ("tokenizer.json", '{"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel"}}', FormatError),
        ("tokenizer_config.json", "\xff", FormatError),
        ("generation_config.json", "nonsense", FormatError),
        ("generation_config.json", '{"eos_token_id": "2"}', FormatError),
        ("generation_config.json", '{"eos_token_id": [2, {}]}', FormatError),
        ("generation_config.json", '{"eos_token_id": 1e999}', FormatError),
        ("chat_template.jinja", "\xff", FormatError),
    ],
)
def test_damaged_folder_is_refused(folder: Path, name: str, content: str, error: type[Exception]) -> None:
    (folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(error, match=name):
        load_tokenizer(folder)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"tiktoken\.model"):
        load_tokenizer(tmp_path)


@pytest.fixture
def kimi_folder(tmp_path: Path) -> Path:
    words = ["the", "人工", "智能", "é", "ing", " th", "Hello", "12", "123", "\n\n", "  ", "aa", "aaaa"]
    ranks = [bytes([byte]) for byte in range(256)]
    for word in words:
        data = word.encode()
        ranks += [data[:end] for end in range(2, len(data) + 1) if data[:end] not in ranks]
    lines = [base64.b64encode(data) + b" %d" % rank for rank, data in enumerate(ranks)]
    (tmp_path / "tiktoken.model").write_bytes(b"\n".join(lines) + b"\n")
    names = {len(ranks): "[BOS]", len(ranks) + 1: "[EOS]", len(ranks) + 2: "<|im_end|>"}
    config = {
        "added_tokens_decoder": {str(token): {"content": text, "special": True} for token, text in names.items()},
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_kimi_equals_tiktoken(kimi_folder: Path) -> None:
    """Oracle: tiktoken with the vendor's pattern, for texts below the vendor's cutting limits."""
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    ours = load_tokenizer(kimi_folder)
    reference = tiktoken.Encoding(
        "reference",
        pat_str=KIMI,
        mergeable_ranks=load_tiktoken_bpe(str(kimi_folder / "tiktoken.model")),
        special_tokens=dict(ours.special_tokens),
    )
    for text in [*corpus(), "a<|im_end|>b[EOS]"]:
        assert ours.encode(text) == reference.encode(text, allowed_special="all"), text
        assert ours.encode(text, allow_special=False) == reference.encode(text, disallowed_special=()), text
        assert ours.decode(ours.encode(text), skip_special_tokens=False) == text
    assert len(ours.special_tokens) == 256
    assert ours.eos_token_ids == (ours.special_tokens["[EOS]"],)
    assert ours.hash == load_tokenizer(kimi_folder).hash


def test_kimi_cuts_long_runs_as_the_vendor_does(kimi_folder: Path) -> None:
    """A run is cut every 25,000 characters; what is cut apart cannot merge."""
    ours = load_tokenizer(kimi_folder)
    four = ours.id_of("aaaa")
    two = ours.id_of("aa")
    assert ours.encode("a" * 25_002) == [four] * 6250 + [two]
    assert ours.encode("b " + "a" * 25_002)[-2:] == [four, two]
    assert ours.decode(ours.encode(" " * 60_001 + "b" * 60_001)) == " " * 60_001 + "b" * 60_001


@pytest.mark.parametrize("line", [b"!!! 3", b"YQ==", b"YQ== x", b"YQ== 0"])
def test_damaged_ranks_are_refused(kimi_folder: Path, line: bytes) -> None:
    path = kimi_folder / "tiktoken.model"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(FormatError, match=r"tiktoken\.model"):
        load_tokenizer(kimi_folder)
