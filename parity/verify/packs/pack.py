"""A golden pack: everything captured of one side, in one file, read strictly and a prompt at a time.

pack.json                    format of the contents, identity, plan, what was not reached and why, prompts in order
prompts/00000.json           what of a record is text
prompts/00000.safetensors    what of it is numbers
exact.json                   SHA-256 of each exact probe's result, and of the right one
layers.json, .safetensors    the inside of the model on one prompt; what leaves one site and enters the next is there once
isolated.json                each site's error when fed another pack's inner values
signature.json               of the names, lengths and hashes of all other entries; the last one, if it is signed
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from ...core.errors import FormatError
from ..record import Exact, Identity, Isolated, Layers, Plan, Record
from .arrays import Arrays, load, save, take, typed
from .codec import decode_record, encode_record
from .container import Reader, Writer
from .signature import Signer, check, read_signature

CONTENT_FORMAT = 2
_SIGNATURE = "signature.json"


@dataclass(frozen=True, slots=True)
class Summary:
    """The first entry of a pack. `unreached` says by name what the side could not give, and why."""

    format: int
    made_by: str
    identity: Identity
    plan: Plan
    prompts: tuple[str, ...]
    unreached: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _LayersText:
    """The sites, and which of the arrays each one's values are."""

    sites: tuple[tuple[int, str], ...]
    arrays: tuple[int, ...]


class PackWriter:
    """Writes a pack record by record, so memory does not grow with the suite: use as a context manager."""

    def __init__(self, path: Path, *, made_by: str, identity: Identity, plan: Plan, signer: Signer | None = None) -> None:
        self._writer, self._signer = Writer(path), signer
        self._made_by, self._identity, self._plan = made_by, identity, plan
        self._prompts: list[str] = []
        self.unreached: dict[str, str] = {}

    def add(self, record: Record) -> None:
        """Appends the next prompt's record."""
        stem = f"prompts/{len(self._prompts):05d}"
        self._prompts.append(record.id)
        text, arrays = encode_record(record)
        self._writer.add(f"{stem}.json", text)
        self._writer.add(f"{stem}.safetensors", arrays)

    def add_exact(self, results: Mapping[str, Exact]) -> None:
        """The exact probes' hashes."""
        self._writer.add_json("exact.json", msgspec.to_builtins(dict(results)))

    def add_layers(self, layers: Layers) -> None:
        """The inside of the model."""
        distinct: dict[bytes, int] = {}
        arrays: Arrays = {"tokens": layers.tokens}
        places = []
        for value in layers.values:
            place = distinct.setdefault(_fingerprint(value), len(distinct))
            arrays.setdefault(f"{place:05d}", value)
            places.append(place)
        self._writer.add_json("layers.json", asdict(_LayersText(layers.sites, tuple(places))))
        self._writer.add("layers.safetensors", save(arrays))

    def add_isolated(self, isolated: Isolated) -> None:
        """The sites' own errors."""
        self._writer.add_json("isolated.json", msgspec.to_builtins(isolated))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if kind is None:
                self._close()
        except BaseException as failure:
            kind = type(failure)
            raise
        finally:
            self._writer.__exit__(kind, error, trace)

    def _close(self) -> None:
        summary = Summary(CONTENT_FORMAT, self._made_by, self._identity, self._plan, tuple(self._prompts), self.unreached)
        self._writer.add_json("pack.json", msgspec.to_builtins(summary))
        if self._signer is not None:
            signature = self._signer.sign({"entries": self._writer.listed()})
            self._writer.add_json(_SIGNATURE, msgspec.to_builtins(signature))


class Pack:
    """A pack opened for reading. Every value is checked before it is handed out.

    Raises:
        FormatError: what is wrong with the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = Reader(path)
        contents = self._reader.read_json("pack.json")
        version = contents.get("format") if isinstance(contents, dict) else None
        if version != CONTENT_FORMAT:
            raise FormatError(f"{path} holds contents of format {version!r}; this program reads {CONTENT_FORMAT}")
        self.summary = typed(contents, Summary, f"pack.json of {path}")
        if len(set(self.summary.prompts)) != len(self.summary.prompts):
            raise FormatError(f"pack.json of {path} names a prompt twice")
        self._places = {prompt: index for index, prompt in enumerate(self.summary.prompts)}
        self.signed_by = self._signed_by()

    def _signed_by(self) -> str | None:
        """The public key that signed everything in the pack; None where nobody did, or it could not be checked."""
        if _SIGNATURE not in self._reader:
            return None
        what = f"the pack {self.path}"
        found = read_signature(self._reader.read_json(_SIGNATURE), what)
        signed = {"entries": [row for row in self._reader.listed() if row[0] != _SIGNATURE]}
        return found.public_key if check(found, signed, what) else None

    @property
    def hash(self) -> str:
        """SHA-256 over everything in the file."""
        return self._reader.hash

    @property
    def identity(self) -> Identity:
        """Which side this is."""
        return self.summary.identity

    @property
    def plan(self) -> Plan:
        """What was asked of it."""
        return self.summary.plan

    def __contains__(self, prompt: str) -> bool:
        return prompt in self._places

    def __iter__(self) -> Iterator[Record]:
        return (self.record(prompt) for prompt in self.summary.prompts)

    def record(self, prompt: str) -> Record:
        """One prompt's record."""
        stem = f"prompts/{self._places[prompt]:05d}"
        record = decode_record(
            self._reader.read(f"{stem}.json"), self._reader.read(f"{stem}.safetensors"), f"{stem} of {self.path}"
        )
        if record.id != prompt:
            raise FormatError(f"{stem} of {self.path} is of the prompt {record.id!r}, not {prompt!r}")
        return record

    def exact(self) -> dict[str, Exact] | None:
        """The exact probes' hashes; None where they were not captured."""
        if "exact.json" not in self._reader:
            return None
        return typed(self._reader.read_json("exact.json"), dict[str, Exact], f"exact.json of {self.path}")

    def layers(self) -> Layers | None:
        """The inside of the model; None where it was not captured."""
        if "layers.json" not in self._reader:
            return None
        what = f"layers of {self.path}"
        text = typed(self._reader.read_json("layers.json"), _LayersText, what)
        if len(text.sites) != len(text.arrays):
            raise FormatError(f"{what}: {len(text.sites)} sites and {len(text.arrays)} places of their values")
        arrays = load(self._reader.read("layers.safetensors"), what)
        tokens = take(arrays, "tokens", "int32", (None,), what)
        values = tuple(take(arrays, f"{i:05d}", "float32", (len(tokens), ...), what) for i in text.arrays)
        return Layers(tokens, text.sites, values)

    def layers_hash(self) -> str | None:
        """SHA-256 of the inner values."""
        if "layers.safetensors" not in self._reader:
            return None
        return hashlib.sha256(self._reader.read("layers.safetensors")).hexdigest()

    def isolated(self) -> Isolated | None:
        """The sites' own errors; None where they were not captured."""
        if "isolated.json" not in self._reader:
            return None
        return typed(self._reader.read_json("isolated.json"), Isolated, f"isolated.json of {self.path}")

    def sizes(self) -> dict[str, int]:
        """Bytes of each entry."""
        return self._reader.sizes()


def distinct_bytes(layers: Layers) -> int:
    """What the inside of the model takes in a pack, where equal values are kept once."""
    return sum({_fingerprint(value): value.nbytes for value in layers.values}.values())


def _fingerprint(value: Any) -> bytes:
    return hashlib.sha256(repr(value.shape).encode() + np.ascontiguousarray(value).tobytes()).digest()
