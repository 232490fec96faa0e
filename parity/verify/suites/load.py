"""Reads a suite: one of ours by name, or anyone's JSONL file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from ...core.chat import Message, Role, Tool, ToolCall
from ...core.errors import FormatError, ModelNotFound
from ..packs.container import canonical_json, parse_json

_FOLDER = Path(__file__).parent
_MAX_SUITE_BYTES = 64 << 20
_MAX_BUILD_LINES = 100_000


@dataclass(frozen=True, slots=True)
class Check:
    """When an answer is right: it contains a text, or the last number in it is this one."""

    contains: str | None = None
    number: float | None = None

    def passes(self, text: str) -> bool:
        """Whether an answer is right."""
        if self.contains is not None and self.contains not in text:
            return False
        if self.number is None:
            return True
        found = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
        return bool(found) and float(found[-1]) == self.number


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt.

    Args:
        id: unique in the suite.
        kind: `text` is scored as it stands; `chat` is rendered with the model's template, scored, and answered.
        text, messages, tools, thinking: what it says; `thinking` None leaves the template's default.
        tags: what it is an example of.
        answer_tokens: most tokens of the greedy answer; 0 asks for none.
        paths: whether every path is captured, and not the one-shot one only.
        scored: whether its distributions are captured; without them a chat is only answered.
        check: when the answer is right.
        call: the tool that a good answer calls, "" for none; None when it does not matter.
    """

    id: str
    kind: Literal["text", "chat"]
    text: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    thinking: bool | None = None
    tags: tuple[str, ...] = ()
    answer_tokens: int = 0
    paths: bool = False
    check: Check | None = None
    call: str | None = None
    scored: bool = True


@dataclass(frozen=True, slots=True)
class Suite:
    """Prompts in order. `hash` is SHA-256 over the contents of all of them, as they are after building."""

    name: str
    licence: str
    items: tuple[Item, ...]
    hash: str


@dataclass(frozen=True, slots=True)
class _Call:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class _Turn:
    role: Role
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[_Call, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class _ToolLine:
    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Build:
    lines: int
    seed: int


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str = ""
    kind: Literal["text", "chat"] | None = None
    text: str = ""
    messages: tuple[_Turn, ...] = ()
    tools: tuple[_ToolLine, ...] = ()
    thinking: bool | None = None
    tags: tuple[str, ...] = ()
    answer_tokens: int = 0
    paths: bool = False
    check: Check | None = None
    call: str | None = None
    scored: bool = True
    build: _Build | None = None


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    suite: str
    version: int = 1
    licence: str = "not stated"
    source: str = ""
    includes: tuple[str, ...] = ()


def names() -> tuple[str, ...]:
    """The suites that come with Parity."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.jsonl")))


def load(name: str) -> Suite:
    """A suite by name or by the path of a JSONL file.

    Raises:
        ModelNotFound: neither.
        FormatError: a line is wrong; the text names it.
    """
    path = _FOLDER / f"{name}.jsonl" if name in names() else Path(name)
    if not path.is_file():
        raise ModelNotFound(f"no suite {name!r}: give a JSONL file or one of {', '.join(names())}")
    if path.stat().st_size > _MAX_SUITE_BYTES:
        raise FormatError(f"the suite {path} is larger than {_MAX_SUITE_BYTES} bytes")
    return _parse(path.read_bytes().splitlines(), path)


def _parse(lines: Iterable[bytes], path: Path) -> Suite:
    header, items = _Header(suite=path.stem), list[Item]()
    for number, raw in enumerate((line for line in lines if line.strip()), start=1):
        what = f"line {number} of {path}"
        value = parse_json(raw, what)
        if number == 1 and isinstance(value, dict) and "suite" in value:
            header = _typed(value, _Header, what)
        else:
            items.append(_item(_typed(value, _Line, what), number, what))
    included = tuple(item for name in header.includes for item in _included(name, path).items)
    everything = (*included, *items)
    if not everything:
        raise FormatError(f"the suite {path} has no prompts")
    if len({item.id for item in everything}) != len(everything):
        raise FormatError(f"the suite {path} uses an id twice")
    digest = hashlib.sha256(canonical_json(msgspec.to_builtins(everything))).hexdigest()
    return Suite(header.suite, header.licence, everything, digest)


def _included(name: str, path: Path) -> Suite:
    if name not in names() or name == path.stem:
        raise FormatError(f"the suite {path} includes {name!r}; only {', '.join(names())} can be included")
    return load(name)


def _typed(value: Any, kind: type[Any], what: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise FormatError(f"{what}: {error}") from None


def _item(line: _Line, number: int, what: str) -> Item:
    text = _ledger(line.build, what) if line.build else line.text
    kind = line.kind or ("chat" if line.messages else "text")
    if bool(text) == bool(line.messages) or (kind == "chat") != bool(line.messages):
        raise FormatError(f"{what}: a text needs `text` or `build`, a chat needs `messages`, and not both")
    if not 0 <= line.answer_tokens <= 65_536:
        raise FormatError(f"{what}: answer_tokens must be between 0 and 65536")
    if not line.scored and not (line.messages and line.answer_tokens and not line.paths):
        raise FormatError(f"{what}: only a chat that is answered, and not on every path, can go unscored")
    messages = tuple(_message(turn) for turn in line.messages)
    tools = tuple(Tool(tool.name, tool.description, tool.parameters) for tool in line.tools)
    return Item(
        line.id or f"line-{number:05d}",
        kind,
        text,
        messages,
        tools,
        line.thinking,
        line.tags,
        line.answer_tokens,
        line.paths,
        line.check,
        line.call,
        line.scored,
    )


def _message(turn: _Turn) -> Message:
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in turn.tool_calls)
    return Message(turn.role, turn.content, turn.reasoning, calls, turn.tool_call_id, turn.name)


def _ledger(build: _Build, what: str) -> str:
    """A long text, the same on every machine: a ledger of which any line can be asked for."""
    if not 1 <= build.lines <= _MAX_BUILD_LINES:
        raise FormatError(f"{what}: a build has between 1 and {_MAX_BUILD_LINES} lines")
    state, rows = build.seed % 2**64, list[str]()
    for number in range(1, build.lines + 1):
        drawn = []
        for choices in (_DRAWN["goods"], _DRAWN["places"], _DRAWN["people"]):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            drawn.append(choices[(state >> 33) % len(choices)])
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        amount = 10 + (state >> 33) % 990
        rows.append(f"Entry {number}: {drawn[2]} sent {amount} crates of {drawn[0]} to {drawn[1]}.")
    return "\n".join(rows) + "\n"


_DRAWN: Mapping[str, tuple[str, ...]] = {
    "goods": ("copper", "tea", "glass", "wool", "salt", "paper", "olives", "slate"),
    "places": ("Arlen", "Brask", "Corvo", "Denby", "Elsin", "Farrow", "Gault"),
    "people": ("Ines", "Jonas", "Karim", "Lotte", "Mei", "Nadia", "Oskar", "Priya", "Quentin"),
}
