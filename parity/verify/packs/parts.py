"""What a capture has so far, beside the pack that it will be: a stopped run goes on from there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...core.errors import FormatError
from ...core.whole import write_whole
from ..record import Record
from ..suites import Item
from .codec import decode_record, encode_record
from .container import canonical_json
from .pack import Pack

_BEGUN = "-begun"


class Parts:
    """Records in `<name>.parts`, a folder for each way of asking.

    Args:
        path: the pack that will be.
        asked: who is asked for what: records of anything else are not taken for these.
        reference: the pack whose tokens and inner values serve.
    """

    def __init__(self, path: Path, asked: Sequence[Any], reference: Pack | None) -> None:
        key = canonical_json([*map(msgspec.to_builtins, asked), reference.hash if reference else ""])
        self._folder = _root(path) / hashlib.sha256(key).hexdigest()[:16]
        self._folder.mkdir(parents=True, exist_ok=True)

    def has(self, group: Sequence[Item]) -> bool:
        """Whether the group's records are all there and whole."""
        return all(self._known(item.id) is not None for item in group)

    def read_one(self, name: str) -> Record:
        """One prompt's record, which must be there."""
        return self._read(self._folder / _stem(name))

    def begun(self, name: str) -> Record | None:
        """A record that lacks its answer yet; None where there is none."""
        return self._known(name, _BEGUN)

    def begin(self, record: Record) -> None:
        """Keeps a record that lacks its answer yet."""
        self._write(record, _BEGUN)

    def write(self, records: Sequence[Record]) -> None:
        """Keeps a group's records."""
        for record in records:
            self._write(record)

    def _known(self, name: str, ending: str = "") -> Record | None:
        try:
            record = self._read(self._folder / (_stem(name) + ending))
        except (OSError, FormatError):
            return None
        return record if record.id == name else None

    def _read(self, stem: Path) -> Record:
        data = stem.with_suffix(".json").read_bytes(), stem.with_suffix(".safetensors").read_bytes()
        return decode_record(*data, f"the part {stem}")

    def _write(self, record: Record, ending: str = "") -> None:
        text, arrays = encode_record(record)
        stem = _stem(record.id) + ending
        for suffix, data in (("safetensors", arrays), ("json", text)):
            write_whole(self._folder / f"{stem}.{suffix}", data)


def forget(path: Path) -> None:
    """Drops all parts of a pack: nobody will go on with them."""
    shutil.rmtree(_root(path), ignore_errors=True)


def _root(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _stem(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]
