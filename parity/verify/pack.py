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
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path as FilePath
from typing import Any, Self, TypeVar

import msgspec
import numpy as np
import safetensors.numpy

from ..core.errors import FormatError
from .container import Reader, Writer, parse_json
from .record import PATHS, Answer, Exact, Identity, Isolated, Layers, Path, Plan, Positions, Record
from .signature import Signer, check, read_signature
from .statistics.divergence import Top

CONTENT_FORMAT = 2
_MAX_HEADER_BYTES = 1 << 20
_DTYPES = ("float32", "int32")
_SIGNATURE = "signature.json"
_FLOAT32 = "float32."
"""Before the names of what was computed in float32 beside the precision that serves."""
_T = TypeVar("_T")
Arrays = dict[str, Any]


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
class _AnswerText:
    text: str
    finish: str
    num_tokens: int | None = None
    tool_calls: tuple[tuple[str, str], ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _RecordText:
    id: str
    num_tokens: int | None = None
    answer: _AnswerText | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _LayersText:
    """The sites, and which of the arrays each one's values are."""

    sites: tuple[tuple[int, str], ...]
    arrays: tuple[int, ...]


class PackWriter:
    """Writes a pack record by record, so memory does not grow with the suite: use as a context manager."""

    def __init__(self, path: FilePath, *, made_by: str, identity: Identity, plan: Plan, signer: Signer | None = None) -> None:
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
        self._writer.add("layers.safetensors", _save(arrays))

    def add_isolated(self, isolated: Isolated) -> None:
        """The sites' own errors."""
        self._writer.add_json("isolated.json", msgspec.to_builtins(isolated))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is None:
            summary = Summary(CONTENT_FORMAT, self._made_by, self._identity, self._plan, tuple(self._prompts), self.unreached)
            self._writer.add_json("pack.json", msgspec.to_builtins(summary))
            if self._signer is not None:
                signature = self._signer.sign({"entries": self._writer.listed()})
                self._writer.add_json(_SIGNATURE, msgspec.to_builtins(signature))
        self._writer.__exit__(kind, error, trace)


class Pack:
    """A pack opened for reading. Every value is checked before it is handed out.

    Raises:
        FormatError: what is wrong with the file.
    """

    def __init__(self, path: FilePath) -> None:
        self.path = path
        self._reader = Reader(path)
        contents = self._reader.read_json("pack.json")
        version = contents.get("format") if isinstance(contents, dict) else None
        if version != CONTENT_FORMAT:
            raise FormatError(f"{path} holds contents of format {version!r}; this program reads {CONTENT_FORMAT}")
        self.summary = _typed(contents, Summary, f"pack.json of {path}")
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
        return _typed(self._reader.read_json("exact.json"), dict[str, Exact], f"exact.json of {self.path}")

    def layers(self) -> Layers | None:
        """The inside of the model; None where it was not captured."""
        if "layers.json" not in self._reader:
            return None
        what = f"layers of {self.path}"
        text = _typed(self._reader.read_json("layers.json"), _LayersText, what)
        if len(text.sites) != len(text.arrays):
            raise FormatError(f"{what}: {len(text.sites)} sites and {len(text.arrays)} places of their values")
        arrays = _load(self._reader.read("layers.safetensors"), what)
        tokens = _take(arrays, "tokens", "int32", (None,), what)
        values = tuple(_take(arrays, f"{i:05d}", "float32", (len(tokens), ...), what) for i in text.arrays)
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
        return _typed(self._reader.read_json("isolated.json"), Isolated, f"isolated.json of {self.path}")

    def sizes(self) -> dict[str, int]:
        """Bytes of each entry."""
        return self._reader.sizes()


def distinct_bytes(layers: Layers) -> int:
    """What the inside of the model takes in a pack, where equal values are kept once."""
    return sum({_fingerprint(value): value.nbytes for value in layers.values}.values())


def _fingerprint(value: Any) -> bytes:
    return hashlib.sha256(repr(value.shape).encode() + np.ascontiguousarray(value).tobytes()).digest()


def encode_record(record: Record) -> tuple[bytes, bytes]:
    """A record as JSON and safetensors."""
    answer, plain = record.answer, None
    if answer:
        plain = _AnswerText(answer.text, answer.finish, answer.num_tokens, answer.tool_calls, answer.error)
    text = _RecordText(record.id, record.num_tokens, plain, dict(record.seconds))
    arrays: Arrays = {}
    for prefix, paths in (("", record.paths), (_FLOAT32, record.in_float32)):
        for path, positions in paths.items():
            arrays |= _positions_arrays(prefix + path, positions)
    if answer and answer.tokens is not None:
        arrays["answer.tokens"] = np.array(answer.tokens, np.int32)
    if answer and answer.top is not None:
        arrays |= _top_arrays("answer", answer.top)
    arrays |= {k: v for k, v in (("tokens", record.tokens), ("samples", record.samples)) if v is not None}
    return msgspec.json.encode(text), _save(arrays)


def decode_record(text: bytes, data: bytes, what: str) -> Record:
    """The inverse of `encode_record`, trusting neither part."""
    plain = _typed(parse_json(text, what), _RecordText, what)
    arrays = _load(data, what)
    tokens = _take(arrays, "tokens", "int32", (None,), what) if "tokens" in arrays else None
    samples = _take(arrays, "samples", "int32", (None, None), what) if "samples" in arrays else None
    paths, in_float32 = (_paths(arrays, prefix, what) for prefix in ("", _FLOAT32))
    answer = _answer(plain.answer, arrays, what) if plain.answer else None
    return Record(plain.id, tokens, plain.num_tokens, paths, answer, samples, plain.seconds, in_float32)


def _paths(arrays: Arrays, prefix: str, what: str) -> dict[Path, Positions]:
    return {path: _positions(arrays, prefix + path, what) for path in PATHS if f"{prefix}{path}.at" in arrays}


def _positions_arrays(name: str, positions: Positions) -> Arrays:
    arrays: Arrays = {f"{name}.at": positions.at, **_top_arrays(name, positions.top)}
    return arrays | {f"{name}.{k}": v for k, v in (("lse", positions.lse), ("sketch", positions.sketch)) if v is not None}


def _answer(plain: _AnswerText, arrays: Arrays, what: str) -> Answer:
    tokens, top = None, None
    if "answer.tokens" in arrays:
        ids = _take(arrays, "answer.tokens", "int32", (None,), what)
        tokens = tuple(int(token) for token in ids)
        top = _top(arrays, "answer", len(ids), what) if "answer.top_ids" in arrays else None
    return Answer(plain.text, plain.finish, tokens, top, plain.num_tokens, plain.tool_calls, plain.error)


def _positions(arrays: Arrays, path: str, what: str) -> Positions:
    at = _take(arrays, f"{path}.at", "int32", (None,), what)
    if (np.diff(at) <= 0).any() or (at < 0).any():
        raise FormatError(f"{what}: the positions of {path} do not increase")
    lse = _take(arrays, f"{path}.lse", "float32", (len(at),), what) if f"{path}.lse" in arrays else None
    shape = (len(at), None)
    sketch = _take(arrays, f"{path}.sketch", "float32", shape, what) if f"{path}.sketch" in arrays else None
    return Positions(at, _top(arrays, path, len(at), what), lse, sketch)


def _top(arrays: Arrays, prefix: str, rows: int, what: str) -> Top:
    ids = _take(arrays, f"{prefix}.top_ids", "int32", (rows, None), what)
    if ids.shape[1] == 0:
        raise FormatError(f"{what}: {prefix} has no likely tokens")
    logprobs = _take(arrays, f"{prefix}.top_logprobs", "float32", ids.shape, what)
    log_tail = _take(arrays, f"{prefix}.log_tail", "float32", (rows,), what)
    if (logprobs > 0.01).any() or (log_tail > 0.01).any() or (ids < -1).any():
        raise FormatError(f"{what}: {prefix} holds probabilities above 1 or negative ids")
    ordered = np.sort(ids, axis=1)
    if ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).any():
        raise FormatError(f"{what}: {prefix} names a token twice in one position")
    return Top(ids, logprobs, log_tail)


def _top_arrays(prefix: str, top: Top) -> Arrays:
    return {
        f"{prefix}.top_ids": top.ids.astype(np.int32),
        f"{prefix}.top_logprobs": top.logprobs.astype(np.float32),
        f"{prefix}.log_tail": top.log_tail.astype(np.float32),
    }


def _save(arrays: Arrays) -> bytes:
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _load(data: bytes, what: str) -> Arrays:
    if len(data) < 8 or struct.unpack("<Q", data[:8])[0] > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise FormatError(f"{what} is not a safetensors entry: its header is longer than itself")
    try:
        arrays = safetensors.numpy.load(data)
    except Exception as error:  # the library raises several unrelated types on bad bytes
        raise FormatError(f"{what} is not a valid safetensors entry: {str(error)[:200]}") from None
    for name, array in arrays.items():
        finite = np.isfinite(array) | (np.isnan(array) if name.endswith(".log_tail") else False)
        if array.dtype.name not in _DTYPES or not finite.all():
            raise FormatError(f"{what}: {name[:80]!r} is not finite {' or '.join(_DTYPES)}")
    return arrays


def _take(arrays: Arrays, name: str, dtype: str, shape: tuple[Any, ...], what: str) -> Any:
    """One array of this dtype and shape; None stands for any length, a last ... for any further dimensions."""
    array = arrays.get(name)
    if array is None or array.dtype.name != dtype:
        raise FormatError(f"{what} lacks {name} as {dtype}")
    fixed = shape[:-1] if shape[-1:] == (...,) else shape
    loose = len(fixed) < len(shape)
    fits = array.ndim >= len(fixed) if loose else array.ndim == len(fixed)
    if not fits or any(want is not None and have != want for have, want in zip(array.shape, fixed, strict=False)):
        raise FormatError(f"{what}: {name} has the shape {list(array.shape)}")
    return array


def _typed(value: Any, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise FormatError(f"{what}: {error}") from None
