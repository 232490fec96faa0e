"""One prompt's record as bytes and back: JSON for what is text, safetensors for what is numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np

from ...core.errors import FormatError
from ..record import PATHS, Answer, Path, Positions, Record
from ..statistics.divergence import Top
from .arrays import Arrays, load, save, take, typed
from .container import parse_json

_FLOAT32 = "float32."
"""Before the names of what was computed in float32 beside the precision that serves."""


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
    return msgspec.json.encode(text), save(arrays)


def decode_record(text: bytes, data: bytes, what: str) -> Record:
    """The inverse of `encode_record`, trusting neither part."""
    plain = typed(parse_json(text, what), _RecordText, what)
    arrays = load(data, what)
    tokens = take(arrays, "tokens", "int32", (None,), what) if "tokens" in arrays else None
    samples = take(arrays, "samples", "int32", (None, None), what) if "samples" in arrays else None
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
        ids = take(arrays, "answer.tokens", "int32", (None,), what)
        tokens = tuple(int(token) for token in ids)
        top = _top(arrays, "answer", len(ids), what) if "answer.top_ids" in arrays else None
    return Answer(plain.text, plain.finish, tokens, top, plain.num_tokens, plain.tool_calls, plain.error)


def _positions(arrays: Arrays, path: str, what: str) -> Positions:
    at = take(arrays, f"{path}.at", "int32", (None,), what)
    if (np.diff(at) <= 0).any() or (at < 0).any():
        raise FormatError(f"{what}: the positions of {path} do not increase")
    lse = take(arrays, f"{path}.lse", "float32", (len(at),), what) if f"{path}.lse" in arrays else None
    shape = (len(at), None)
    sketch = take(arrays, f"{path}.sketch", "float32", shape, what) if f"{path}.sketch" in arrays else None
    return Positions(at, _top(arrays, path, len(at), what), lse, sketch)


def _top(arrays: Arrays, prefix: str, rows: int, what: str) -> Top:
    ids = take(arrays, f"{prefix}.top_ids", "int32", (rows, None), what)
    if ids.shape[1] == 0:
        raise FormatError(f"{what}: {prefix} has no likely tokens")
    logprobs = take(arrays, f"{prefix}.top_logprobs", "float32", ids.shape, what)
    log_tail = take(arrays, f"{prefix}.log_tail", "float32", (rows,), what)
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
