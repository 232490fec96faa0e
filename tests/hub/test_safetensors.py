"""safetensors against the official package, and files that are not what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.core.errors import FormatError, ModelNotFound, ParityError, Unsupported
from parity.hub.file_names import INDEX
from parity.hub.safetensors import DTYPES, SafetensorsFile, open_shards, write_file, write_safetensors


def every_dtype() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, dtype in DTYPES.items():
        raw = torch.randint(0, 2, (3, 5 * dtype.itemsize), dtype=torch.uint8, generator=generator)
        tensors[f"t.{name}"] = raw.view(dtype)
    return tensors | {"empty": torch.empty(0, 4), "scalar": torch.tensor(2.5)}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.numel() == 0 or torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def test_both_ways_with_the_official_package(tmp_path: Path) -> None:
    tensors = every_dtype()
    write_file(tmp_path / "ours.safetensors", tensors)
    theirs = safetensors.torch.load_file(tmp_path / "ours.safetensors")
    assert theirs.keys() == tensors.keys()
    assert all(same(theirs[name], tensor) for name, tensor in tensors.items())
    safetensors.torch.save_file(tensors, tmp_path / "theirs.safetensors", {"format": "pt"})
    ours = SafetensorsFile(tmp_path / "theirs.safetensors")
    assert ours.metadata == {"format": "pt"}
    assert all(same(ours.read(name), tensor) for name, tensor in tensors.items())


def test_tensors_are_views_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_file(path, {"w": torch.zeros(4)})
    file = SafetensorsFile(path)
    assert file.read("w").data_ptr() == file.read("w").data_ptr()
    file.read("w").fill_(7)
    assert SafetensorsFile(path).read("w").tolist() == [0, 0, 0, 0]


def test_shards(tmp_path: Path) -> None:
    tensors = {f"layer.{i}": torch.full((10, 10), float(i)) for i in range(7)}
    write_safetensors(tmp_path, {"model_type": "x"}, tensors, shard_bytes=1000)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    shards = open_shards(tmp_path)
    assert all(torch.equal(shards[name].read(name), tensor) for name, tensor in tensors.items())
    (tmp_path / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="lacks model-00002-of-00004"):
        open_shards(tmp_path)


def test_index_may_not_leave_its_folder(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(FormatError, match="outside"):
        open_shards(tmp_path)


def test_index_that_disagrees(tmp_path: Path) -> None:
    write_safetensors(tmp_path, {}, {"a": torch.zeros(2), "b": torch.zeros(2)}, shard_bytes=8)
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"]["c"] = index["weight_map"]["a"]
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(FormatError, match="disagree"):
        open_shards(tmp_path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(Unsupported, match=r"pytorch_model\.bin"):
        open_shards(tmp_path)


def raw_file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": entry()}, b"\0" * 7),
        ({"a": entry()}, b"\0" * 9),
        ({"a": entry(offsets=(0, 4))}, b"\0" * 4),
        ({"a": entry(offsets=(8, 0))}, b"\0" * 8),
        ({"a": entry(offsets=(8, 16))}, b"\0" * 16),
        ({"a": entry(), "b": entry()}, b"\0" * 8),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
        ({"a": entry(shape=(-2,))}, b"\0" * 8),
        ({"a": entry(shape=(2.0,))}, b"\0" * 8),
        ({"a": entry(shape=(True, 2))}, b"\0" * 8),
        ({"a": entry(shape="2")}, b"\0" * 8),
        ({"a": entry(shape=(2**62, 2**62))}, b"\0" * 8),
        ({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}, b""),
        ({"a": entry(shape=[1] * 1000)}, b"\0" * 8),
        ({"a": entry(more=1)}, b"\0" * 8),
        ({"a": 3}, b""),
        ([], b""),
        (b"{", b""),
        (b"[" * 100_000, b""),
        (b'{"a": 1' + b"0" * 10_000 + b"}", b""),
        (b'{"a": {}, "a": {}}', b""),
        (b"\xff\xfe", b""),
        ({"__metadata__": 3}, b""),
    ],
)
def test_wrong_headers(tmp_path: Path, header: Any, data: bytes) -> None:
    with pytest.raises(FormatError, match="safetensors"):
        SafetensorsFile(raw_file(tmp_path / "bad.safetensors", header, data))


@pytest.mark.parametrize("length", [2**63 - 1, 2**40, 50_000_000, 3])
def test_runaway_lengths(tmp_path: Path, length: int) -> None:
    with pytest.raises(FormatError):
        SafetensorsFile(raw_file(tmp_path / "bad.safetensors", {"a": entry()}, b"\0" * 8, length))


def test_offsets_past_four_gigabytes(tmp_path: Path) -> None:
    """A sparse file: the header is fine and nothing is read."""
    big = 5 << 30
    path = raw_file(tmp_path / "big.safetensors", {"a": entry("U8", (big,), (0, big)), "b": entry("U8", (4,), (big, big + 4))})
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + big + 4)
        file.seek(-4, 2)
        file.write(b"abcd")
    assert SafetensorsFile(path).read("b").tolist() == [97, 98, 99, 100]


def test_unknown_dtype_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="F4"):
        SafetensorsFile(raw_file(tmp_path / "bad.safetensors", {"a": entry(dtype="F4")}, b"\0" * 8))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "m.safetensors"
    write_file(path, {"first": torch.arange(12.0).reshape(3, 4), "second": torch.ones(5, dtype=torch.bfloat16)})
    return path.read_bytes()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzzed(good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Flipped bytes and cut ends: the file opens or a named error says why; nothing else."""
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(raw)
    said = str(path)
    try:
        file = SafetensorsFile(path)
        for name in file.entries:
            file.read(name).sum()
    except ParityError as error:
        said = str(error)
    assert str(path) in said
