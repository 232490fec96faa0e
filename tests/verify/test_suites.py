"""The suites that come with Parity, and those that users bring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.core.errors import FormatError, ModelNotFound
from parity.verify import suites


def write(path: Path, *lines: object) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def test_ours_cover_what_they_promise() -> None:
    quick, full = suites.load("quick"), suites.load("full")
    tags = {tag for item in full.items for tag in item.tags}
    assert {"prose", "code", "zh", "languages", "arithmetic", "tools", "history", "thinking", "long", "unicode"} <= tags
    assert full.items[: len(quick.items)] == quick.items
    assert sum(item.paths for item in quick.items) >= 4
    assert sum(item.check is not None for item in full.items) >= 150
    assert quick.licence == full.licence == "Apache-2.0"
    assert len(full.items[-1].messages[0].content) < 200
    assert any(len(item.text) > 10_000 for item in full.items)


def test_hash_depends_on_contents_only(tmp_path: Path) -> None:
    a = suites.load(write(tmp_path / "a.jsonl", {"id": "x", "text": "one"}))
    b = suites.load(write(tmp_path / "b.jsonl", '{ "text":"one",  "id":"x" }', ""))
    c = suites.load(write(tmp_path / "c.jsonl", {"id": "x", "text": "two"}))
    assert a.hash == b.hash != c.hash


def test_users_lines_may_be_short(tmp_path: Path) -> None:
    suite = suites.load(
        write(
            tmp_path / "mine.jsonl",
            {"suite": "mine", "licence": "CC0-1.0", "includes": ["quick"]},
            {"text": "hello"},
            {"messages": [{"role": "user", "content": "hi"}], "answer_tokens": 4},
        )
    )
    assert suite.name == "mine"
    assert [(item.id, item.kind) for item in suite.items[-2:]] == [("line-00002", "text"), ("line-00003", "chat")]


def test_the_ledger_is_the_same_everywhere(tmp_path: Path) -> None:
    item = suites.load(write(tmp_path / "a.jsonl", {"build": {"lines": 2, "seed": 1}})).items[0]
    assert item.text == (
        "Entry 1: Lotte sent 850 crates of olives to Brask.\nEntry 2: Nadia sent 962 crates of glass to Brask.\n"
    )


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "not valid JSON"),
        ("[]", "Expected `object`"),
        ('{"text": "a", "txet": 1}', "unknown field"),
        ('{"text": 5}', "Expected `str`"),
        ('{"id": "x"}', "needs `text`"),
        ('{"text": "a", "messages": [{"role": "user", "content": "b"}]}', "not both"),
        ('{"messages": [{"role": "robot", "content": "b"}]}', "Invalid enum"),
        ('{"text": "a", "answer_tokens": -1}', "answer_tokens"),
        ('{"build": {"lines": 1000000000, "seed": 1}}', "between 1 and"),
        ('{"suite": "x", "includes": ["/etc/passwd"]}\n{"text": "a"}', "can be included"),
        ('{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}', "an id twice"),
        ("\n", "no prompts"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, word: str) -> None:
    with pytest.raises(FormatError, match=word):
        suites.load(write(tmp_path / "bad.jsonl", line))


def test_unknown_suite() -> None:
    with pytest.raises(ModelNotFound, match="full, quick"):
        suites.load("nope")


@pytest.mark.parametrize(
    ("text", "right"), [("42", True), ("It is 1,042.", False), ("17 + 25 = 42.", True), ("42 or 43", False), ("", False)]
)
def test_checks(text: str, right: bool) -> None:
    assert suites.Check(number=42).passes(text) is right
    assert suites.Check(contains="yes").passes("oh yes")
    assert not suites.Check(contains="yes").passes("no")
