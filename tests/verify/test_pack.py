"""What was written is read back, bit for bit; anything else is refused with a clear word, quickly and in little memory."""

from __future__ import annotations

import errno
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity.core.errors import FormatError, HashMismatch
from parity.core.whole import write_whole
from parity.verify.packs import Pack, PackWriter
from parity.verify.packs.codec import decode_record, encode_record
from parity.verify.packs.container import Reader, Writer, canonical_json, parse_json
from parity.verify.packs.pack import distinct_bytes
from parity.verify.record import Exact, Identity, Layers

from .conftest import PLAN, make_record

MakePack = Callable[..., Path]


def use_all(path: Path) -> None:
    pack = Pack(path)
    for _ in pack:
        pass
    pack.exact()
    pack.layers()
    pack.isolated()
    pack.sizes()


def test_round_trip(make_pack: MakePack) -> None:
    rng = np.random.Generator(np.random.Philox(key=1))
    pack = Pack(make_pack())
    assert pack.identity.weights == "ab" * 32
    assert pack.plan == PLAN
    assert pack.summary.unreached == {"level 6": "no chat"}
    assert pack.exact() == {"matmul": Exact("ee" * 32, "ee" * 32)}
    for record in pack:
        wanted = make_record(record.id, rng)
        assert encode_record(record) == encode_record(wanted)
        np.testing.assert_array_equal(record.paths["stepwise"].top.ids, wanted.paths["stepwise"].top.ids)
    layers = pack.layers()
    assert layers is not None
    assert layers.sites == ((0, "stream"), (1, "stream"))
    np.testing.assert_array_equal(layers.values[1], layers.values[0] + 1)


def test_the_same_contents_have_the_same_hash(make_pack: MakePack) -> None:
    a, b, other = make_pack("a.pack"), make_pack("b.pack"), make_pack("c.pack", seed=2)
    assert a.read_bytes() == b.read_bytes()
    assert Pack(a).hash == Pack(b).hash != Pack(other).hash


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "x.pack")
    with pytest.raises(FormatError, match="at most"), writer:
        writer.add("a.json", bytes(257 << 20))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.pack"
    part = tmp_path / "x.pack.part"
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full, Writer(path) as writer:
        writer.add_json("a.json", list(range(10_000)))
    assert full.value.filename == str(path)
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full, Writer(path):
        pass  # what is buffered goes out at the end
    assert full.value.filename == str(path)
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full:
        write_whole(path, b"x")
    assert full.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 7, 8, 40, 64, 200, -1])
def test_truncated(make_pack: MakePack, cut: int) -> None:
    path = make_pack()
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FormatError, match=r"truncated|not a parity pack"):
        use_all(path)


def test_trailing_bytes_are_refused(make_pack: MakePack) -> None:
    path = make_pack()
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(FormatError, match="does not end where the file does"):
        use_all(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + b"x" * 100, b"{}", b"GGUF" * 40])
def test_foreign(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pack"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="is not a parity pack"):
        use_all(path)


def test_missing_and_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FormatError, match="cannot read the pack"):
            Pack(path)


@pytest.mark.parametrize(("version", "word"), [(0, "an older"), (2, "a newer")])
def test_other_format_versions(make_pack: MakePack, version: int, word: str) -> None:
    path = make_pack()
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<I", version)
    path.write_bytes(data)
    with pytest.raises(FormatError, match=f"{word} pack format"):
        use_all(path)


def test_one_flipped_bit_anywhere_is_found(make_pack: MakePack) -> None:
    path = make_pack(records=1)
    data = path.read_bytes()
    for offset in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[offset] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(FormatError):
            use_all(path)


def test_a_changed_entry_is_named(make_pack: MakePack) -> None:
    path = make_pack()
    data = bytearray(path.read_bytes())
    data[70] ^= 255
    path.write_bytes(data)
    with pytest.raises(HashMismatch, match=r"prompts/00000\.json"):
        use_all(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 400))
def test_fuzzed_bytes(make_pack: MakePack, noise: bytes, at: int) -> None:
    path = make_pack(records=1)
    data = bytearray(path.read_bytes())
    before = bytes(data)
    data[at : at + len(noise)] = noise
    path.write_bytes(data)
    if bytes(data) == before:
        use_all(path)
    else:
        with pytest.raises(FormatError):
            use_all(path)


def reseal(path: Path, replace: dict[str, bytes]) -> None:
    """The same pack with entries replaced and all hashes made right again: what an adversary would send."""
    reader = Reader(path)
    entries = {name: reader.read(name) for name in reader}
    with Writer(path) as writer:
        for name, data in (entries | replace).items():
            writer.add(name, data)


HUGE_HEADER = struct.pack("<Q", 2**62) + b"{}"
HUGE_SHAPE = canonical_json({"tokens": {"dtype": "I32", "shape": [2**40], "data_offsets": [0, 2**42]}})
LISTS = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("prompts/00000.safetensors", HUGE_HEADER),
        ("prompts/00000.safetensors", struct.pack("<Q", len(HUGE_SHAPE)) + HUGE_SHAPE),
        ("prompts/00000.safetensors", b""),
        ("prompts/00000.safetensors", safetensors.numpy.save({"tokens": np.zeros(3, np.float64)})),
        ("prompts/00000.safetensors", safetensors.numpy.save({"tokens": np.zeros((3, 3), np.int32)})),
        ("prompts/00000.safetensors", safetensors.numpy.save({"answer.tokens": np.full(3, np.nan, np.float32)})),
        ("prompts/00000.safetensors", safetensors.numpy.save({"one_shot.at": np.array([3, 1], np.int32)})),
        ("prompts/00000.json", LISTS),
        ("prompts/00000.json", b'{"id": NaN}'),
        ("prompts/00000.json", b'{"id": "p0", "id": "p1"}'),
        ("prompts/00000.json", b'{"id": 5}'),
        ("prompts/00000.json", b'{"id": "somebody else"}'),
        ("prompts/00000.json", b"9" * 10_000),
        ("prompts/00000.json", b"\xff\xfe"),
        ("pack.json", b"[]"),
        ("pack.json", b'{"format": 2}'),
        ("pack.json", b'{"format": 1}'),
        ("pack.json", b'{"format": 0}'),
        ("exact.json", b'{"a": 1}'),
        ("layers.json", b'{"sites": [[0, "a"], [0, "b"], [0, "c"]], "arrays": [0, 1, 2]}'),
        ("layers.json", b'{"sites": [[0, "a"], [0, "b"]], "arrays": [0]}'),
        ("layers.json", b'{"sites": [["x", 0]], "arrays": [0]}'),
    ],
)
def test_well_sealed_nonsense_is_refused_cheaply(make_pack: MakePack, name: str, data: bytes) -> None:
    path = make_pack()
    reseal(path, {name: data})
    tracemalloc.start()
    with pytest.raises(FormatError):
        use_all(path)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [["../evil.json", 0, "x"]],
        [["a.json", -1, "x"]],
        [["a.json", 2**63, "x"]],
        [["a.json", True, "x"]],
        [["a.py", 0, "x"]],
        [["a.json", 0]],
        [["a.json", 0, "x"], ["a.json", 0, "x"]],
        [["a.json", 1, "x"]] * 70_000,
    ],
)
def test_bad_indexes(tmp_path: Path, rows: object) -> None:
    import hashlib

    index = canonical_json({"entries": rows})
    header = struct.pack("<8sIIQQ32s", b"PARITYPK", 1, 0, 64, len(index), hashlib.sha256(index).digest())
    path = tmp_path / "x.pack"
    path.write_bytes(header + index)
    with pytest.raises(FormatError, match="damaged"):
        Pack(path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_fuzzed_records(text: bytes, data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_record(text, data, "x")


def test_json_is_bounded() -> None:
    with pytest.raises(FormatError, match="at most"):
        parse_json(b" " * (17 << 20), "x")


def test_what_leaves_one_site_and_enters_the_next_is_kept_once(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(key=1))
    one, two = (rng.normal(size=(4, 512)).astype(np.float32) for _ in range(2))
    sites = ((0, "mlp"), (0, "stream"), (1, "self_attn.in"), (1, "self_attn"))
    layers = Layers(np.arange(4, dtype=np.int32), sites, (one, one.copy(), one, two))
    with PackWriter(tmp_path / "a.pack", made_by="test", identity=Identity("cpu", "local", "tiny"), plan=PLAN) as writer:
        writer.add_layers(layers)
    pack = Pack(tmp_path / "a.pack")
    assert distinct_bytes(layers) == 2 * one.nbytes <= pack.sizes()["layers.safetensors"] < 3 * one.nbytes
    found = pack.layers()
    assert found is not None
    assert found.sites == sites
    for value, wanted in zip(found.values, layers.values, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_a_pack_that_cannot_be_closed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(writer: Writer, name: str, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Writer, "add_json", full)
    with (
        pytest.raises(OSError, match="No space"),
        PackWriter(tmp_path / "a.pack", made_by="test", identity=Identity("cpu", "local", "tiny"), plan=PLAN) as writer,
    ):
        writer.add(make_record("one", np.random.default_rng(0)))
    assert list(tmp_path.iterdir()) == []
