"""The GGUF format, versions 2 and 3: typed metadata, a table of tensors, and their bytes at aligned offsets.

Metadata arrays are checked and skipped when a file is opened and decoded when asked for, so that a vocabulary of 150,000
strings costs nothing to who does not want it. Layout after the specification in ggml's `docs/gguf.md`.
"""

from __future__ import annotations

import array as arrays
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from mmap import mmap
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from parity.core.errors import FormatError, ModelNotFound, Unsupported
from parity.core.weights import Packed
from parity.formats import FORMATS

from .mapped import MappedFile

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4

PLAIN: Mapping[int, tuple[str, torch.dtype]] = {
    0: ("f32", torch.float32),
    1: ("f16", torch.float16),
    30: ("bf16", torch.bfloat16),
    24: ("i8", torch.int8),
    25: ("i16", torch.int16),
    26: ("i32", torch.int32),
    27: ("i64", torch.int64),
    28: ("f64", torch.float64),
}
BLOCKS: Mapping[int, str] = {
    2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 10: "q2_k", 11: "q3_k", 12: "q4_k", 13: "q5_k", 14: "q6_k",
}  # fmt: skip
REFUSED: Mapping[int, str] = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip

STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS: Mapping[int, str] = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: `shape` row-major as in torch (the file has it reversed), `start` from the file's beginning."""

    format: str
    shape: tuple[int, ...]
    nbytes: int
    start: int


class Metadata(Mapping[str, Any]):
    """Metadata by key, decoded when asked for. Arrays of numbers come as numpy arrays, of strings as `Texts`."""

    def __init__(self, values: dict[str, Callable[[], Any]]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]()

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Texts(Sequence[str]):
    """An array of texts, each decoded when it is looked at; equal to a list of the same.

    Args:
        path: the file, for errors.
        buffer: its bytes.
        bounds: where each text begins, with eight bytes of its length before it, and where the last ends.

    Looking at one raises FormatError where it is not UTF-8.
    """

    def __init__(self, path: Path, buffer: mmap, bounds: arrays.array[int]) -> None:
        self._path, self._buffer, self._bounds = path, buffer, bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self)[index]
        number = range(len(self))[index]
        return self._decoded(self._bounds[number : number + 2])[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded(self._bounds))

    def __eq__(self, other: object) -> bool:
        return list(self) == other

    def _decoded(self, bounds: Sequence[int]) -> list[str]:
        buffer = self._buffer
        try:
            return [buffer[start + 8 : stop].decode("utf-8") for start, stop in pairwise(bounds)]
        except UnicodeDecodeError as error:
            raise FormatError(f"{self._path}: the text {error.object[:40]!r} is not UTF-8; corrupt, fetch it again") from None


class GgufFile:
    """One mapped file.

    Raises:
        FormatError: truncated, corrupt or not GGUF.
        Unsupported: another version or byte order, or a tensor type that Parity does not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        reader = _Reader(path, self._file)
        num_tensors, num_values = reader.header()
        self.metadata = Metadata(reader.values(num_values))
        self.tensors = reader.tensors(num_tensors, self._alignment())

    def _alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment % 8:
            raise FormatError(f"{self.path}: general.alignment is {alignment!r}")
        return alignment

    def read(self, name: str) -> torch.Tensor | Packed:
        """The tensor, as a view of the file."""
        tensor = self.tensors[name]
        plain = dict(PLAIN.values())
        if tensor.format in plain:
            return self._file.tensor(plain[tensor.format], tensor.shape, tensor.start)
        row_bytes = tensor.nbytes // max(math.prod(tensor.shape[:-1]), 1)
        data = self._file.tensor(torch.uint8, (*tensor.shape[:-1], row_bytes), tensor.start)
        return Packed(tensor.format, tensor.shape, {"data": data})

    def release(self, name: str | None = None) -> None:
        """Gives back the memory of a tensor that was read, or of all that was; reading it again reads the file."""
        if name is None:
            self._file.release()
            return
        tensor = self.tensors[name]
        self._file.release(tensor.start, tensor.start + tensor.nbytes)


class _Reader:
    """Walks a file from its beginning; every length is checked against what is left before it is believed."""

    def __init__(self, path: Path, file: MappedFile) -> None:
        self.path = path
        self.buffer = file.buffer
        self.size = file.size
        self.at = 0

    def broken(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: {what} (byte {self.at}); truncated or corrupt, fetch it again")

    def header(self) -> tuple[int, int]:
        if self.take(4) != MAGIC:
            raise FormatError(f"{self.path} is not a GGUF file: it does not begin with {MAGIC.decode()}")
        version = self.u32()
        if version not in VERSIONS:
            raise Unsupported(f"{self.path} is GGUF version {version} (or big-endian); Parity reads 2 and 3, little-endian")
        return self.u64(), self.u64()

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise self.broken(f"{count} bytes wanted past the end")
        self.at += count
        return self.buffer[self.at - count : self.at]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def string(self) -> str:
        raw = self.take(self.u64())
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.broken("a text is not UTF-8") from None

    def values(self, count: int) -> dict[str, Callable[[], Any]]:
        if count > self.size // 13:  # the least a key and a value take
            raise self.broken(f"{count} metadata values claimed")
        found: dict[str, Callable[[], Any]] = {}
        for _ in range(count):
            key = self.string()
            if key in found:
                raise self.broken(f"the key {key!r} is repeated")
            found[key] = self.value(self.u32())
        return found

    def value(self, kind: int) -> Callable[[], Any]:
        if kind == STRING:
            text = self.string()
            return lambda: text
        if kind == ARRAY:
            return self.array()
        if kind not in NUMBERS:
            raise self.broken(f"metadata type {kind} does not exist")
        dtype = np.dtype(NUMBERS[kind])
        number = np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()
        return lambda: bool(number) if kind == BOOL else number

    def array(self) -> Callable[[], Any]:
        kind, count, start = self.u32(), self.u64(), self.at
        if kind in NUMBERS:
            dtype = np.dtype("?" if kind == BOOL else NUMBERS[kind])
            if count > (self.size - self.at) // dtype.itemsize:
                raise self.broken(f"an array of {count} numbers claimed")
            self.at += count * dtype.itemsize
            return lambda: np.frombuffer(self.buffer, dtype, count, start).copy()
        if kind != STRING:
            raise self.broken(f"arrays of metadata type {kind} are not read")
        if count > (self.size - self.at) // 8:
            raise self.broken(f"an array of {count} strings claimed")
        texts = Texts(self.path, self.buffer, self._bounds(count))
        return lambda: texts

    def _bounds(self, count: int) -> arrays.array[int]:
        """Where each of `count` texts begins, its length before it, and where the last ends, which is then where we are."""
        at, size, buffer, length_at = self.at, self.size, self.buffer, _U64.unpack_from
        found = arrays.array("Q", (at,))
        try:
            for _ in range(count):
                at += 8 + length_at(buffer, at)[0]
                found.append(at)
        except (struct.error, OverflowError):
            at = size + 1
        if at > size:
            raise self.broken("a text runs past the end")
        self.at = at
        return found

    def tensors(self, count: int, alignment: int) -> dict[str, GgufTensor]:
        if count > self.size // 24:  # the least a tensor's entry takes
            raise self.broken(f"{count} tensors claimed")
        found: dict[str, GgufTensor] = {}
        for _ in range(count):
            name = self.string()
            if name in found:
                raise self.broken(f"the tensor {name!r} is repeated")
            found[name] = self.tensor(name, alignment)
        origin = self.at + -self.at % alignment
        placed = {name: GgufTensor(t.format, t.shape, t.nbytes, origin + t.start) for name, t in found.items()}
        self._check_places(placed)
        return placed

    def tensor(self, name: str, alignment: int) -> GgufTensor:
        num_dimensions = self.u32()
        if num_dimensions > MAX_DIMENSIONS:
            raise self.broken(f"tensor {name!r} has {num_dimensions} dimensions")
        shape = tuple(reversed([self.u64() for _ in range(num_dimensions)]))
        if 0 in shape:
            raise self.broken(f"tensor {name!r} has shape {shape}")
        kind, start = self.u32(), self.u64()
        if start % alignment or start > self.size:
            raise self.broken(f"tensor {name!r} is at offset {start}, alignment {alignment}")
        count = math.prod(shape)
        if kind in PLAIN:
            format, dtype = PLAIN[kind]
            return GgufTensor(format, shape, count * dtype.itemsize, start)
        if kind not in BLOCKS:
            known = REFUSED.get(kind, f"number {kind}")
            raise Unsupported(
                f"{self.path}: tensor {name!r} has GGUF type {known}; "
                f"Parity reads F32, F16, BF16, {', '.join(BLOCKS.values()).upper()}"
            )
        form = FORMATS[BLOCKS[kind]]
        if not shape or shape[-1] % form.multiple:
            raise self.broken(f"tensor {name!r} of type {form.name} has rows of {shape[-1:]}")
        return GgufTensor(form.name, shape, round(count * form.bits) // 8, start)

    def _check_places(self, tensors: Mapping[str, GgufTensor]) -> None:
        position = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
            if tensor.start < position:
                raise self.broken(f"tensor {name!r} overlaps another")
            position = tensor.start + tensor.nbytes
            if position > self.size:
                raise self.broken(f"tensor {name!r} ends at byte {position}, the file at {self.size}")


_SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def split_names(file_name: str) -> list[str]:
    """The names of all parts of a split file, or just the name."""
    match = _SPLIT.fullmatch(file_name)
    if not match or not 1 <= int(match["number"]) <= int(match["count"]):
        return [file_name]
    count = int(match["count"])
    return [f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def open_parts(path: Path) -> list[GgufFile]:
    """A GGUF file, or all parts of a split one whichever part is named; the first holds the metadata.

    Raises:
        ModelNotFound: a part is missing.
        FormatError: the parts do not belong together.
    """
    names = split_names(path.name)
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing and len(names) > 1:
        raise ModelNotFound(f"{path.parent} lacks {missing[0]}, a part of {path.name}; fetch all {len(names)} parts")
    parts = [GgufFile(path.parent / name) for name in names]
    claimed = parts[0].metadata.get("split.count", 1)
    if claimed not in (0, 1) or len(parts) > 1:
        if claimed != len(parts):
            raise FormatError(f"{path} says it is one of {claimed} parts; its name says {len(parts)}")
        names_seen = [name for part in parts for name in part.tensors]
        total = parts[0].metadata.get("split.tensors.count", len(names_seen))
        if len(set(names_seen)) != len(names_seen) or total != len(names_seen):
            raise FormatError(f"the parts of {path} hold {len(names_seen)} tensors, not the {total} that they claim")
    return parts
