"""The safetensors format: a JSON header that says where each tensor's bytes are, then the bytes.

The header is checked in full before anything is mapped: every range inside the file, no overlap, no gap, and each range as
long as its shape and dtype say.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from parity.core.errors import FormatError, ModelNotFound, Unsupported

from .file_names import INDEX, PICKLES
from .mapped import MappedFile

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

_NUMBERED = re.compile(r"(.*)-(\d+)-of-(\d+)\.safetensors")
HEADER_LIMIT = 100_000_000  # bytes; the format's own limit
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file; `start` and `stop` count from the file's beginning."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """One mapped file.

    Raises:
        FormatError: the header or the file's length is not what the format says.
        Unsupported: a tensor has a dtype that Parity does not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        self.entries, self.metadata = _parse(path, self._file)

    def read(self, name: str) -> torch.Tensor:
        """The tensor, as a view of the file."""
        entry = self.entries[name]
        return self._file.tensor(entry.dtype, entry.shape, entry.start)

    def release(self, name: str | None = None) -> None:
        """Gives back the memory of a tensor that was read, or of all that was; reading it again reads the file."""
        if name is None:
            self._file.release()
            return
        entry = self.entries[name]
        self._file.release(entry.start, entry.stop)


def _parse(path: Path, file: MappedFile) -> tuple[dict[str, Entry], dict[str, str]]:
    if file.size < _LENGTH_BYTES:
        raise FormatError(f"{path} is truncated: {file.size} bytes; fetch it again")
    length = int.from_bytes(file.buffer[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if length > HEADER_LIMIT or start > file.size:
        raise FormatError(f"{path}: the header claims {length} bytes, the file has {file.size}; truncated or not safetensors")
    header = parse_json(file.buffer[_LENGTH_BYTES:start], f"{path}: the header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise FormatError(f"{path}: __metadata__ is not an object")
    entries = {name: _entry(path, name, fields, start) for name, fields in header.items()}
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position:
            raise FormatError(f"{path}: tensor {name!r} overlaps another or leaves a gap before it")
        position = entry.stop
    if position != file.size:
        what = "truncated" if position > file.size else "longer than its header says"
        raise FormatError(f"{path} is {what}: {file.size} bytes where {position} are described; fetch it again")
    return entries, {str(key): str(value) for key, value in metadata.items()}


def _entry(path: Path, name: str, fields: Any, origin: int) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{path}: tensor {name!r} must have dtype, shape and data_offsets")
    shape, offsets, dtype = fields["shape"], fields["data_offsets"], fields["dtype"]
    sound = _whole_numbers(shape) and _addressable(shape) and _whole_numbers(offsets) and len(offsets) == 2
    if not sound:
        raise FormatError(f"{path}: tensor {name!r} has shape {str(shape)[:60]} and offsets {str(offsets)[:60]}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Unsupported(f"{path}: tensor {name!r} has dtype {str(dtype)[:40]!r}; Parity reads {', '.join(DTYPES)}")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != size:
        raise FormatError(f"{path}: tensor {name!r} spans {offsets[1] - offsets[0]} bytes; its shape and dtype need {size}")
    return Entry(DTYPES[dtype], tuple(shape), origin + offsets[0], origin + offsets[1])


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 16 and all(type(number) is int and number >= 0 for number in value)


def _addressable(shape: list[int]) -> bool:
    """Whether a tensor of this shape can be, be it an empty one."""
    return math.prod(number for number in shape if number) < 2**60


def parse_json(raw: bytes, what: str) -> dict[str, Any]:
    """A JSON object without repeated keys.

    Raises:
        FormatError: it is something else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is repeated")
        return found

    try:
        value = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a JSON object")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        ModelNotFound: the file is absent or may not be read.
        FormatError: it holds something else.
    """
    try:
        return parse_json(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ModelNotFound(f"{path} does not exist") from None
    except PermissionError:
        raise ModelNotFound(f"{path} may not be read; check its permissions") from None


def open_shards(folder: Path) -> dict[str, SafetensorsFile]:
    """Every tensor of a folder's safetensors files, by name.

    Raises:
        ModelNotFound: there is no safetensors file, or one that the index names is missing.
        FormatError: index and files disagree.
        Unsupported: the folder holds pickles only.
    """
    index = folder / INDEX
    if not index.is_file():
        files = [SafetensorsFile(path) for path in _unindexed(folder)]
        return _merged((name, file) for file in files for name in file.entries)
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise FormatError(f"{index} has no weight_map of tensor to file name")
    opened = {}
    for file_name in sorted(set(weight_map.values())):
        if Path(file_name).name != file_name:
            raise FormatError(f"{index} points outside its folder: {file_name!r}")
        if not (folder / file_name).is_file():
            raise ModelNotFound(f"{folder} lacks {file_name}, which {INDEX} names; fetch the model again")
        opened[file_name] = SafetensorsFile(folder / file_name)
    shards = _merged((name, file) for file in opened.values() for name in file.entries)
    wrong = [name for name, file_name in weight_map.items() if name not in shards or shards[name].path.name != file_name]
    wrong += sorted(shards.keys() - weight_map.keys())
    if wrong:
        raise FormatError(f"{index} and the files disagree about {len(wrong)} tensors, first {wrong[0]!r}")
    return shards


def _merged(named: Iterable[tuple[str, SafetensorsFile]]) -> dict[str, SafetensorsFile]:
    shards: dict[str, SafetensorsFile] = {}
    for name, file in named:
        if name in shards:
            raise FormatError(f"tensor {name!r} is in {shards[name].path} and in {file.path}")
        shards[name] = file
    return shards


def _unindexed(folder: Path) -> list[Path]:
    whole = folder / "model.safetensors"
    found = [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))
    found = found or sorted(folder.glob("*.safetensors"))
    if found:
        _refuse_gaps(folder, found)
        return found
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise Unsupported(f"{folder} has its weights as pickles ({pickles[0]}), which can run code; convert to safetensors")
    raise ModelNotFound(f"{folder} has no .safetensors file")


def _refuse_gaps(folder: Path, files: Iterable[Path]) -> None:
    """Names of the kind `model-00002-of-00004` say how many files there are, even without an index."""
    there = {path.name for path in files}
    for match in filter(None, (_NUMBERED.fullmatch(name) for name in there)):
        stem, digits, count = match[1], len(match[2]), int(match[3])
        wanted = (f"{stem}-{number:0{digits}d}-of-{match[3]}.safetensors" for number in range(1, count + 1))
        if lost := next((name for name in wanted if name not in there), None):
            raise ModelNotFound(f"{folder} lacks {lost}, one of the {count} that its other files count; fetch the model again")


def write_safetensors(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], shard_bytes: int = 5_000_000_000
) -> None:
    """Writes config.json and the tensors, in as many files as `shard_bytes` asks for, with an index if more than one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_shards(folder, tensors.items(), shard_bytes)


def write_shards(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], shard_bytes: int = 5_000_000_000) -> None:
    """Writes tensors as they come, in as many files as `shard_bytes` asks for; one file's are held at a time."""
    files: list[Path] = []
    weight_map: dict[str, int] = {}
    total = filled = 0
    shard: dict[str, torch.Tensor] = {}

    def close_shard() -> None:
        files.append(folder / f"model-{len(files) + 1:05d}.safetensors")
        weight_map.update(dict.fromkeys(shard, len(files)))
        write_file(files[-1], shard)
        shard.clear()

    for name, tensor in tensors:
        if shard and filled + tensor.nbytes > shard_bytes:
            close_shard()
            filled = 0
        shard[name] = tensor
        filled += tensor.nbytes
        total += tensor.nbytes
    if not files:
        write_file(folder / "model.safetensors", shard)
        return
    close_shard()
    # Only now is it known how many there are, which their names say.
    names = [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    for file, name in zip(files, names, strict=True):
        file.replace(folder / name)
    index = {"metadata": {"total_size": total}, "weight_map": {name: names[at - 1] for name, at in weight_map.items()}}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_file(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes one file; it appears under its name only when complete."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    position = 0
    for name, tensor in ordered:
        offsets = [position, position + tensor.nbytes]
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        position = offsets[1]
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % _LENGTH_BYTES)
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            file.write(len(raw).to_bytes(_LENGTH_BYTES, "little"))
            file.write(raw)
            for _, tensor in ordered:
                file.write(tensor_bytes(tensor))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's bytes in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return memoryview(raw)
