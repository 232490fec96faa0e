"""Signed packs and reports: by whom, and what happens to those that were changed."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.core.errors import FormatError, HashMismatch, UsageError
from parity.verify.command import main
from parity.verify.packs import Pack, PackWriter
from parity.verify.packs.container import Reader, Writer, canonical_json
from parity.verify.packs.signature import Signer, read_signature, require
from parity.verify.record import Identity
from parity.verify.report.write import read_report
from parity.verify.run import verify
from parity.verify.settings import Settings

from .conftest import PLAN, make_record

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519", reason="cryptography is not installed")


def write_key(path: Path, seed: int) -> Path:
    from cryptography.hazmat.primitives import serialization as s

    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    path.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    return path


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(write_key(tmp_path / "key.pem", 1))


@pytest.fixture
def signed(tmp_path: Path, signer: Signer) -> Path:
    path, generator = tmp_path / "a.pack", np.random.default_rng(0)
    with PackWriter(path, made_by="t", identity=Identity("cpu", "local", "m"), plan=PLAN, signer=signer) as writer:
        writer.add(make_record("p0", generator))
    return path


def reseal(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """The pack with other entries, all hashes right again: what somebody without the key can do."""
    reader = Reader(path)
    entries = {name: reader.read(name) for name in reader}
    change(entries)
    with Writer(path) as writer:
        for name, data in entries.items():
            writer.add(name, data)


def test_a_signed_pack_says_by_whom(signed: Path, signer: Signer, capsys: pytest.CaptureFixture[str]) -> None:
    assert Pack(signed).signed_by == signer.public_key
    require(Pack(signed).signed_by, signer.public_key.upper(), "it")
    assert main(["pack", "show", str(signed)]) == 0
    assert f"signed by    {signer.public_key}" in capsys.readouterr().out


def test_the_signature_is_that_of_the_standard(signed: Path, signer: Signer) -> None:
    """Checked with the library alone, over bytes put together here."""
    reader = Reader(signed)
    rows = [[name, size, hashlib.sha256(reader.read(name)).hexdigest()] for name, size in reader.sizes().items()]
    found = reader.read_json("signature.json")
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(found["public_key"]))
    key.verify(bytes.fromhex(found["signature"]), canonical_json({"entries": [r for r in rows if r[0] != "signature.json"]}))


def test_a_resealed_change_is_found(signed: Path) -> None:
    def other_words(entries: dict[str, bytes]) -> None:
        entries["pack.json"] = entries["pack.json"].replace(b'"m"', b'"n"')

    reseal(signed, other_words)
    with pytest.raises(HashMismatch, match="changed after it was signed"):
        Pack(signed)


def test_another_key_in_its_place_is_found(signed: Path, tmp_path: Path) -> None:
    other = Signer(write_key(tmp_path / "other.pem", 2)).public_key

    def other_key(entries: dict[str, bytes]) -> None:
        entries["signature.json"] = canonical_json(json.loads(entries["signature.json"]) | {"public_key": other})

    reseal(signed, other_key)
    with pytest.raises(HashMismatch, match="another key"):
        Pack(signed)


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"public_key": "ab", "signature": "cd"}, {"public_key": "zz" * 32, "signature": "00" * 64},
     {"public_key": "00" * 32, "signature": "00" * 64, "algorithm": "none"}, {"public_key": 5, "signature": 6}],
)  # fmt: skip
def test_nonsense_for_a_signature(value: object) -> None:
    with pytest.raises(FormatError, match="the signature of it"):
        read_signature(value, "it")


def test_who_must_have_signed(signed: Path, make_pack: Callable[..., Path], signer: Signer, tmp_path: Path) -> None:
    unsigned = make_pack("plain.pack")
    assert Pack(unsigned).signed_by is None
    settings = Settings(out=tmp_path / "out", signed_by=signer.public_key, suite="quick")
    with pytest.raises(UsageError, match="is not signed"):
        verify(str(signed), str(unsigned), settings)
    with pytest.raises(UsageError, match="not by"):
        verify(str(signed), str(signed), Settings(out=tmp_path / "out", signed_by="ab" * 32))


def test_a_report_is_signed_and_read_again(signed: Path, signer: Signer, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    main(["verify", str(signed), str(signed), "--out", str(out), "--sign", str(tmp_path / "key.pem")])
    capsys.readouterr()
    data, by = read_report(out / "report.json")
    assert by == signer.public_key == data["sides"]["a"]["signed_by"]
    assert main(["pack", "show", str(out / "report.json")]) == 0
    assert signer.public_key in capsys.readouterr().out
    text = (out / "report.json").read_text()
    (out / "report.json").write_text(text.replace(data["verdict"]["word"], "IDENTICAL?"))
    with pytest.raises(HashMismatch, match="changed after it was signed"):
        read_report(out / "report.json")


@pytest.mark.parametrize(("content", "word"), [(None, "cannot read"), (b"x", "no private key"), ("rsa", "another kind")])
def test_bad_keys(tmp_path: Path, content: bytes | str | None, word: str) -> None:
    path = tmp_path / "bad.pem"
    if content == "rsa":
        from cryptography.hazmat.primitives import serialization as s
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        content = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(UsageError, match=word) as caught:
        Signer(path)
    assert "openssl genpkey" in str(caught.value)


def test_without_the_library(signed: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, tmp_path: Path) -> None:
    """A signed pack is still read, and it is said that nobody checked; nothing can be signed or required."""
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert Pack(signed).signed_by is None
    assert "was not checked" in caplog.text
    with pytest.raises(UsageError, match=r"parity-llm\[sign\]"):
        Signer(tmp_path / "key.pem")
