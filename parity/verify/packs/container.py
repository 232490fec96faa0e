"""One file that holds named entries, each with its hash. Nothing in it is ever executed.

    0   magic           8 bytes, PARITYPK
    8   version         uint32, little-endian like all numbers here
    12  zero            uint32
    16  index offset    uint64
    24  index length    uint64
    32  index SHA-256   32 bytes: the identity of the whole file
    64  entries         one after the other, no gaps
        index           canonical JSON, the end of the file: {"entries": [[name, length, sha256], ...]}

The reader trusts nothing: every length is checked against the file's before anything is allocated.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from ...core.errors import FormatError, HashMismatch
from ...core.whole import naming

MAGIC = b"PARITYPK"
VERSION = 1
_HEADER = struct.Struct("<8sIIQQ32s")
_MAX_INDEX_BYTES = 16 << 20
_MAX_ENTRY_BYTES = 256 << 20
_MAX_JSON_BYTES = 16 << 20
_MAX_ENTRIES = 65_536
_NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*\.(json|safetensors)")


class Writer:
    """Writes entries to `path`, which appears under its name only once it is whole: use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._file = self._part.open("wb")
        self._file.write(bytes(_HEADER.size))
        self._entries: dict[str, tuple[int, str]] = {}

    def add(self, name: str, data: bytes) -> None:
        """Appends one entry."""
        assert _NAME.fullmatch(name), name
        assert name not in self._entries, name
        if len(data) > _MAX_ENTRY_BYTES:
            raise FormatError(f"{name} would hold {len(data)} bytes and an entry holds at most {_MAX_ENTRY_BYTES}")
        with naming(self._path):
            self._file.write(data)
        self._entries[name] = (len(data), hashlib.sha256(data).hexdigest())

    def add_json(self, name: str, value: Any) -> None:
        """Appends a JSON entry in canonical form."""
        self.add(name, canonical_json(value))

    def listed(self) -> list[list[Any]]:
        """(name, length, SHA-256) of what was added so far."""
        return [[name, *rest] for name, rest in self._entries.items()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                with naming(self._path):
                    self._finish()
        finally:
            with suppress(OSError):  # what could not be written cannot be flushed either
                self._file.close()
            self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        offset = self._file.tell()
        index = canonical_json({"entries": self.listed()})
        self._file.write(index)
        self._file.seek(0)
        self._file.write(_HEADER.pack(MAGIC, VERSION, 0, offset, len(index), hashlib.sha256(index).digest()))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self._path)


class Reader:
    """Reads entries on demand; each is checked against its hash. Holds no file open.

    Raises:
        FormatError: the file is not a pack, of another version, truncated or inconsistent; the text says which.
        HashMismatch: an entry or the index was changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self.hash, self._entries = self._read_index(file)
        except OSError as error:
            raise FormatError(f"cannot read the pack {path}: {error.strerror}") from None

    def _read_index(self, file: BinaryIO) -> tuple[str, dict[str, tuple[int, int, str]]]:
        size = os.fstat(file.fileno()).st_size
        header = file.read(_HEADER.size)
        if header[:8] != MAGIC:
            raise FormatError(f"{self._path} is not a parity pack (it does not begin with {MAGIC.decode()})")
        if len(header) < _HEADER.size:
            raise FormatError(f"{self._path} is truncated: {len(header)} bytes")
        _, version, zero, offset, length, digest = _HEADER.unpack(header)
        if version != VERSION:
            age = "an older" if version < VERSION else "a newer"
            raise FormatError(f"{self._path} has {age} pack format ({version}); this program reads {VERSION}: capture it again")
        if zero or offset < _HEADER.size or length > _MAX_INDEX_BYTES or offset + length != size:
            raise FormatError(f"{self._path} is truncated or damaged: its index does not end where the file does")
        file.seek(offset)
        index = file.read(length)
        if hashlib.sha256(index).digest() != digest:
            raise HashMismatch(f"{self._path} is damaged: its index does not match its SHA-256")
        return digest.hex(), self._place(parse_json(index, f"the index of {self._path}"), offset)

    def _place(self, index: Any, end: int) -> dict[str, tuple[int, int, str]]:
        rows = index.get("entries") if isinstance(index, dict) else None
        if not isinstance(rows, list) or len(rows) > _MAX_ENTRIES:
            raise FormatError(f"{self._path} is damaged: its index is not a list of entries")
        entries: dict[str, tuple[int, int, str]] = {}
        offset = _HEADER.size
        for row in rows:
            if not (isinstance(row, list) and [type(x) for x in row] == [str, int, str]):
                raise FormatError(f"{self._path} is damaged: an index row is not (name, length, hash)")
            name, length, digest = row
            if not _NAME.fullmatch(name) or name in entries or not 0 <= length <= min(_MAX_ENTRY_BYTES, end - offset):
                raise FormatError(f"{self._path} is damaged: the entry {name[:80]!r} has a bad name or length")
            entries[name] = (offset, length, digest)
            offset += length
        if offset != end:
            raise FormatError(f"{self._path} is damaged: {end - offset} bytes belong to no entry")
        return entries

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def listed(self) -> list[list[Any]]:
        """(name, length, SHA-256) of every entry, in order."""
        return [[name, length, digest] for name, (_, length, digest) in self._entries.items()]

    def sizes(self) -> dict[str, int]:
        """Bytes of each entry."""
        return {name: length for name, (_, length, _) in self._entries.items()}

    def read(self, name: str) -> bytes:
        """An entry's bytes."""
        if name not in self._entries:
            raise FormatError(f"{self._path} has no entry {name!r}")
        offset, length, digest = self._entries[name]
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                data = file.read(length)
        except OSError as error:
            raise FormatError(f"cannot read the pack {self._path}: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise HashMismatch(f"{self._path} is damaged: the entry {name!r} does not match its SHA-256")
        return data

    def read_json(self, name: str) -> Any:
        """An entry parsed as JSON."""
        return parse_json(self.read(name), f"{name} of {self._path}")


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse_json(data: bytes, what: str) -> Any:
    """Parses JSON of bounded size and depth; NaN and repeated keys are refused.

    Raises:
        FormatError: with `what` in its text.
    """
    if len(data) > _MAX_JSON_BYTES:
        raise FormatError(f"{what} holds {len(data)} bytes of JSON; at most {_MAX_JSON_BYTES} are read")
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not valid JSON: {str(error)[:200]}") from None


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found
