"""GGUF against the `gguf` package's reader and writer, and files that are not what they say."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.core.errors import FormatError, ModelNotFound, ParityError, Unsupported
from parity.core.weights import Packed
from parity.formats import expand, pack
from parity.hub.gguf import GgufFile, open_parts
from parity.hub.gguf_writer import write_gguf

TEXTS = ["a", "ü", "", "<|im_end|>", "𝄞"]


def by_package(path: Path, **extra: Any) -> Path:
    """A file written by the `gguf` package."""
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_uint32("u32", 7)
    writer.add_int32("i32", -7)
    writer.add_uint64("u64", 2**40)
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "wörd")
    writer.add_array("texts", TEXTS)
    writer.add_array("numbers", [1, 2, 3])
    generator = np.random.default_rng(0)
    for name in ("f32", "f16", "bf16", "q4_0", "q5_1", "q8_0"):
        tensor = generator.standard_normal((6, 64)).astype(np.float32)
        kind = gguf.GGMLQuantizationType[name.upper()]
        writer.add_tensor(f"{name}.weight", gguf.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reads_what_the_package_writes(tmp_path: Path) -> None:
    path = by_package(tmp_path / "a.gguf")
    file, reader = GgufFile(path), gguf.GGUFReader(path)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            ours = file.metadata[key]
            assert (ours.tolist() if isinstance(ours, np.ndarray) else ours) == field.contents()
    assert file.metadata["texts"] == TEXTS
    assert len(file.tensors) == 6
    for tensor in reader.tensors:
        ours = file.read(tensor.name)
        theirs = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        assert tuple(ours.shape) == (6, 64)
        assert torch.equal(expand(ours), theirs)


def test_the_package_reads_what_we_write(tmp_path: Path) -> None:
    tensor = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    tensors: dict[str, torch.Tensor | Packed] = {
        "a.weight": tensor,
        "b.weight": tensor.bfloat16(),
        "c.weight": pack(tensor, "q4_0"),
        "odd.weight": torch.ones(3),
        "experts.weight": pack(torch.stack([tensor, 2 * tensor]), "q8_0"),
    }
    metadata = {
        "general.architecture": "qwen2",
        "n": 3,
        "big": 2**40,
        "less": -4,
        "f": 0.25,
        "b": True,
        "s": TEXTS,
        "i": [1, 2],
    }
    write_gguf(tmp_path / "b.gguf", metadata, tensors)
    reader = gguf.GGUFReader(tmp_path / "b.gguf")
    assert {key: reader.fields[key].contents() for key in metadata} == metadata
    ours = GgufFile(tmp_path / "b.gguf")
    for found in reader.tensors:
        theirs = torch.from_numpy(gguf.dequantize(found.data, found.tensor_type).copy())
        assert torch.equal(theirs.reshape(tensors[found.name].shape), expand(tensors[found.name]))
        assert torch.equal(expand(ours.read(found.name)), expand(tensors[found.name]))


def test_versions_and_types_are_refused_by_name(tmp_path: Path) -> None:
    raw = bytearray(by_package(tmp_path / "a.gguf").read_bytes())
    raw[4] = 2
    (tmp_path / "v2.gguf").write_bytes(raw)
    assert len(GgufFile(tmp_path / "v2.gguf").tensors) == 6
    raw[4] = 1
    (tmp_path / "v1.gguf").write_bytes(raw)
    with pytest.raises(Unsupported, match="version 1"):
        GgufFile(tmp_path / "v1.gguf")
    writer = gguf.GGUFWriter(tmp_path / "iq.gguf", "qwen2")
    kind = gguf.GGMLQuantizationType.IQ4_XS
    writer.add_tensor("w", np.zeros((2, 136), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(Unsupported, match="IQ4_XS"):
        GgufFile(tmp_path / "iq.gguf")
    (tmp_path / "no.gguf").write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(FormatError, match="not a GGUF"):
        GgufFile(tmp_path / "no.gguf")


def test_split_files(tmp_path: Path) -> None:
    tensors = {f"blk.{i}.attn_q.weight": torch.full((2, 2), float(i)) for i in range(4)}
    names = list(tensors)
    for number in (1, 2):
        part = {name: tensors[name] for name in names[2 * (number - 1) : 2 * number]}
        metadata = {"general.architecture": "qwen2"} if number == 1 else {}
        metadata |= {"split.no": number - 1, "split.count": 2, "split.tensors.count": 4}
        write_gguf(tmp_path / f"m-{number:05d}-of-00002.gguf", metadata, part)
    parts = open_parts(tmp_path / "m-00002-of-00002.gguf")
    assert [name for part in parts for name in part.tensors] == names
    assert parts[1].read(names[3]).tolist() == [[3, 3], [3, 3]]  # type: ignore[union-attr]
    (tmp_path / "m-00002-of-00002.gguf").rename(tmp_path / "alone.gguf")
    with pytest.raises(ModelNotFound, match="m-00002-of-00002"):
        open_parts(tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(FormatError, match="one of 2 parts"):
        open_parts(tmp_path / "alone.gguf")
    for name in ("m-00001-of-00000.gguf", "m-00003-of-00002.gguf"):  # no part of any
        write_gguf(tmp_path / name, {"general.architecture": "qwen2"}, tensors)
        (alone,) = open_parts(tmp_path / name)
        assert list(alone.tensors) == names


@pytest.mark.parametrize("at", [8, 16])
@pytest.mark.parametrize("claimed", [2**63, 2**40, 10**6])
def test_runaway_counts(tmp_path: Path, at: int, claimed: int) -> None:
    raw = bytearray(by_package(tmp_path / "a.gguf").read_bytes())
    raw[at : at + 8] = struct.pack("<Q", claimed)
    (tmp_path / "bad.gguf").write_bytes(raw)
    with pytest.raises(FormatError, match="claimed"):
        GgufFile(tmp_path / "bad.gguf")


def test_overlap_and_end(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(path, {}, {"one": torch.zeros(64), "two": torch.zeros(64)})
    raw = path.read_bytes()
    offset = raw.index(b"two") + 3 + 4 + 8 + 4  # after dimensions, size and type
    for wrong, text in ((0, "overlaps"), (288, "ends at"), (8, "offset"), (2**63, "offset")):
        (tmp_path / "bad.gguf").write_bytes(raw[:offset] + struct.pack("<Q", wrong) + raw[offset + 8 :])
        with pytest.raises(FormatError, match=text):
            GgufFile(tmp_path / "bad.gguf")
    path.write_bytes(raw[:-10])
    with pytest.raises(FormatError, match="truncated"):
        GgufFile(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return by_package(tmp_path_factory.mktemp("good") / "a.gguf").read_bytes()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzzed(good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Flipped bytes and cut ends: the file opens or a named error says why; nothing else."""
    raw = bytearray(good)
    head = 900  # where the tables are
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, head))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    path = tmp_path_factory.getbasetemp() / "fuzzed.gguf"
    path.write_bytes(raw)
    said = str(path)
    try:
        file = GgufFile(path)
        for key in file.metadata:
            file.metadata[key]
        for name in file.tensors:
            expand(file.read(name)).isnan().any()
    except ParityError as error:
        said = str(error)
    assert str(path) in said
