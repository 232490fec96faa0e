"""Streaming gives the text of decoding at once, in whole characters, and nothing of a stop string."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from parity.text.bytelevel import from_bytes
from parity.text.stream import StopCutter, TextStream
from parity.text.tokenizer import Tokenizer, load_tokenizer

from .conftest import CONTROL, train

_TOKENS, _MERGES = train()
TOKENIZER: Tokenizer = load_tokenizer(
    {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [*_TOKENS, *CONTROL],
        "tokenizer.ggml.token_type": [1] * len(_TOKENS) + [3] * len(CONTROL),
        "tokenizer.ggml.merges": _MERGES,
    }
)
token_ids = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40)
stops = st.lists(st.text(st.sampled_from("abé\ufffd "), min_size=1, max_size=4), max_size=3).map(tuple)


def cut(items: list[int], sizes: list[int]) -> list[list[int]]:
    pieces, start = [], 0
    for size in [*sizes, len(items)]:
        pieces.append(items[start : start + size])
        start += size
    return pieces


def expected(text: str, stop: tuple[str, ...]) -> tuple[str, str | None]:
    """By trying each end: the slow definition."""
    for end in range(len(text) + 1):
        matches = [word for word in stop if text[:end].endswith(word)]
        if matches:
            longest = max(matches, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(token_ids, st.lists(st.integers(0, 5), max_size=20), st.booleans())
@settings(max_examples=500, deadline=None)
def test_pushes_join_to_the_decoded_text(tokens: list[int], sizes: list[int], skip: bool) -> None:
    stream = TextStream(TOKENIZER, skip_special_tokens=skip)
    text = "".join(stream.push(piece) for piece in cut(tokens, sizes)) + stream.flush()
    assert text == TOKENIZER.decode(tokens, skip_special_tokens=skip)


@given(st.text(st.sampled_from("abé\ufffd "), max_size=30), stops, st.lists(st.integers(0, 4), max_size=20))
@settings(max_examples=1000, deadline=None)
def test_text_ends_at_the_first_stop_string(text: str, stop: tuple[str, ...], sizes: list[int]) -> None:
    tokens = [_token_of(byte) for byte in text.encode()]
    stream = TextStream(TOKENIZER, stop=stop)
    pushed = [stream.push(piece) for piece in cut(tokens, sizes)]
    wanted, matched = expected(text, stop)
    assert all(wanted.startswith("".join(pushed[:count])) for count in range(len(pushed) + 1))
    assert "".join(pushed) + stream.flush() == wanted
    assert stream.stopped == matched
    assert stream.push(TOKENIZER.encode("more")) == ("" if matched else "more")


def _token_of(byte: int) -> int:
    return _TOKENS.index(from_bytes(bytes([byte])))


def test_incomplete_characters_wait() -> None:
    stream = TextStream(TOKENIZER)
    first, second, *rest = (_token_of(byte) for byte in "é€".encode())
    assert stream.push([first]) == ""
    assert stream.push([second]) == "é"
    assert stream.push(rest[:2]) == ""
    assert stream.flush() == "\ufffd"


def test_marker_tokens_can_be_kept() -> None:
    end, start = (TOKENIZER.special_tokens[text] for text in ("<|im_end|>", "<|im_start|>"))
    stream = TextStream(TOKENIZER, keep=frozenset({start}))
    assert stream.push([start, *TOKENIZER.encode("x"), end]) == "<|im_start|>x"


def test_a_stop_string_in_the_last_replacement_character() -> None:
    stream = TextStream(TOKENIZER, stop=("\ufffd",))
    assert stream.push([_token_of(0x61), _token_of(0xE2)]) == "a"
    assert stream.flush() == ""
    assert stream.stopped == "\ufffd"


def test_what_is_held_back_does_not_grow_with_the_text() -> None:
    """A stop string's beginning over and over: each push looks at what is held and no further, so its cost does not grow."""
    cutter = StopCutter(("a" * 50 + "b",))
    assert [len(cutter.push("a")) for _ in range(1000)] == [0] * 50 + [1] * 950
